"""Checkpoints in the background: the same run, the same content, and every failure told.

The storage of a run is replaced by real storage that first does something of ours: waits, raises,
ends the process. Whatever is written is read back from the disk.
"""

import errno
import gc
import itertools
import os
import signal
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import noether
import noether.running
import noether.store
import noether.training
from noether import (
    Callback,
    CheckpointError,
    HookError,
    Load,
    NonFiniteError,
    Preempted,
    Save,
    Stop,
    TrainState,
    at,
    every,
    hooks,
    once_at_end,
)
from noether.checkpoint import load, newest
from noether.checkpoint.encoding import encode, mapped
from noether.checkpoint.manifest import candidates, read_manifest
from noether.checkpoint.staging import Staging, staged
from noether.checkpoint.verification import verify
from noether.journal import read
from noether.machine import machine, weights_are_finite
from noether.rundir import read_status
from noether.storage import STORAGE, Storage
from tests.strategies import Clock, net, samples, sgd, squared_error

KILLED = 137
SOON = 20.0
"""Seconds after which a wait is given up: nothing comes any more."""
pytestmark = pytest.mark.timeout(120)

# ---------------------------------------------------------------- a run, and its storage


def train(series: Path | None, *callbacks: Callback, **options: Any) -> TrainState:
    given: dict[str, Any] = {
        "model": net(norm=True),
        "train_set": samples(12),
        "loss": squared_error,
        "optimizer": sgd,
        "until": {"updates": 8},
        "batch_size": 4,
        "defaults": False,
        "clock": Clock(),
        "async_save": True,
        **options,
    }
    model, data = given.pop("model"), given.pop("train_set")
    return noether.train(model, data, run_dir=series, callbacks=callbacks, **given)


def saving(updates: int = 2, keep_last: int | None = None) -> Callback:
    return hooks.checkpoint(schedule=every(updates=updates), keep_last=keep_last)


Act = Callable[[str, Path], object]


def tapped(act: Act) -> Storage:
    """Real storage that tells `act` of every call before it is made."""

    def wrapped(name: str) -> Callable[..., Any]:
        function = getattr(STORAGE, name)

        def call(target: Any, *args: Any) -> Any:
            # A file knows its path.
            act(name, target if isinstance(target, Path) else Path(target.name))
            return function(target, *args)

        return call

    names = [field.name for field in fields(Storage) if callable(getattr(STORAGE, field.name))]
    made: dict[str, Any] = {name: wrapped(name) for name in names}
    return Storage(**made)


def numbered(update: int, due: Container[int], act: Act) -> Storage:
    """Storage that acts before calls from the one on that begins the checkpoint of an update.

    Of the many writes into a file only the first three have numbers.
    """
    calls: list[str] = []

    def counted(name: str, path: Path) -> None:
        begins = name == "mkdir" and path.name.startswith(f"step-{update}.tmp")
        again = name == "write" and calls[-3:] == ["write"] * 3
        if (calls or begins) and not again:
            calls.append(name)
            if len(calls) in due:
                act(name, path)

    return tapped(counted)


