"""What tests of the feed are made of: sets whose samples say which they are, and what came of them.

A batch is (inputs, targets, names); a name is (the set's tag, the sample's index in it).
"""

import functools
import os
import random
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

import noether
from noether import Callback, DataPass, Log, Schedule, TrainState, at, chain, every, hooks
from noether.journal import read
from tests.strategies import net, sgd

Name = tuple[int, int]
Names = tuple[Name, ...]
Sample = tuple[Tensor, Tensor, Tensor]

# ---------------------------------------------------------------- data sets


@functools.cache
def drawn(tag: int, index: int) -> Tensor:
    """The inputs of a sample, always the same."""
    return torch.randn(3, generator=torch.Generator().manual_seed(1000 * tag + index))


def sample(tag: int, index: int, *, drawing: bool = False) -> Sample:
    """A sample that says which it is; `drawing`: with noise from all three global generators."""
    inputs = drawn(tag, index)
    targets = inputs[:2].sin()
    if drawing:
        noise = [random.random(), float(torch.rand(())), float(numpy.random.rand())]
        inputs = inputs + torch.tensor(noise)
    return inputs, targets, torch.tensor([tag, index])


@dataclass(frozen=True)
class Numbered:
    """A set with length and index."""

    n: int
    tag: int = 0
    drawing: bool = False

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.n:
            raise IndexError(index)
        return sample(self.tag, index, drawing=self.drawing)


@dataclass(frozen=True)
class Stream:
    """A set that can only be iterated; it raises in place of the sample `breaks`."""

    n: int
    tag: int = 0
    breaks: int | None = None

    def __iter__(self) -> Iterator[Sample]:
        for index in range(self.n):
            if index == self.breaks:
                raise OSError("the stream broke off")
            yield sample(self.tag, index)


class StrangeError(Exception):
    """An error that cannot be made again of its arguments."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"strange {one} and {other}")


@dataclass(frozen=True)
class Unreadable:
    """A set of which one sample cannot be read."""

    n: int
    at: int
    tag: int = 0
    strange: bool = False

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        if index == self.at:
            raise StrangeError(1, 2) if self.strange else OSError("no such file")
        return sample(self.tag, index)


@dataclass(frozen=True)
class Deadly:
    """A set of which one sample kills the worker that reads it."""

    n: int
    at: int
    tag: int = 0
    parent: int = field(default_factory=os.getpid)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        if index == self.at:
            if os.getpid() == self.parent:
                raise AssertionError("read in the training process")
            os.kill(os.getpid(), signal.SIGKILL)
        return sample(self.tag, index)


def named(tag: int, indices: Sequence[int] | range) -> list[Name]:
    """The names of a set's samples."""
    return [(tag, index) for index in indices]


def names_of(batch: Any) -> Names:
    """The names of a batch's samples."""
    return tuple((int(tag), int(index)) for tag, index in batch[2].tolist())


# ---------------------------------------------------------------- what came


@dataclass(frozen=True)
class Visit:
    """What a data pass saw, and what it came to."""

    by: str
    update: int
    batches: tuple[Names, ...]
    results: Mapping[str, Any]

    @property
    def names(self) -> list[Name]:
        return [name for batch in self.batches for name in batch]


@dataclass(slots=True)
class Witness:
    """Notes what a run trained on and what its passes saw; a clock that moves by what is trained.

    So seconds too are the same however often the clock is read.
    """

    micro_batches: list[Names] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    """Samples trained on when each epoch closed."""
    visits: list[Visit] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    ended: list[TrainState] = field(default_factory=list)

    def loss(self, model: Any, batch: Any) -> Tensor:
        if torch.is_grad_enabled():
            self.micro_batches.append(names_of(batch))
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    def clock(self) -> float:
        return 100.0 + len(self.micro_batches) / 4

    @property
    def trained(self) -> list[Name]:
        """The samples trained on, in order."""
        return [name for batch in self.micro_batches for name in batch]

    @property
    def final(self) -> TrainState:
        (state,) = self.ended
        return state

    def of(self, name: str) -> list[Visit]:
        """The visits of one pass."""
        return [visit for visit in self.visits if visit.by == name]

    def callback(self) -> Callback:
        return Callback(
            "witness",
            after_update=lambda state: self.updates.append(state.now.update),
            after_epoch=lambda state: self.closed.append(len(self.trained)),
            reads=(),
            writes=(),
        )

    def visiting(
        self, name: str, dataset: str, schedule: Schedule | None = None, **options: Any
    ) -> Callback:
        """A pass that notes its batches and results, and logs `{name}/loss`."""
        pending: list[Names] = []

        def process(model: Any, batch: Any) -> dict[str, Any]:
            pending.append(names_of(batch))
            return {"names": batch[2], "inputs": batch[0], "outputs": model.predict(batch)}

        def note(state: TrainState) -> Log | None:
            results = {key: value.tolist() for key, value in state.results.items()}
            self.visits.append(Visit(name, state.now.update, tuple(pending), results))
            pending.clear()
            if not results:
                return None
            return Log({f"{name}/loss": state.results["outputs"].double().mean()})

        return Callback(
            name,
            on_schedule=note,
            schedule=schedule,
            data=DataPass(dataset, process, **options),
            reads=(),
            writes=(f"{name}/loss",),
        )


