"""Checkpoints of several ranks: each writes a part, any number of ranks goes on with them.

The oracle is the run of one rank, made in this process. Run as a script,
`python -m tests.test_ranks_saving SCENARIO SERIES`, this file is one rank of a run that is killed.
"""

import errno
import gc
import io
import json
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import redirect_stderr
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import noether
import noether.running
import noether.store
from noether import Callback, CheckpointError, TrainState, every, hooks
from noether.checkpoint import load, newest
from noether.checkpoint.encoding import encode, mapped
from noether.checkpoint.manifest import INDEX, MANIFEST, candidates, read_manifest, sealed
from noether.checkpoint.verification import verify
from noether.journal import read
from noether.rundir import read_status
from noether.storage import STORAGE, Storage
from tests.group import TIMEOUT, Group, groups, launch
from tests.strategies import net, samples, sgd, squared_error

UPDATES = 8
KILLED = 137
SOON = 20.0
"""Seconds after which a wait is given up: nothing comes any more."""
Groups = Mapping[int, Group]
pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module", name="ranked")
def _ranked() -> Iterator[Groups]:
    with groups(2, 3) as made:
        yield made


# ---------------------------------------------------------------- a run, on one rank or on several


@dataclass(slots=True)
class Pairs:
    """Twenty-four samples in float64 that note which of them were asked for."""

    served: list[int] = field(default_factory=list)
    content: Any = field(default_factory=lambda: samples(24))

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.served.append(index)
        return self.content.inputs[index].double(), self.content.targets[index].double()


@dataclass(slots=True)
class Played:
    """What a rank saw of its run."""

    states: dict[int, Any] = field(default_factory=dict)
    """By update: weights, optimizer and memories, each tensor whole."""
    served: list[int] = field(default_factory=list)
    error: str | None = None
    said: str = ""
    failures: list[str] = field(default_factory=list)
    latest: dict[int, str | None] = field(default_factory=dict)
    aside: dict[int, list[str]] = field(default_factory=dict)
    last: int = 0


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.03)


def moving() -> Callback:
    """A moving average of the weights that goes by their names, and is shared out as they are."""

    def begin(state: TrainState) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in state.model.parameters.items()}

    def move(state: TrainState, means: dict[str, Tensor]) -> tuple[dict[str, Tensor], None]:
        for name, value in state.model.parameters.items():
            means[name].mul_(0.5).add_(value.detach(), alpha=0.5)
        return means, None

    return Callback("mean", init=begin, after_update=move)


def whole(tree: Any) -> Any:
    """A copy of the tree with its tensors whole, on every rank."""
    encoded = encode(tree, "tree")

    def gathered(path: Any, tensor: Any) -> Tensor:
        full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return full.detach().clone()

    return mapped(encoded, gathered)


def play(
    series: str | None,
    parallel: str = "ddp",
    storage: Storage = STORAGE,
    *,
    average: str = "mean",
    norm: bool = False,
    look: Callable[[Played, TrainState], None] | None = None,
    **options: Any,
) -> Played:
    """Train with averages and Adam, saving at every second update; gives what was seen."""
    played, data = Played(), Pairs()
    model = net(dropout=0.0, norm=norm).double()
    made: list[torch.optim.Optimizer] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made.append(adam(parameters))
        return made[0]

    def note(state: TrainState) -> None:
        played.last = state.now.update
        played.states[state.now.update] = whole(
            {
                "weights": dict(model.state_dict()),
                "optimizer": made[0].state_dict(),
                "average": getattr(state.memories[average], "weights", state.memories[average]),
            }
        )
        if look is not None:
            look(played, state)

    noting = Callback("noting", before_training=note, after_update=note)
    saving = hooks.checkpoint(schedule=every(updates=2), keep_last=None)
    averages = {"mean": moving(), "ema": hooks.ema(decay=0.5, buffers="average")}
    given: dict[str, Any] = {
        "until": {"updates": UPDATES},
        "callbacks": [averages[average], noting, *([saving] if series else [])],
        "defaults": False,
        "batch_size": 6,
        **options,
    }
    noether.store.STORAGE = storage  # type: ignore[attr-defined]
    gc.collect()
    heard = io.StringIO()
    try:
        with redirect_stderr(heard):
            noether.train(
                model,
                data,
                loss=squared_error,
                optimizer=optimizer,
                run_dir=series,
                parallel=parallel,
                **given,
            )
    except CheckpointError as error:
        played.error = str(error)
    finally:
        noether.store.STORAGE = STORAGE  # type: ignore[attr-defined]
    played.served, played.said = data.served, heard.getvalue()
    return played


def folder(series: Path | str) -> Path:
    return Path(series) / "1" / "checkpoints"


def step(series: Path | str, update: int) -> Path:
    return folder(series) / f"step-{update}"