def full(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def never_finished() -> list[Future[Any]]:
    found = [each for each in gc.get_objects() if type(each) is Future]
    return [future for future in found if not future.done()]


def storage_is_idle() -> None:
    """Wait until nothing is being done in the background."""
    assert not wait(never_finished(), SOON).not_done


def each_update(function: Callable[[int], object]) -> Callback:
    return Callback("each", after_update=lambda state: (function(state.now.update), None)[1])


def at_update(update: int, function: Callable[[], object]) -> Callback:
    return Callback("then", after_update=lambda s: (s.now.update == update and function(), None)[1])


def folder(series: Path) -> Path:
    return series / "1" / "checkpoints"


def latest(series: Path) -> str | None:
    path = folder(series) / "LATEST"
    return path.read_text().strip() if path.exists() else None


def left_aside(series: Path) -> list[str]:
    names = [path.name for path in folder(series).iterdir()]
    return [name for name in names if ".tmp-" in name or ".trash-" in name]


def steps(series: Path) -> list[int]:
    return sorted(manifest.update for manifest in candidates(folder(series)).manifests)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    """Equal in kind, type, shape and every bit, nested values included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        alike = (one.dtype, one.layout, one.shape) == (other.dtype, other.layout, other.shape)
        return alike and torch.equal(_bits(one), _bits(other))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.to_dense() if tensor.layout is not torch.strided else tensor
    tensor = tensor.resolve_conj().resolve_neg()
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    return tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor


def contents(series: Path) -> dict[str, Any]:
    """All checkpoints of a run: what their manifests and their files say."""
    found = {}
    for manifest in candidates(folder(series)).manifests:
        about = {
            k: v for k, v in manifest.content.items() if k not in ("files", "digest", "committed")
        }
        trees = {name: load(manifest.directory, name) for name in manifest.files}
        found[manifest.name] = (about, trees)
    return found


def rows(series: Path, ticks: Container[str] = ("start", "update", "end")) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key != "session"}
        for row in read(series / "1" / "journal.jsonl")
        if row["tick"] in ticks
    ]


# ---------------------------------------------------------------- staging

DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.uint8, torch.bool, torch.complex64),
]
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def plain_tensors(draw: st.DrawFn) -> Tensor:
    shape, dtype = draw(shapes), draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 3).to(dtype)


VIEWS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "same": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.transpose(0, -1),
    "expanded": lambda tensor: tensor[None].expand(3, *tensor.shape),
    "part": lambda tensor: tensor[1:],
    "strided": lambda tensor: tensor[..., ::2],
    "sparse": lambda tensor: tensor.to_sparse(1),
    "not coalesced": lambda tensor: torch.cat([tensor.to_sparse()] * 2),
    "rows": lambda tensor: tensor.to_sparse_csr(),
    "conjugate": lambda tensor: tensor.conj(),
    "negative": lambda tensor: tensor.conj().imag,
}


def fitting(tensor: Tensor) -> list[str]:
    """The views that there are of such a tensor."""
    fits = {
        "transposed": tensor.ndim > 0,
        "part": tensor.ndim > 0,
        "strided": tensor.ndim > 0,
        "sparse": tensor.ndim > 0,
        "not coalesced": tensor.ndim > 0,
        "rows": tensor.ndim == 2 and tensor.numel() > 0,
        "negative": tensor.is_complex(),
    }
    return [name for name in VIEWS if fits.get(name, True)]


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """A tree of tensors, several of which can be views of one memory."""
    owners = draw(st.lists(plain_tensors(), min_size=1, max_size=3))
    views = []
    for owner in draw(st.lists(st.sampled_from(range(len(owners))), max_size=4)):
        views.append(VIEWS[draw(st.sampled_from(fitting(owners[owner])))](owners[owner]))
    tensors = draw(st.permutations([*owners, *views]))
    half = draw(st.integers(0, len(tensors)))
    return {"first": tuple(tensors[:half]), "rest": [{"x": t, 3: 0.5} for t in tensors[half:]]}


def scramble(tree: Any) -> None:
    """Overwrite all memory that a tree's tensors are of."""
    storages: dict[int, Any] = {}

    def note(path: Any, tensor: Tensor) -> None:
        if tensor.layout is torch.sparse_coo:
            tensor = tensor._values()
        if tensor.layout is torch.sparse_csr:
            tensor = tensor.values()
        storages[tensor.data_ptr()] = tensor.untyped_storage()

    mapped(tree, note)
    for storage in {storage.data_ptr(): storage for storage in storages.values()}.values():
        torch.tensor([], dtype=torch.uint8).set_(storage).bitwise_not_()


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@settings(max_examples=80, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=3))
def test_what_is_staged_is_what_was_there_whatever_becomes_of_the_tensors(
    seen: list[dict[str, Any]],
) -> None:
    staging = Staging()
    for tree in seen:  # each in the memory of the one before
        encoded = encode(tree, "tree")
        expected = mapped(encoded, lambda path, tensor: tensor.clone())
        copy = staged(staging, encoded)
        scramble(tree)
        scramble(encoded)
        assert same(copy, expected)
        assert mapped(copy, lambda p, t: t.requires_grad) == mapped(copy, lambda p, t: False)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_memories_may_grow_and_shrink_from_save_to_save(layout: torch.layout) -> None:
    staging = Staging()
    for filled in ([1.0, 0, 2], [0.0, 0, 3], [4.0, 5, 6], [0.0, 0, 0]):
        dense = torch.tensor([filled, filled[::-1]])
        tensor = dense.to_sparse() if layout is torch.sparse_coo else dense.to_sparse_csr()
        copy = staged(staging, {"m": tensor})["m"]
        assert copy.layout is layout
        assert torch.equal(copy.to_dense(), dense)


