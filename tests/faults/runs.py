"""The data of the fault tests: one rich run, its faulty storage, and what two runs have to share.

Everything that a checkpoint has to keep is in the run: accumulation with left-over windows, noise
from all generators, dropout, Adam under a schedule of rates, an average of the weights, windows of
losses, a best value, patience, a schedule that remembers, and a memory of each sample served.
"""

import errno
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

import noether
from noether import Callback, Log, TrainState, chain, cooldown, every, hooks, once_at_end
from noether.checkpoint import newest
from noether.journal import read
from noether.rundir import runs
from noether.storage import STORAGE
from noether.testing.traces import trace
from tests.feeding import Numbered
from tests.strategies import net

KILLED = 137
SAMPLES, BATCH, PER_EPOCH = 11, 4, 3
"""Samples of the training set, of an update, and updates of an epoch: 4, 4 and 3 samples."""
UPDATES = 9
LOSS = "loss/val/total"

# ---------------------------------------------------------------- the run


@dataclass(slots=True)
class Paced:
    """A clock that moves by a quarter of a second with each micro-batch, whoever reads it."""

    now: float = 100.0


def judged(paced: Paced) -> Callable[[Any, Any], Any]:
    """A loss that moves the clock, and gives the samples' names as outputs."""

    def loss(model: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.is_grad_enabled():
            paced.now += 0.25
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1]), batch[2]

    return loss


def serve(state: TrainState, served: tuple[int, ...]) -> tuple[tuple[int, ...], None]:
    return (*served, *(int(index) for _, index in state.outputs.tolist())), None


def add(state: TrainState, total: float) -> tuple[float, Log]:
    total += float(state.losses["total"])
    return total, Log({"mine": total})


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.05)


def pipeline(*, save: int = 2, keep: int | None = 2, evaluate: int = 2) -> tuple[Callback, ...]:
    """Callbacks that all remember something."""
    return chain(
        Callback("served", init=lambda state: (), after_accumulation_step=serve),
        Callback(
            "mine",
            init=lambda state: 0.0,
            on_schedule=add,
            schedule=cooldown(every(updates=1), updates=2),
            writes=("mine",),
        ),
        hooks.ema(decay=0.9),
        every(updates=4)(hooks.online_loss()),
        every(updates=evaluate)(hooks.offline_loss(dataset="val")),
        hooks.best_checkpoint(metric=LOSS),
        hooks.early_stopping(metric=LOSS, patience=50, check_finite=False),
        hooks.checkpoint(schedule=every(updates=save) | once_at_end, keep_last=keep),
    )


@dataclass(frozen=True)
class Ended:
    """What is left of a run that came to its end."""

    final: TrainState
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    run: Path

    @property
    def served(self) -> tuple[int, ...]:
        """The samples trained on in the history that counts, in order."""
        found: tuple[int, ...] = self.final.memories["served"]
        return found


def train(series: Path | None, *more: Callback, **options: Any) -> Ended:
    """The run, or its next session; whatever another process finds differs at its start.

    `callbacks` take the place of the pipeline's; `optimizer` makes one of the parameters.
    """
    shape = {name: options.pop(name) for name in ("save", "keep", "evaluate") if name in options}
    session = len(list(series.rglob("*"))) if series is not None else 0
    torch.manual_seed(1000 + session)
    paced = Paced(1000.0 * session)
    model = options.pop("model", None) or net()
    optimizer = options.pop("optimizer", adam)(model.parameters())
    given: dict[str, Any] = {
        "loss": judged(paced),
        "clock": lambda: paced.now,
        "optimizer": optimizer,
        "lr_scheduler": lambda adam: torch.optim.lr_scheduler.StepLR(adam, 2, 0.8),
        "until": {"updates": UPDATES},
        "batch_size": BATCH,
        "accumulate": 2,
        "datasets": {"val": Numbered(5, tag=1)},
        "callbacks": chain(*more, *options.pop("callbacks", pipeline(**shape))),
        "run_dir": series,
        "resume": "auto",
        "defaults": False,
        **options,
    }
    data = given.pop("train_set", Numbered(SAMPLES, drawing=True))
    final = noether.train(model, data, **given)
    run = runs(series)[0] if series is not None else Path()
    return Ended(final, model.state_dict(), optimizer.state_dict(), run)


def broken(series: Path, update: int, *more: Callback, **options: Any) -> None:
    """The run, failing before the step of an update, so that nothing of that update is kept."""

    def fail(state: TrainState) -> None:
        if state.now.update == update:
            raise ValueError("broken off")

    with suppress(noether.HookError):
        train(series, *more, Callback("fail", before_update=fail), **options)
        raise AssertionError("it was not broken off")


# ---------------------------------------------------------------- state equal


def stored(checkpoint: Path) -> dict[str, Any]:
    """All that a checkpoint keeps, but for what tells of sessions, and which tick asked for it."""
    trees = {
        path.name: torch.load(path, weights_only=True) for path in sorted(checkpoint.glob("*.pt"))
    }
    del trees["state.pt"]["progress"]["session"]
    del trees["state.pt"]["closed"]
    del trees["state.pt"]["journal"]  # a size in bytes, with the sessions' opening rows
    return trees