def latest(series: Path | str) -> str | None:
    path = folder(series) / "LATEST"
    return path.read_text().strip() if path.exists() else None


def left_aside(series: Path | str) -> list[str]:
    return [path.name for path in folder(series).iterdir() if ".tmp-" in path.name]


def steps(series: Path | str) -> list[int]:
    return sorted(manifest.update for manifest in candidates(folder(series)).manifests)


def same(one: Any, other: Any) -> bool:
    """Equal in kind, type, shape and every bit, nested values included."""
    if isinstance(one, Tensor):
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and torch.equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def near(one: Any, other: Any) -> bool:
    """As `same`, but for rounding: sums over ranks are made in another order."""
    found: list[Tensor] = []
    mapped(one, lambda path, tensor: found.append(tensor))
    others: list[Tensor] = []
    mapped(other, lambda path, tensor: others.append(tensor))
    assert len(found) == len(others) >= 4
    return all(
        torch.allclose(a, b, rtol=1e-7, atol=1e-10) for a, b in zip(found, others, strict=True)
    )


# ---------------------------------------------------------------- another number of ranks

CHANGES = [
    (2, "ddp", [(1, "ddp"), (3, "ddp"), (3, "fsdp")]),
    (3, "ddp", [(2, "ddp"), (1, "ddp")]),
    (2, "fsdp", [(1, "ddp"), (3, "fsdp"), (2, "ddp")]),
    (3, "fsdp", [(2, "fsdp"), (1, "fsdp")]),
    (1, "ddp", [(2, "ddp"), (2, "fsdp")]),
]


def on(ranked: Groups, ranks: int, *args: Any, **options: Any) -> list[Played]:
    """A run on so many ranks; one of one rank is made in this process."""
    call = partial(play, *args, **options)
    return [call()] if ranks == 1 else ranked[ranks].call(called, args, options)


def called(args: tuple[Any, ...], options: dict[str, Any]) -> Played:
    return play(*args, **options)


@pytest.fixture(scope="module", name="unbroken")
def _unbroken() -> Played:
    return play(None)


@pytest.mark.parametrize("background", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("saving", "parallel", "resuming"), CHANGES)
def test_a_checkpoint_goes_on_exactly_on_another_number_of_ranks(
    ranked: Groups,
    tmp_path: Path,
    unbroken: Played,
    background: bool,  # noqa: FBT001
    saving: int,
    parallel: str,
    resuming: list[tuple[int, str]],
) -> None:
    series, mean = str(tmp_path / "runs"), "ema" if (saving, parallel) == (3, "ddp") else "mean"
    saved = on(ranked, saving, series, parallel, async_save=background, average=mean)
    assert steps(series) == [2, 4, 6, 8]
    for played in saved:
        assert same(played.states, saved[0].states)
    weights = [played.states[UPDATES]["weights"] for played in (saved[0], unbroken)]
    assert near(*weights)
    # In mid-epoch, where one ends, and on a tick that has nothing after it.
    for (ranks, way), update in zip(resuming, (2, 4, 6), strict=False):
        found = str(step(series, update))
        results = on(ranked, ranks, series, way, resume=found, average=mean)
        for result in results:
            assert same(result.states[update], saved[0].states[update])
            assert near(result.states[UPDATES], saved[0].states[UPDATES])
        served = Counter(number for result in results for number in result.served)
        assert served == Counter(unbroken.served[6 * update :])


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_in_the_background_ranks_store_and_train_bit_for_bit_the_same(
    ranked: Groups, tmp_path: Path, parallel: str
) -> None:
    plain = ranked[2].call(play, None, parallel)
    one = on(ranked, 2, str(tmp_path / "sync"), parallel)
    other = on(ranked, 2, str(tmp_path / "async"), parallel, async_save=True)
    for a, b, c in zip(plain, one, other, strict=True):
        assert same(a.states, b.states)
        assert same(a.states, c.states)
    apart = ("progress", "journal")  # they hold the seconds, or depend on them
    for update in (2, 4, 6, 8):
        found = [step(tmp_path / name, update) for name in ("sync", "async")]
        assert [sorted(os.listdir(path)) for path in found] == [FILES, FILES]
        assert same(*(dict(load(path, "weights.pt")) for path in found))
        assert same(*({**load(path, "state.pt"), **dict.fromkeys(apart)} for path in found))
        assert [read_index(path) for path in found] == [read_index(found[0])] * 2
    kinds = ("update", "effects", "metrics")
    rows = [list(read(tmp_path / name / "1/journal.jsonl")) for name in ("sync", "async")]
    assert [[row[kind] for kind in kinds] for row in rows[0]] == [
        [row[kind] for kind in kinds] for row in rows[1]
    ]