def pointers(tree: Any) -> dict[Any, int]:
    found: dict[Any, int] = {}
    mapped(tree, lambda path, tensor: found.setdefault(path, tensor.data_ptr()))
    return found


def test_memory_is_taken_once_and_tensors_of_one_memory_stay_so() -> None:
    shared, staging = torch.randn(4, 3), Staging()
    seen = []
    for _ in range(4):
        constant = torch.randn(1).expand(2, 5)
        tree = {"a": shared, "b": shared, "t": shared.t(), "n": torch.ones(()), "e": constant}
        copy = staged(staging, tree)
        shared += 1
        assert copy["a"].data_ptr() == copy["b"].data_ptr() != shared.data_ptr()
        seen.append(pointers(copy))
    assert seen == [seen[0]] * 4


# ---------------------------------------------------------------- the same run


class Tied(nn.Module):
    """Two layers that share one weight, and an expanded constant that is not stored."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.constant: Tensor
        self.register_buffer("constant", torch.tensor([0.5]).expand(2), persistent=False)
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.3)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = self.norm(self.drop(self.two(torch.tanh(self.one(inputs)))))
        return inputs[:, :2] * self.constant


@dataclass(frozen=True, slots=True)
class Kept:
    """A memory with tensors of several kinds."""

    moving: Tensor
    view: Tensor
    spread: Tensor
    sparse: Tensor
    empty: Tensor
    values: tuple[float, ...] = ()


def remembering() -> Callback:
    """A memory that is changed in place after each update."""

    def begin(state: TrainState) -> Kept:
        moving = torch.arange(6.0).reshape(2, 3)
        single = torch.ones(1)
        return Kept(moving, moving.t(), single.expand(4), torch.eye(3).to_sparse(), torch.empty(0))

    def change(state: TrainState, kept: Kept) -> tuple[Kept, None]:
        moving = kept.moving.mul_(1.5).add_(state.losses["total"].detach())
        sparse = (torch.eye(3) * state.now.update).to_sparse()
        values = (*kept.values, float(moving.sum()))
        spread = torch.full((1,), float(state.now.update)).expand(4)
        return Kept(moving, moving.t(), spread, sparse, kept.empty, values), None

    return Callback("remembering", init=begin, after_update=change)


def rich(series: Path | None, model: nn.Module, **options: Any) -> TrainState:
    """A run with a bit of everything that a checkpoint holds."""
    saves = [saving(3), hooks.best_checkpoint(metric="loss/online/total/U1", keep_best=2)]
    return train(
        series,
        remembering(),
        hooks.ema(decay=[0.5, 0.9], buffers="average"),
        every(updates=1)(hooks.online_loss()),
        *(saves if series else []),
        model=model,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
        **options,
    )


@pytest.mark.parametrize("made", [Tied, lambda: net(norm=True)], ids=["tied", "net"])
def test_a_run_is_the_same_bit_for_bit_however_it_saves(
    tmp_path: Path, made: Callable[[], nn.Module]
) -> None:
    found = []
    for name in ("none", "sync", "async"):
        series, model = tmp_path / name, made()
        background = name == "async"
        final = rich(series if name != "none" else None, model, async_save=background)
        random = torch.get_rng_state()
        memories = {name: encode(value, name) for name, value in final.memories.items()}
        found.append((weights(model), random, memories, dict(final.metrics)))
    for weight, random, memories, metrics in found[1:]:
        assert same((weight, random, metrics), (*found[0][:2], found[0][3]))
        assert all(same(memories[name], found[0][2][name]) for name in found[0][2])
    assert rows(tmp_path / "async") == rows(tmp_path / "sync")
    one, other = contents(tmp_path / "sync"), contents(tmp_path / "async")
    assert len(one) >= 2
    assert same(one, other)
    assert latest(tmp_path / "sync") == latest(tmp_path / "async")
    if made is Tied:
        tree = load(folder(tmp_path / "async") / "step-6", "weights.pt")
        assert tree["one.weight"].data_ptr() == tree["two.weight"].data_ptr()


def test_a_memory_comes_back_from_a_background_save_as_it_was(tmp_path: Path) -> None:
    whole, model = Tied(), Tied()
    final = rich(None, whole)
    with pytest.raises(Preempted):
        rich(tmp_path, Tied(), counters={"x": sender(5)})
    resumed = rich(tmp_path, model, resume="auto")
    assert same(weights(model), weights(whole))
    for name in ("remembering", "ema"):
        assert same(encode(resumed.memories[name], name), encode(final.memories[name], name))


def sender(batches: int) -> Callable[[Any], int]:
    """A counter that sends SIGTERM at a batch of its first run."""
    seen = itertools.count(1)

    def count(batch: Any) -> int:
        if next(seen) == batches:
            signal.raise_signal(signal.SIGTERM)
        return 1

    return count


# ---------------------------------------------------------------- what is stored, and when


def test_stored_are_the_values_of_the_saves_tick_and_latest_moves_at_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, seen, model = threading.Event(), list[Any](), net(norm=True)
    for pause in ("HEARTBEAT", "ATTENTION"):  # every tick writes the status
        monkeypatch.setattr(noether.running, pause, -1.0)

    def hold(name: str, path: Path) -> None:
        if name == "create" and path.name == "weights.pt":
            assert released.wait(SOON)

    monkeypatch.setattr(noether.store, "STORAGE", tapped(hold))

    def look(update: int) -> None:
        status = read_status(tmp_path / "1")
        seen.append((latest(tmp_path), status["update"], status["at_update"], weights(model)))
        if update == 5:
            assert [name.split(".")[0] for name in left_aside(tmp_path)] == ["step-2"]
            released.set()
            storage_is_idle()

    saves = hooks.checkpoint(schedule=at(updates=2))
    train(tmp_path, each_update(look), saves, model=model, optimizer=adam)
    assert [entry[:3] for entry in seen] == [
        *((None, None, update) for update in range(5)),
        *(("step-2", 2, update) for update in range(5, 8)),
    ]
    tree = load(folder(tmp_path) / "step-2", "weights.pt")
    assert same(dict(tree), seen[1][3])
    assert not same(dict(tree), seen[2][3])
    state = load(folder(tmp_path) / "step-2", "state.pt")
    assert state["progress"]["update"] == 2
    assert {float(each["step"]) for each in state["optimizer"]["state"].values()} == {2.0}


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def test_one_save_at_a_time_in_memory_that_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = {update: threading.Event() for update in range(1, 10)}
    under_way, done, held = set[str](), list[str](), list[dict[Any, int]]()

    def slow(name: str, path: Path) -> None:
        if name == "free":
            return
        assert threading.current_thread() is not threading.main_thread()
        step = path.name.split(".tmp")[0]
        if name == "mkdir":
            under_way.add(step)
            assert under_way == {step}, "two at a time"
            # Each save is slower than the next one comes: training has to wait.
            assert reached[int(step.removeprefix("step-")) + 1].wait(SOON)
        elif name == "replace":
            done.append(under_way.pop())

    monkeypatch.setattr(noether.store, "STORAGE", tapped(slow))
    made: list[Staging] = []

    def making() -> Staging:
        made.append(Staging())
        return made[-1]

    monkeypatch.setattr(noether.training, "Staging", making)

    def note(update: int) -> None:
        reached[update].set()
        (found,) = made
        held.append({path: kept.data_ptr() for path, (_, kept) in found.held.items()})

    try:
        saves = Callback(
            "saves", after_update=lambda s: Save("last", keep_last=1) if s.now.update < 8 else None
        )
        train(tmp_path, each_update(note), saves)
    finally:
        for event in reached.values():
            event.set()
    assert done == [f"step-{update}" for update in range(1, 8)]
    # Momentum is there from the first update on; nothing else is ever added.
    assert len(held[1]) > 10
    assert held[1:] == [held[1]] * 7
    assert latest(tmp_path) == "step-7"


def test_old_checkpoints_are_removed_while_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved_on, seen = threading.Event(), list[list[int]]()

    def hold(name: str, path: Path) -> None:
        if name == "rename" and path.name == "step-2":
            assert threading.current_thread() is not threading.main_thread()
            assert moved_on.wait(SOON)

    monkeypatch.setattr(noether.store, "STORAGE", tapped(hold))

    def look(update: int) -> None:
        if update == 5:
            seen.append(steps(tmp_path))
            moved_on.set()
            storage_is_idle()
            seen.append(steps(tmp_path))

    train(tmp_path, each_update(look), saving(2, keep_last=1), async_save=False)
    assert seen == [[2, 4], [4]]
    assert steps(tmp_path) == [8]


# ---------------------------------------------------------------- failures


def calls_of_a_save(series: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The numbered calls that commit the checkpoint of update 4, and then prune."""
    calls: list[str] = []
    storage = numbered(4, range(1, 10**9), lambda name, path: calls.append(name))
    monkeypatch.setattr(noether.store, "STORAGE", storage)
    train(series, saving(2, keep_last=1), until={"updates": 5})
    monkeypatch.setattr(noether.store, "STORAGE", STORAGE)
    return calls