def rows(run: Path, without: str = "") -> list[dict[str, Any]]:
    """The journal, but for what tells of sessions, and what a callback asked."""
    told = [row for row in read(run / "journal.jsonl") if row["tick"] != "start"]
    for row in told:
        row["effects"] = [effect for effect in row["effects"] if effect["by"] != without]
    told = [row for row in told if row["effects"] or row["metrics"] or row["tick"] == "end"]
    return [{key: row[key] for key in row if key != "session"} for row in told]


def state(ended: Ended, without: str = "") -> dict[str, Any]:
    """Parameters, optimizer, schedule, averages, memories, random numbers, the feed's position,
    counts and logged metrics at the end of a run: what has to be equal, bit for bit.

    `without`: the name of a callback whose own firings and memory are left out.
    """
    found = newest(ended.run / "checkpoints")
    assert found is not None
    held = stored(found.directory)
    held["state.pt"]["fired"] = [name for name in held["state.pt"]["fired"] if name != without]
    memories = dict(ended.final.memories)
    for kept in (memories, held["state.pt"]["memories"], held["state.pt"]["schedules"]):
        kept.pop(without, None)
    return {
        "weights": dict(ended.weights),
        "optimizer": dict(ended.optimizer),
        "metrics": dict(ended.final.metrics),
        "memories": memories,
        "now": replace(ended.final.now, session=1),
        "reason": ended.final.reason,
        "journal": rows(ended.run, without),
        "checkpoint": held,
    }


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two trees differ, bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{path}/{number}")
    elif trace(one) != trace(other):
        yield f"{path}: {one!r} != {other!r}"


def assert_same_state(
    one: Ended, other: Ended, *, without: str = "", closed_before: bool = False
) -> None:
    """The runs came to the same in every respect, a callback's own aside.

    `closed_before`: one's last checkpoint is of a closing tick that was made again, which does
    not ask for what had fired already.
    """
    found = list(differences(state(one, without), state(other, without)))
    if closed_before:
        last = f"/journal/{len(rows(one.run)) - 1}/effects"
        found = [line for line in found if not line.startswith(last)]
    assert not found, "\n".join(line[:500] for line in found)


def assert_each_sample_once(ended: Ended, n: int = SAMPLES) -> None:
    """Each epoch, the last one as far as it got, served no sample twice."""
    epochs = [ended.served[i : i + n] for i in range(0, len(ended.served), n)]
    assert [len(set(epoch)) for epoch in epochs] == [len(epoch) for epoch in epochs]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs if len(epoch) == n)


# ---------------------------------------------------------------- storage that fails


@contextmanager
def storage(before: Callable[[str, tuple[Any, ...]], object]) -> Iterator[None]:
    """Let `before` be told each call of the library to the disk, by its name and arguments.

    What it raises is what the disk says. The library has one record of these calls, which is
    changed in place: a run takes no other.
    """
    named = {field.name: getattr(STORAGE, field.name) for field in fields(STORAGE)}
    real = {name: function for name, function in named.items() if callable(function)}

    def told(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            before(name, args)
            return real[name](*args)

        return call

    for name in real:
        object.__setattr__(STORAGE, name, told(name))
    try:
        yield
    finally:
        for name, function in real.items():
            object.__setattr__(STORAGE, name, function)


@dataclass(frozen=True)
class Call:
    """A call to the disk: in which update's tick, the how manieth of it, and on what."""

    update: int
    number: int
    name: str
    path: Path


@dataclass(slots=True)
class Disk:
    """A disk that says `code` to the calls that are `due`."""

    due: Callable[[Call], bool]
    code: int = errno.ENOSPC
    update: int = 0
    number: int = 0
    refused: list[Call] = field(default_factory=list)

    def turn(self, state: TrainState) -> None:
        self.update, self.number = state.now.update, 0

    def act(self, name: str, args: tuple[Any, ...]) -> None:
        self.number += 1
        path = args[0] if isinstance(args[0], Path) else Path(args[0].name)
        call = Call(self.update, self.number, name, path)
        if self.due(call):
            self.refused.append(call)
            raise OSError(self.code, os.strerror(self.code), str(path))


def train_on(disk: Disk, series: Path, *more: Callback, **options: Any) -> Ended:
    """The run, or its next session, on that disk."""
    with storage(disk.act):
        return train(series, Callback("turning", after_update=disk.turn), *more, **options)


def in_child(action: Callable[[], object], *, leading: bool = False) -> int:
    """The exit code of a fork of this process that does it; 1 where it raises.

    `leading`: as the leader of a process group of its own.
    """
    child = os.fork()
    if child == 0:
        try:
            if leading:
                os.setpgid(0, 0)
            action()
            os._exit(0)
        except SystemExit as leaving:
            os._exit(int(leaving.code or 0))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def checkpoints(run: Path) -> list[str]:
    """The names of all that lies in the folder of checkpoints, but LATEST."""
    found = (run / "checkpoints").iterdir()
    return sorted(path.name for path in found if path.name != "LATEST")


def newest_update(run: Path) -> int:
    """The update of the newest valid checkpoint."""
    found = newest(run / "checkpoints")
    assert found is not None
    return found.manifest.update


def left_aside(folder: Path) -> list[str]:
    """The names of what a process did not finish, writing or removing."""
    found = sorted(path.name for path in folder.rglob("*"))
    return [name for name in found if ".tmp-" in name or ".trash-" in name]