FILES = ["manifest.json", "rank-0.pt", "rank-1.pt", "state.pt", "tensors.json", "weights.pt"]


def read_index(path: Path) -> Any:
    return json.loads((path / INDEX).read_text())


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_each_tensor_is_written_once_and_the_ranks_share_the_bytes(
    ranked: Groups, tmp_path: Path, ranks: int, parallel: str
) -> None:
    on(ranked, ranks, str(tmp_path), parallel, until={"updates": 2})
    path = step(tmp_path, 2)
    files = [torch.load(path / f"rank-{rank}.pt", weights_only=True) for rank in range(ranks)]
    index, parts = read_index(path), Counter[tuple[str, int]]()
    model = net().double()
    learned = dict(model.named_parameters())
    for name, kept in index.items():
        file, *where = json.loads(name)
        assert (file == "weights.pt") == (where[-1] in learned and len(where) == 1)
        filled = 0
        for part, number, _, sizes in kept["parts"]:
            tensor = files[int(part[5:-3])][number]
            assert list(tensor.shape) == sizes
            filled += tensor.numel()
            parts[part, number] += tensor.numel() > 0
        assert filled == torch.Size(kept["size"]).numel(), name
        assert parallel == "fsdp" or len(kept["parts"]) == 1
    assert set(parts.values()) <= {0, 1}
    assert sum(parts.values()) == sum(t.numel() > 0 for tensors in files for t in tensors)
    states = [name for name in index if json.loads(name)[1:3] == ["optimizer", "state"]]
    assert len(states) == 3 * len(learned), "a step and two moments of each weight"
    loads = [sum(tensor.nbytes for tensor in tensors) for tensors in files]
    largest = max(tensor.nbytes for tensors in files for tensor in tensors)
    rows = sum(8 * torch.Size(kept["size"][1:]).numel() for kept in index.values())
    assert max(loads) - min(loads) <= (largest if parallel == "ddp" else rows)
    # What is spread has left no second copy in the trees of rank 0.
    for file in ("weights.pt", "state.pt"):
        tree = torch.load(path / file, weights_only=True)
        left: dict[str, int] = {}
        mapped(tree, partial(_note_size, left, file))
        assert {left[name] for name in left if name in index} == {0}


def _note_size(sizes: dict[str, int], file: str, path: tuple[Any, ...], tensor: Tensor) -> None:
    sizes[json.dumps([file, *path])] = tensor.numel()


class Uneven(nn.Module):
    """Fewer rows than ranks, no rows at all, tied weights, and a weight that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.one, self.two = nn.Linear(3, 1), nn.Linear(1, 2)
            self.left, self.right = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.right.weight = self.left.weight
        self.none = nn.Parameter(torch.zeros(0, 2))
        self.still = nn.Parameter(torch.ones(()), requires_grad=False)
        self.single = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.two(self.one(self.right(self.left(inputs))))
        return found * self.still * self.single + self.none.sum()


def uneven(series: str, parallel: str, resume: str) -> tuple[Any, Any, bool]:
    """The weights at the beginning and the end; whether two of them are one."""
    model = Uneven().double()
    seen: list[Any] = []

    def note(state: TrainState) -> None:
        seen.append(whole(dict(model.state_dict())))

    noether.train(
        model,
        Pairs(),
        loss=squared_error,
        optimizer=sgd,
        until={"updates": 4},
        batch_size=6,
        callbacks=[
            Callback("note", before_training=note, after_training=note),
            hooks.checkpoint(schedule=every(updates=2), keep_last=None),
        ],
        defaults=False,
        parallel=parallel,
        run_dir=series,
        resume=resume,
    )
    return seen[0], seen[1], model.left.weight is model.right.weight


def test_weights_of_any_shape_and_tied_ones_are_put_together_again(
    ranked: Groups, tmp_path: Path
) -> None:
    expected = uneven(str(tmp_path / "one"), "ddp", "never")
    for saving, resuming in ((3, 2), (2, 3), (2, 1)):
        series = str(tmp_path / f"{saving}{resuming}")
        ended = ranked[saving].call(uneven, series, "ddp", "never")
        path = str(step(series, 2))
        call = (series, "ddp", path)
        again = [uneven(*call)] if resuming == 1 else ranked[resuming].call(uneven, *call)
        middle = load(step(series, 2), "weights.pt")
        assert same(dict(load(step(series, 4), "weights.pt")), ended[0][1])
        for begun, final, tied in again:
            assert tied
            assert same(begun, dict(middle))
            for name, value in final.items():
                torch.testing.assert_close(value, expected[1][name], rtol=1e-7, atol=1e-10)


def test_parts_of_fewer_rows_than_ranks_are_put_together_again(
    ranked: Groups, tmp_path: Path
) -> None:
    series = str(tmp_path)
    ended = ranked[3].call(slim, series, "never")
    weights = load(step(series, 4), "weights.pt")
    assert same(dict(weights), ended[0][1])
    for ranks in (2, 3):
        for begun, final in ranked[ranks].call(slim, series, str(step(series, 2))):
            assert same(begun, dict(load(step(series, 2), "weights.pt")))
            for name, value in final.items():
                torch.testing.assert_close(value, ended[0][1][name], rtol=1e-7, atol=1e-10)


def slim(series: str, resume: str) -> tuple[Any, Any]:
    """A shared out model of one hidden unit; its weights at the beginning and the end."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(3, 1), nn.Tanh(), nn.Linear(1, 2)).double()
    seen: list[Any] = []

    def note(state: TrainState) -> None:
        seen.append(whole(dict(model.state_dict())))

    noether.train(
        model,
        Pairs(),
        loss=squared_error,
        optimizer=adam,
        until={"updates": 4},
        batch_size=6,
        callbacks=[
            Callback("note", before_training=note, after_training=note),
            hooks.checkpoint(schedule=every(updates=2), keep_last=None),
        ],
        defaults=False,
        parallel="fsdp",
        run_dir=series,
        resume=resume,
    )
    return seen[0], seen[1]