def test_a_failure_at_any_call_is_told_at_the_next_tick_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = calls_of_a_save(tmp_path / "calls", monkeypatch)
    assert calls.count("replace") == 1
    renamed, pointed = calls.index("rename") + 1, calls.index("replace") + 1
    set_aside = len(calls) - calls[::-1].index("rename")  # the old one, pruned
    unbroken = net(norm=True)
    train(tmp_path / "whole", saving(2, keep_last=1), model=unbroken)
    whole = contents(tmp_path / "whole")["step-8"][1]
    for number in range(1, len(calls) + 1):
        series, model, moved_on = tmp_path / str(number), net(norm=True), threading.Event()
        said, seen = dict[int, str](), list[Any]()
        look = watching(series, said, seen, moved_on, capsys)
        fail = partial(awaited, moved_on, full)
        monkeypatch.setattr(noether.store, "STORAGE", numbered(4, [number], fail))
        capsys.readouterr()
        train(series, each_update(look), saving(2, keep_last=1), model=model)
        assert said.pop(6).count("No space left") == 1, number
        assert "".join(said.values()) + capsys.readouterr().err == ""
        there = [2] if number <= renamed else [2, 4] if number <= set_aside else [4]
        assert seen[0] == ("step-4" if number > pointed else "step-2", there)
        assert not seen[1] or number > set_aside
        assert same(weights(model), weights(unbroken))
        assert rows(series) == rows(tmp_path / "whole")
        assert (steps(series), latest(series)) == ([8], "step-8")
        status = read_status(series / "1")
        assert (status["state"], status["update"]) == ("done", 8)
        assert same(contents(series)["step-8"][1], whole)