Callbacks = Callable[[Witness], Sequence[Any]]


def alone(witness: Witness) -> Sequence[Any]:
    """No callbacks but the witness's own."""
    return ()


def fit(
    train_set: Any, callbacks: Callbacks = alone, witness: Witness | None = None, **options: Any
) -> Witness:
    """Train a small network on a set of numbered samples; gives what came."""
    witness = witness or Witness()
    model = options.pop("model", None) or net()
    given: dict[str, Any] = {
        "loss": witness.loss,
        "optimizer": sgd,
        "until": {"epochs": 1},
        "defaults": False,
        "clock": witness.clock,
        "callbacks": chain(witness.callback(), *callbacks(witness)),
        **options,
    }
    if not isinstance(train_set, torch.utils.data.DataLoader):
        given.setdefault("batch_size", 4)
    witness.ended.append(noether.train(model, train_set, **given))
    witness.weights = {name: value.clone() for name, value in model.state_dict().items()}
    return witness


def journal(series: Path, run: str = "1") -> list[dict[str, Any]]:
    """The rows of a run's journal."""
    return list(read(series / run / "journal.jsonl"))


def assert_same_weights(one: Witness, other: Witness) -> None:
    """Bit for bit."""
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name]), name


def assert_same(one: Witness, other: Witness) -> None:
    """What was trained, seen, logged and learnt is the same."""
    assert one.micro_batches == other.micro_batches
    assert (one.updates, one.closed) == (other.updates, other.closed)
    assert one.visits == other.visits
    assert one.final.metrics == other.final.metrics
    assert one.final.now == other.final.now
    assert_same_weights(one, other)


def failure(call: Callable[[], Any]) -> str:
    """The whole text of the error that a call ends with: its causes and notes too."""
    try:
        call()
    except Exception as error:
        return "".join(traceback.format_exception(error))
    raise AssertionError("it ended without an error")


# ---------------------------------------------------------------- a run that is signalled


def signalled(
    series: str | Path,
    *,
    send: Callable[[], object] | None = None,
    where: str = "",
    save: bool = False,
    **options: Any,
) -> Witness:
    """A run of nine updates that calls `send` once in the fifth, in mid-epoch; 19 samples by then.

    The run is the same whether or not it sends; with `save` it commits every second update.
    """
    left = [] if send is None else [send]

    def at_place(place: str, now: bool = True) -> None:  # noqa: FBT001, FBT002
        if left and where == place and now:
            left.pop()()

    def process(model: Any, batch: Any) -> dict[str, Any]:
        at_place("process")
        return {"outputs": model.predict(batch)}

    def log(state: TrainState) -> Log:
        return Log({"outputs": state.results["outputs"].double().mean()})

    sender = Callback(
        "sender",
        after_accumulation_step=lambda s: at_place("after_accumulation_step", s.now.update == 4),
        before_update=lambda s: at_place("before_update", s.now.update == 5),
        after_update=lambda s: at_place("after_update", s.now.update == 5),
    )
    passing = Callback(
        "passing",
        on_schedule=log,
        schedule=at(updates=[5, 7]),
        data=DataPass("val", process),
        writes=("outputs",),
    )
    given: dict[str, Any] = {"accumulate": 2, "until": {"epochs": 3}, **options}
    return fit(
        given.pop("train_set", Numbered(11, drawing=True)),
        lambda witness: [
            *(sender, passing),
            *([hooks.checkpoint(schedule=every(updates=2))] if save else []),
        ],
        datasets={"val": Numbered(7, tag=1)},
        run_dir=series,
        **given,
    )


def signal_group(series: str, number: int, where: str, workers: int) -> None:
    """The run, sending its own process group a signal, workers and all."""
    torch.set_num_threads(1)
    signalled(series, send=lambda: os.killpg(os.getpgid(0), number), where=where, workers=workers)