@pytest.mark.parametrize("background", [False, True], ids=["sync", "async"])
def test_buffers_are_those_of_rank_0(ranked: Groups, tmp_path: Path, background: bool) -> None:  # noqa: FBT001
    series = str(tmp_path)
    first, second = ranked[2].call(called, (series,), {"norm": True, "async_save": background})
    one, other = first.states[4]["weights"], second.states[4]["weights"]
    assert not torch.equal(one["1.running_mean"], other["1.running_mean"])
    stored = load(step(series, 4), "weights.pt")
    assert same(dict(stored), one)
    resumed = ranked[2].call(
        called, (series, "ddp"), {"norm": True, "resume": str(step(series, 4))}
    )
    for result in resumed:
        assert same(result.states[4]["weights"], one)
    assert same(resumed[0].states[UPDATES], first.states[UPDATES])


# ---------------------------------------------------------------- failures


def storage_is_idle() -> None:
    """Wait until nothing is being done in the background."""
    found = [each for each in gc.get_objects() if type(each) is Future]
    assert not wait([future for future in found if not future.done()], SOON).not_done


def failures() -> list[str]:
    """What the run's store has noted."""
    stores = [each for each in gc.get_objects() if type(each) is noether.store.Store]
    return [str(error) for store in stores for error in store.failures]


def operations() -> list[str]:
    """The names of what a storage does."""
    names = [f.name for f in fields(Storage)]
    return [name for name in names if callable(getattr(STORAGE, name))]


@dataclass(slots=True)
class Faulty:
    """Storage whose operation fails, the first time, in saves of some updates."""

    operation: str
    updates: list[int]
    calls: list[str] = field(default_factory=list)

    def storage(self) -> Storage:
        made: dict[str, Any] = {name: partial(self.call, name) for name in operations()}
        return Storage(**made)

    def call(self, name: str, target: Any, *args: Any) -> Any:
        path = target if isinstance(target, Path) else Path(target.name)
        self.calls.append(f"{name} {path.name.split('.tmp')[0]}")
        at = [u for u in self.updates if f"step-{u}.tmp" in str(path)]
        if name == "replace" and self.updates:  # the pointer does not say of what
            at = self.updates[:1] if f"rename step-{self.updates[0]}" in self.calls else []
        if name == self.operation and at:
            self.updates.remove(at[0])
            raise OSError(errno.ENOSPC, f"no room on rank {os.environ['RANK']}")
        return getattr(STORAGE, name)(target, *args)


def failing(
    series: str, operation: str, rank: int, updates: list[int], options: dict[str, Any]
) -> tuple[Played, list[str]]:
    """A run in which an operation fails on one rank, in its saves of these updates."""
    here = int(os.environ["RANK"]) == rank
    faulty = Faulty(operation, updates if here else [])

    def look(played: Played, state: TrainState) -> None:
        update = state.now.update
        if state.event == "update" and update == 5:
            storage_is_idle()
        if state.event == "update" and update == 6:
            played.failures = failures()
            played.latest[update] = latest(series)
            played.aside[update] = left_aside(series)

    played = play(series, "ddp", faulty.storage(), look=look, **options)
    assert not faulty.updates or not here, "nothing has failed"
    return played, faulty.calls


OPERATIONS = ["mkdir", "create", "write", "fsync", "close", "sync_directory", "rename", "replace"]
TABLE = [*((0, operation) for operation in OPERATIONS), *((1, op) for op in OPERATIONS[1:5])]