def awaited(event: threading.Event, then: Callable[[], object], *_: Any) -> None:
    """Storage that is slow, and then does something."""
    assert event.wait(SOON)
    then()


def watching(
    series: Path,
    said: dict[int, str],
    seen: list[Any],
    moved_on: threading.Event,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[int], None]:
    """What was said before each update; at 5 storage may go on, at 6 it is looked at."""

    def look(update: int) -> None:
        said[update] = capsys.readouterr().err
        if update == 5:
            moved_on.set()
            storage_is_idle()
        if update == 6:
            seen.extend([(latest(series), steps(series)), left_aside(series)])

    return look


def failing_saves(*updates: int) -> Storage:
    """Storage on which the first attempts to save these updates fail."""
    left = list(updates)

    def act(name: str, path: Path) -> None:
        step = path.parent.name.split(".tmp")[0]
        if name == "fsync" and path.name == "state.pt" and step in [f"step-{u}" for u in left]:
            left.remove(int(step.removeprefix("step-")))
            full()

    return tapped(act)


@pytest.mark.parametrize("background", [True, False], ids=["async", "sync"])
def test_the_third_failure_in_a_row_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: Any
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(noether.store, "STORAGE", failing_saves(2, 4, 5, 7, 8, 9))
    with pytest.raises(CheckpointError, match=r"update 9 .*No space left"):
        train(
            tmp_path,
            each_update(seen.append),
            saving(1),
            until={"updates": 20},
            async_save=background,
        )
    # The last one is noticed in its own tick, the next, or where the next would be saved.
    assert seen[-1] in ((9, 10) if background else (9,))
    assert steps(tmp_path) == [1, 3, 6]
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("failed", 6)
    assert "No space left" in status["reason"]
    assert latest(tmp_path) == "step-6"
    assert left_aside(tmp_path) == []


def test_a_last_background_save_that_failed_is_made_again_at_the_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noether.store, "STORAGE", failing_saves(8))
    model = net(norm=True)
    train(tmp_path, saving(4), model=model)
    assert (steps(tmp_path)[-1], latest(tmp_path)) == (8, "step-8")
    assert same(dict(load(folder(tmp_path) / "step-8", "weights.pt")), weights(model))
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("done", 8)


def test_a_save_made_again_at_the_close_leaves_the_others_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noether.store, "STORAGE", failing_saves(8))
    train(tmp_path, saving(2, keep_last=None))
    assert steps(tmp_path) == [2, 4, 6, 8]


def test_a_last_background_save_that_fails_again_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noether.store, "STORAGE", failing_saves(8, 8))
    with pytest.raises(CheckpointError, match=r"update 8 .*No space left"):
        train(tmp_path, saving(4))
    assert (steps(tmp_path), latest(tmp_path)) == ([4], "step-4")
    assert read_status(tmp_path / "1")["state"] == "failed"
    model, whole = net(norm=True), net(norm=True)
    train(None, model=whole)
    monkeypatch.setattr(noether.store, "STORAGE", STORAGE)
    assert train(tmp_path, saving(4), model=model, resume="auto").now.update == 8
    assert same(weights(model), weights(whole))


@pytest.mark.parametrize("how", ["end", "preempted", "emergency"])
def test_the_last_save_of_a_run_is_complete_when_the_run_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    threads = set[threading.Thread]()

    def note(name: str, path: Path) -> None:
        if name == "create":
            threads.add(threading.current_thread())

    monkeypatch.setattr(noether.store, "STORAGE", tapped(note))
    act = {
        "end": lambda: None,
        "preempted": lambda: signal.raise_signal(signal.SIGTERM),
        "emergency": lambda: 1 / 0,
    }[how]
    ends = hooks.checkpoint(schedule=once_at_end)
    with pytest.raises((Preempted, HookError)) if how != "end" else nullcontext():
        train(tmp_path, at_update(3, act), ends)
    assert steps(tmp_path) == [8 if how == "end" else 3]
    if how != "emergency":
        assert threads == {threading.main_thread()}, "a final save is made at once"


# ---------------------------------------------------------------- ways out


def twice() -> None:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def poisoned(model: nn.Module, value: float = float("nan")) -> Callable[[], None]:
    def poison() -> None:
        with torch.no_grad():
            next(model.parameters()).view(-1)[1] = value

    return poison