@pytest.mark.parametrize("background", [False, True], ids=["sync", "async"])
def test_a_save_that_fails_on_one_rank_is_told_on_all_and_they_go_on(
    ranked: Groups,
    tmp_path: Path,
    unbroken: Played,
    background: bool,  # noqa: FBT001
) -> None:
    for rank, operation in TABLE if background else TABLE[::3]:
        series, case = tmp_path / f"{rank}-{operation}", (rank, operation)
        options = {"async_save": background}
        results = ranked[2].call(failing, str(series), operation, rank, [4], options)
        for played, _ in results:
            assert played.error is None, case
            assert len(played.failures) == 1, case
            named = f"rank {rank}: [Errno 28] no room on rank {rank}"
            assert "update 4" in played.failures[0], case
            assert named in played.failures[0], case
            assert played.latest == {6: "step-2"}, case
            assert played.aside == {6: []}, case
            assert near(played.states[UPDATES], unbroken.states[UPDATES]), case
        assert same(results[0][0].states, results[1][0].states)
        assert results[0][0].said.count("no room on rank") == 1, case
        assert "training goes on" in results[0][0].said
        assert results[1][0].said == ""
        there = [2, 4, 6, 8] if operation == "replace" else [2, 6, 8]
        assert (steps(series), latest(series)) == (there, "step-8"), case
        assert left_aside(series) == []
        assert read_status(series / "1")["state"] == "done"
        others = {f"{name} rank-1.pt" for name in ("create", "write", "fsync", "close")}
        assert set(results[1][1]) <= others, "only rank 0 writes what is not its part"
        assert {manifest.update for manifest in map(verify, map(partial(step, series), there))}