WAYS: Mapping[str, Any] = {
    "done": None,
    "stop": None,
    "hook": HookError,
    "exit": SystemExit,
    "SIGTERM": Preempted,
    "SIGINT": KeyboardInterrupt,
    "SIGINT twice": KeyboardInterrupt,
    "interrupt": KeyboardInterrupt,
    "non-finite": NonFiniteError,
}


def ending(how: str, model: nn.Module) -> Callback:
    """Ends a run after its update 5, or while it is made."""

    def leave() -> NoReturn:
        raise SystemExit(3)

    def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    if how == "stop":
        return Callback(how, after_update=lambda s: Stop("so") if s.now.update == 5 else None)
    acts: dict[str, Callable[[], object]] = {
        "done": lambda: None,
        "hook": lambda: 1 / 0,
        "exit": leave,
        "SIGTERM": lambda: signal.raise_signal(signal.SIGTERM),
        "SIGINT": lambda: signal.raise_signal(signal.SIGINT),
        "SIGINT twice": twice,
        "interrupt": interrupt,
        "non-finite": poisoned(model),
    }
    return at_update(5, acts[how])


@pytest.mark.parametrize("how", WAYS)
def test_a_save_under_way_is_awaited_on_every_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    # Slow storage: it waits for what never comes, until long after training has ended.
    slow = threading.Event()

    def hold(name: str, path: Path) -> None:
        if name == "create" and path.name == "state.pt" and path.parent.name.startswith("step-4."):
            slow.wait(0.2)

    monkeypatch.setattr(noether.store, "STORAGE", tapped(hold))
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    model = net(norm=True)
    expected = pytest.raises(WAYS[how]) if WAYS[how] else nullcontext()
    with expected:
        train(
            tmp_path,
            ending(how, model),
            hooks.checkpoint(schedule=at(updates=4), keep_last=None),
            model=model,
            until={"updates": 5 if how == "done" else 8},
        )
    assert set(threading.enumerate()) == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert left_aside(tmp_path) == []
    assert verify(folder(tmp_path) / "step-4").update == 4
    more = {"SIGTERM": [5], "SIGINT": [5], "SIGINT twice": [5], "hook": [5]}.get(how, [])
    assert steps(tmp_path) == [4, *more]
    assert latest(tmp_path) == f"step-{steps(tmp_path)[-1]}"
    assert read_status(tmp_path / "1")["update"] == steps(tmp_path)[-1]


def test_a_load_at_the_close_waits_for_its_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, model, seen = threading.Event(), net(norm=True), dict[int, Any]()
    monkeypatch.setattr(
        noether.store,
        "STORAGE",
        tapped(lambda name, path: slow.wait(0.2) if name == "rename" else None),
    )

    def save(state: TrainState) -> Save | None:
        seen[state.now.update] = weights(model)
        return Save("chosen") if state.now.update == 7 else None

    chosen = Callback("chosen", after_update=save)
    back = Callback("back", on_schedule=lambda s: Load("chosen"), schedule=once_at_end)
    train(tmp_path, chosen, back, model=model)
    assert same(weights(model), seen[7])
    assert not same(weights(model), seen[8])


# ---------------------------------------------------------------- killed


def in_child(action: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_at_any_call_of_a_background_save_the_run_goes_on_as_unbroken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_of_a_save(tmp_path / "calls", monkeypatch)
    whole, outcomes = net(norm=True), list[int]()
    train(tmp_path / "whole", remembering(), saving(2, keep_last=1), model=whole)
    expected = rows(tmp_path / "whole", ("update", "end"))
    for number in range(1, len(calls) + 1):
        series = tmp_path / str(number)

        def killed(series: Path = series, number: int = number) -> None:
            moved_on = threading.Event()

            def die(name: str, path: Path) -> None:
                moved_on.wait(SOON)
                os._exit(KILLED)

            monkeypatch.setattr(noether.store, "STORAGE", numbered(4, [number], die))
            going = at_update(5, moved_on.set)
            train(series, remembering(), going, saving(2, keep_last=1))

        assert in_child(killed) == KILLED
        found = newest(folder(series))
        assert found is not None
        outcomes.append(found.manifest.update)
        model = net(norm=True)
        train(series, remembering(), saving(2, keep_last=1), model=model, resume="auto")
        assert same(weights(model), weights(whole))
        assert rows(series, ("update", "end")) == expected
        assert steps(series) == [8]
        assert left_aside(series) == []
        one, other = (load(folder(s) / "step-8", "state.pt") for s in (series, tmp_path / "whole"))
        assert same(one["memories"], other["memories"])
        assert same(one["optimizer"], other["optimizer"])
        assert same(one["random"], other["random"])
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {2, 4}


# ---------------------------------------------------------------- not finite

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BAD = [float("nan"), float("inf"), float("-inf")]


def judged(parameters: list[Tensor], buffers: list[Tensor]) -> bool:
    module = nn.Linear(1, 1)
    for number, value in enumerate(parameters):
        learns = value.is_floating_point() or value.is_complex()
        module.register_parameter(f"p{number}", nn.Parameter(value, requires_grad=learns))
    for number, value in enumerate(buffers):
        module.register_buffer(f"b{number}", value)
    made = machine(
        module,
        loss=squared_error,
        optimizer=sgd,
        lr_scheduler=None,
        lr_interval="update",
        precision="fp32",
        clip_norm=None,
        clip_value=None,
        on_nonfinite="raise",
        device=None,
    )
    return weights_are_finite(made)


@st.composite
def held_tensors(draw: st.DrawFn, dtypes: list[torch.dtype]) -> Tensor:
    shape, dtype = draw(shapes), draw(st.sampled_from(dtypes))
    large = torch.finfo(dtype).max if dtype.is_floating_point else 1
    tensor = torch.ones(shape, dtype=dtype) * draw(st.sampled_from([1, large, -large, 0]))
    if tensor.numel() and draw(st.booleans()) and draw(st.booleans()):
        place = draw(st.integers(0, tensor.numel() - 1))
        tensor.view(-1)[place] = draw(st.sampled_from(BAD)) if dtype.is_floating_point else 1
    return tensor.transpose(0, -1) if tensor.ndim and draw(st.booleans()) else tensor


@settings(max_examples=150, deadline=None)
@given(
    st.lists(held_tensors(FLOATS), max_size=3),
    st.lists(held_tensors([*FLOATS, torch.int64, torch.bool]), max_size=3),
)
@example([], [torch.full((40_001,), 1.0).index_fill(0, torch.tensor(40_000), float("nan"))])
def test_weights_are_finite_where_each_number_is(
    parameters: list[Tensor], buffers: list[Tensor]
) -> None:
    expected = all(bool(torch.isfinite(t).all()) for t in (*parameters, *buffers))
    assert judged(parameters, buffers) == expected


@pytest.mark.parametrize("value", [complex("nan"), complex(0, float("inf"))])
def test_complex_weights_are_judged_too(value: complex) -> None:
    fine, bad = torch.ones(3, dtype=torch.complex64), torch.tensor([1, value, 1])
    assert judged([fine], [fine])
    assert not judged([bad], [])
    assert not judged([], [bad])


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("which", ["parameter", "buffer"])
def test_what_is_not_finite_is_never_committed_in_the_background(
    tmp_path: Path, value: float, which: str
) -> None:
    model = net(norm=True)

    def poison() -> None:
        tensors: Iterator[Tensor] = model.parameters() if which == "parameter" else model.buffers()
        with torch.no_grad():
            next(tensors).view(-1)[-1] = value

    with pytest.raises(NonFiniteError, match="update 4"):
        train(tmp_path, at_update(4, poison), saving(2), model=model)
    assert (steps(tmp_path), latest(tmp_path)) == ([2], "step-2")
    tree = load(folder(tmp_path) / "step-2", "weights.pt")
    assert all(bool(torch.isfinite(t).all()) for t in tree.values())
    assert read_manifest(folder(tmp_path) / "step-2").update == 2
    assert read_status(tmp_path / "1")["state"] == "failed"