@pytest.mark.parametrize("background", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("rank", [0, 1])
def test_the_third_failure_in_a_row_ends_all_ranks_together(
    ranked: Groups,
    tmp_path: Path,
    unbroken: Played,
    rank: int,
    background: bool,  # noqa: FBT001
) -> None:
    series = tmp_path / "runs"
    options = {"async_save": background, "until": {"updates": 30}}
    results = ranked[2].call(failing, str(series), "create", rank, [4, 6, 8], options)
    for played, _ in results:
        assert played.error is not None
        assert "update 8" in played.error
        assert f"rank {rank}: [Errno 28] no room on rank {rank}" in played.error
        assert played.last in range(8, 11)
    assert results[0][0].last == results[1][0].last
    assert (steps(series), latest(series)) == ([2], "step-2")
    assert left_aside(series) == []
    status = read_status(series / "1")
    assert (status["state"], status["update"]) == ("failed", 2)
    for result in on(ranked, 2, str(series), resume="auto"):
        assert near(result.states[UPDATES], unbroken.states[UPDATES])
    assert read_status(series / "1")["state"] == "done"


def held(series: str) -> tuple[int, int, int]:
    """Threads, descriptors and children of this process after a run that saves."""
    play(series, async_save=True)
    gc.collect()
    return (
        len(os.listdir("/proc/self/task")),
        len(os.listdir("/proc/self/fd")),
        len(multiprocessing.active_children()),
    )


def test_a_run_on_ranks_leaves_no_thread_and_no_descriptor(ranked: Groups, tmp_path: Path) -> None:
    counted = [ranked[2].call(held, str(tmp_path / str(number))) for number in range(4)]
    assert counted[1:] == [counted[1]] * 3


# ---------------------------------------------------------------- killed


def dying(scenario: str) -> Storage:
    """Storage on which this process ends while the checkpoint of update 4 is saved."""
    rank, operation, _ = scenario.split("-")

    def call(name: str, target: Any, *args: Any) -> Any:
        path = target if isinstance(target, Path) else Path(target.name)
        if name == operation and "step-4.tmp" in str(path) and os.environ["RANK"] == rank:
            os._exit(KILLED)
        return getattr(STORAGE, name)(target, *args)

    made: dict[str, Any] = {name: partial(call, name) for name in operations()}
    return Storage(**made)


def main(scenario: str, series: str) -> None:
    torch.set_num_threads(1)
    background = scenario.endswith("async")
    played = play(series, "ddp", dying(scenario), async_save=background, until={"updates": 100})
    print(played.said, file=sys.stderr)
    sys.exit(1 if played.error else 0)


@pytest.mark.parametrize("scenario", ["1-write-async", "0-rename-async", "1-create-sync"])
def test_a_rank_killed_during_a_save_ends_the_others_soon_and_the_run_can_go_on(
    ranked: Groups, tmp_path: Path, unbroken: Played, scenario: str
) -> None:
    begun, dead = time.monotonic(), int(scenario[0])
    ended = launch(2, ["-m", "tests.test_ranks_saving", scenario, str(tmp_path)])
    assert time.monotonic() - begun < TIMEOUT / 2
    assert ended[dead].returncode == KILLED, ended[dead].errors
    other = ended[1 - dead].returncode
    assert other not in (None, 0), ended[1 - dead].errors
    assert steps(tmp_path) == [2]
    if dead:
        assert read_status(tmp_path / "1")["state"] == "failed"
    found = newest(folder(tmp_path))
    assert found is not None
    assert (found.manifest.update, latest(tmp_path)) == (2, "step-2")
    for result in on(ranked, 3, str(tmp_path), resume="auto"):
        assert near(result.states[UPDATES], unbroken.states[UPDATES])
    assert left_aside(tmp_path) == []
    assert read_status(tmp_path / "1")["state"] == "done"


# ---------------------------------------------------------------- damaged


@pytest.fixture(scope="module", name="written")
def _written(ranked: Groups, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A run of two ranks in each way, stopped before its end."""
    root = tmp_path_factory.mktemp("written")
    for parallel in ("ddp", "fsdp"):
        on(ranked, 2, str(root / parallel), parallel, until={"updates": 4})
    return {parallel: root / parallel for parallel in ("ddp", "fsdp")}


@pytest.mark.parametrize(
    ("parallel", "name", "how"),
    [
        *(("ddp", "rank-0.pt", "torn"), ("ddp", "rank-1.pt", "flipped"), ("ddp", INDEX, "gone")),
        *(("fsdp", "rank-0.pt", "gone"), ("fsdp", "rank-1.pt", "torn"), ("fsdp", INDEX, "flipped")),
    ],
)
def test_a_damaged_file_of_a_rank_sets_the_checkpoint_aside(
    written: Mapping[str, Path],
    tmp_path: Path,
    unbroken: Played,
    parallel: str,
    name: str,
    how: str,
) -> None:
    series = Path(shutil.copytree(written[parallel], tmp_path / "runs"))
    status = series / "1" / "status.json"
    status.write_text(status.read_text().replace('"done"', '"failed"'))
    path = step(series, 4) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content if how == "flipped" else path.read_bytes()[:-1])
    if how == "gone":
        path.unlink()
    with pytest.raises(CheckpointError, match=name):
        load(step(series, 4), "weights.pt"), load(step(series, 4), "state.pt")
    result = play(str(series), resume="auto")
    assert (folder(series) / ".bad-step-4").is_dir()
    assert name in (folder(series) / ".bad-step-4" / "reason.txt").read_text()
    assert min(result.states) == 2
    assert near(result.states[UPDATES], unbroken.states[UPDATES])


# ---------------------------------------------------------------- hostile


@dataclass(frozen=True, slots=True)
class Bomb:
    """Runs code when it is unpickled."""

    marker: str

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def resealed(path: Path) -> None:
    """Let the manifest fit whatever the files hold now."""
    import hashlib

    content = json.loads((path / MANIFEST).read_text())
    for name in content["files"]:
        data = (path / name).read_bytes()
        content["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / MANIFEST).write_text(sealed(content))


def packed(kind: str, bomb: Bomb) -> bytes:
    if kind == "pickle":
        return pickle.dumps([torch.ones(2), bomb])
    sink = io.BytesIO()
    torch.save([torch.ones(2), bomb] if kind == "list" else {"a": bomb}, sink)
    return sink.getvalue()


@pytest.mark.parametrize("forced", [False, True], ids=["plain", "forced"])
@pytest.mark.parametrize("kind", ["pickle", "list", "tree"])
def test_no_file_of_a_checkpoint_ever_runs_code(
    written: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    forced: bool,  # noqa: FBT001
) -> None:
    marker = tmp_path / "ran"
    bomb = packed(kind, Bomb(str(marker)))
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        (tmp_path / "bomb").write_bytes(bomb)
        if kind != "pickle":
            with pytest.warns(UserWarning, match="forcing weights_only=False"):
                torch.load(tmp_path / "bomb")
            assert marker.is_dir(), "it would run"
            marker.rmdir()
    for name in (*FILES[1:], MANIFEST):
        series = Path(shutil.copytree(written["ddp"], tmp_path / name))
        (step(series, 4) / name).write_bytes(bomb)
        if name != MANIFEST:
            resealed(step(series, 4))
        with pytest.raises(CheckpointError, match=name):
            load(step(series, 4), "weights.pt"), load(step(series, 4), "state.pt")
        status = series / "1" / "status.json"
        status.write_text(status.read_text().replace('"done"', '"failed"'))
        played = play(str(series), resume=str(step(series, 4)))
        assert played.error is not None
        assert name in played.error
        assert not marker.exists(), name


Index = dict[str, Any]
WEIGHT = '["weights.pt", "0.weight"]'


def edited(parts: Callable[[list[Any]], Any]) -> Callable[[Index], Index]:
    """The index with the parts of one weight, 5 x 3 in two halves, made others."""

    def edit(index: Index) -> Index:
        kept = index[WEIGHT]
        return {**index, WEIGHT: {**kept, "parts": parts(kept["parts"])}}

    return edit


def entry(**changed: Any) -> Callable[[Index], Index]:
    return lambda index: {**index, WEIGHT: {**index[WEIGHT], **changed}}


def part(place: int, value: Any, which: int = 1) -> Callable[[Index], Index]:
    """The index with one field of a part of it changed: file, number, offsets or sizes."""

    def edit(parts: list[Any]) -> list[Any]:
        changed = [list(each) for each in parts]
        changed[which][place] = value
        return changed

    return edited(edit)


HOSTILE: Mapping[str, Callable[[Index], Any]] = {
    "no index": lambda index: [],
    "a number": lambda index: 3,
    "dtype is a class": entry(dtype="__class__"),
    "dtype is a function": entry(dtype="load"),
    "dtype is a module": entry(dtype="_dynamo"),
    "dtype is no name": entry(dtype=5),
    "dtype is a list": entry(dtype=["float64"]),
    "dtype is unknown": entry(dtype="float65"),
    "other dtype": entry(dtype="float32"),
    "unknown key": entry(code="print"),
    "no size": lambda index: {**index, WEIGHT: {"dtype": "float64", "parts": []}},
    "negative size": entry(size=[-5, 3]),
    "huge size": entry(size=[2**70, 3]),
    "large size": entry(size=[2**40, 2**20]),
    "size is text": entry(size="53"),
    "size is nested": entry(size=[[5], 3]),
    "size is a fraction": entry(size=[5.0, 3]),
    "no part": edited(lambda parts: []),
    "first missing": edited(lambda parts: parts[1:]),
    "last missing": edited(lambda parts: parts[:-1]),
    "first twice": edited(lambda parts: [parts[0], *parts]),
    "first instead of the last": edited(lambda parts: [parts[0], parts[0]]),
    "parts are text": edited(lambda parts: "parts"),
    "part is short": edited(lambda parts: [parts[0][:3], parts[1]]),
    "negative offset": part(2, [-3, 0]),
    "overlapping": part(2, [2, 0]),
    "overlapping and of full volume": edited(
        lambda parts: [parts[0], [*parts[1][:2], [2, 0], [2, 3]]]
    ),
    "beyond": part(2, [4, 0]),
    "huge offset": part(2, [2**70, 0]),
    "large offset": part(2, [2**62, 0]),
    "offset of other length": part(2, [3]),
    "negative sizes": part(3, [-2, 3]),
    "huge sizes": part(3, [2**63, 3]),
    "sizes of another part": part(3, [3, 3]),
    "other number": part(1, 2),
    "negative number": part(1, -1),
    "number beyond": part(1, 10**6),
    "number is text": part(1, "1"),
    "number of another part": part(1, 1, which=0),
    "file outside": part(0, "../step-2/rank-1.pt"),
    "file of the system": part(0, "/etc/hostname"),
    "file with a null": part(0, "rank-1.pt\0"),
    "file is empty": part(0, ""),
    "file is a folder": part(0, "."),
    "file is a number": part(0, 1),
    "file unknown": part(0, "rank-7.pt"),
    "file is a tree": part(0, "weights.pt"),
    "file is the index": part(0, INDEX),
    "file is the manifest": part(0, MANIFEST),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", HOSTILE)
def test_an_index_that_is_not_true_is_an_error_that_says_so(
    written: Mapping[str, Path], tmp_path: Path, how: str
) -> None:
    path = Path(shutil.copytree(step(written["fsdp"], 4), tmp_path / "step-4"))
    index = read_index(path)
    assert [each[2:] for each in index[WEIGHT]["parts"]] == [[[0, 0], [3, 3]], [[3, 0], [2, 3]]]
    (path / INDEX).write_text(json.dumps(HOSTILE[how](index)))
    resealed(path)
    with pytest.raises(CheckpointError, match="step-4") as caught:
        load(path, "weights.pt")
    assert len(str(caught.value)) > len(str(path)) + 20
    played = play(str(tmp_path / "runs"), resume=str(path))
    assert played.error is not None
    assert played.states == {}, "nothing was trained"


@pytest.mark.parametrize("how", ["no part", "last missing", "overlapping", "huge size"])
def test_every_rank_refuses_an_index_that_is_not_true(
    ranked: Groups, written: Mapping[str, Path], tmp_path: Path, how: str
) -> None:
    path = Path(shutil.copytree(step(written["fsdp"], 4), tmp_path / "step-4"))
    (path / INDEX).write_text(json.dumps(HOSTILE[how](read_index(path))))
    resealed(path)
    for played in on(ranked, 2, str(tmp_path / "runs"), "fsdp", resume=str(path)):
        assert played.error is not None
        assert INDEX in played.error
        assert played.states == {}


Box = tuple[tuple[int, int], ...]
"""Offset and length along each axis."""


@st.composite
def splits(draw: st.DrawFn) -> list[Box]:
    """The 5 x 3 numbers of a weight, cut into boxes along either axis again and again."""
    boxes: list[Box] = [((0, 5), (0, 3))]
    for _ in range(draw(st.integers(0, 5))):
        (place, axis) = (draw(st.integers(0, len(boxes) - 1)), draw(st.integers(0, 1)))
        start, length = boxes[place][axis]
        cut = draw(st.integers(0, length))
        for at, more in ((start, cut), (start + cut, length - cut)):
            boxes.append((*boxes[place][:axis], (at, more), *boxes[place][axis + 1 :]))
        boxes.pop(place)
    return draw(st.permutations(boxes))


def in_boxes(path: Path, value: Tensor, boxes: list[Box]) -> None:
    """Let the checkpoint hold one weight in these boxes, all in the file of rank 0."""
    index, file = read_index(path), path / "rank-0.pt"
    tensors = torch.load(file, weights_only=True)
    parts = []
    for box in boxes:
        parts.append([file.name, len(tensors), [at for at, _ in box], [n for _, n in box]])
        (y, height), (x, width) = box
        tensors.append(value[y : y + height, x : x + width].clone())
    torch.save(tensors, file)
    (path / INDEX).write_text(json.dumps({**index, WEIGHT: {**index[WEIGHT], "parts": parts}}))
    resealed(path)


@settings(max_examples=30, deadline=None)
@given(boxes=splits(), data=st.data())
def test_a_tensor_is_put_together_from_boxes_and_only_from_all_of_them(
    written: Mapping[str, Path], boxes: list[Box], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(shutil.copytree(step(written["ddp"], 4), Path(place) / "step-4"))
        value = load(path, "weights.pt")["0.weight"]
        in_boxes(path, value, boxes)
        assert torch.equal(load(path, "weights.pt")["0.weight"], value)
        filled = [box for box in boxes if box[0][1] and box[1][1]]
        box = data.draw(st.sampled_from(filled))
        rest = [other for other in boxes if other is not box]
        (y, height), (x, width) = box
        wrong = {
            "missing": rest,
            "twice": [*boxes, box],
            "moved": [*rest, ((y - 1 if y else 1, height), (x, width))],
            "smaller": [*rest, ((y, height - 1), (x, width))],
            "larger": [*rest, ((y, height), (x, width + 1))],
        }
        in_boxes(path, value, wrong[data.draw(st.sampled_from(sorted(wrong)))])
        with pytest.raises(CheckpointError, match=INDEX):
            load(path, "weights.pt")


@pytest.mark.parametrize(
    "lost",
    [
        WEIGHT,
        '["state.pt", "optimizer", "state", 0, "exp_avg"]',
    ],
)
def test_a_tensor_that_the_index_lacks_is_an_error(
    written: Mapping[str, Path], tmp_path: Path, lost: str
) -> None:
    path = Path(shutil.copytree(step(written["fsdp"], 4), tmp_path / "step-4"))
    index = read_index(path)
    del index[lost]
    (path / INDEX).write_text(json.dumps(index))
    resealed(path)
    played = play(str(tmp_path / "runs"), resume=str(path))
    assert played.error is not None
    assert json.loads(lost)[-1] in played.error


@pytest.mark.parametrize("size", [b"[" * 100_000, b"\xff\xfe", b"", b'{"a": NaN}', b"[1e999]"])
def test_an_index_that_is_no_json_is_an_error(
    written: Mapping[str, Path], tmp_path: Path, size: bytes
) -> None:
    path = Path(shutil.copytree(step(written["ddp"], 4), tmp_path / "step-4"))
    (path / INDEX).write_bytes(size)
    resealed(path)
    with pytest.raises(CheckpointError, match=INDEX):
        load(path, "state.pt")


def test_no_file_name_of_a_manifest_leaves_its_directory(
    written: Mapping[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(step(written["ddp"], 4), tmp_path / "step-4"))
    content = json.loads((path / MANIFEST).read_text())
    content["files"]["../rank-0.pt"] = content["files"].pop("rank-0.pt")
    (path / MANIFEST).write_text(sealed(content))
    (tmp_path / "rank-0.pt").write_bytes((path / "rank-0.pt").read_bytes())
    with pytest.raises(CheckpointError, match=MANIFEST):
        read_manifest(path)
    with pytest.raises(CheckpointError, match=MANIFEST):
        load(path, "weights.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
