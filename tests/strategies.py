"""The data of all tests: what one draws or walks over is invented here."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hypothesis import strategies as st

from noether.progress import Progress
from noether.schedules import (
    Schedule,
    Tick,
    after,
    always,
    at,
    between,
    cooldown,
    each_session,
    every,
    first,
    never,
    on_improvement,
    on_plateau,
    once_at_end,
    once_at_start,
    skip,
    until,
    when,
)

# ---------------------------------------------------------------- progress

METRICS = ("loss/val", "accuracy")


@dataclass(frozen=True)
class Walk:
    """A run from its opening tick to its closing one, and what is promised about its pace."""

    ticks: tuple[Tick, ...]
    samples_per_update: int
    updates_per_epoch: int

    @property
    def updates(self) -> tuple[Tick, ...]:
        return tuple(tick for tick in self.ticks if tick.event == "update")


def moved(now: Progress, *, sample: int, closes: bool, ms: int, tokens: int) -> Progress:
    """The progress one update later; time is kept in whole milliseconds."""
    total_ms = round(now.seconds * 1000) + ms
    return replace(
        now,
        epoch=now.epoch + closes,
        update=now.update + 1,
        sample=now.sample + sample,
        seconds=total_ms / 1000,
        counters={"tokens": now.counters.get("tokens", 0) + tokens},
    )


metric_values = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-2, 2),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)
metric_reports = st.dictionaries(st.sampled_from(METRICS), metric_values)


@st.composite
def walks(draw: st.DrawFn, *, sessions: bool = True) -> Walk:
    """Epochs of several lengths with short last batches, uneven time, metrics, and restarts."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    batch = draw(st.integers(1, 7))
    opening = Progress()
    ticks = [Tick(opening, opening, "start")]
    total = Progress(epoch=len(lengths), update=sum(lengths), sample=None, seconds=None)
    metrics: dict[str, float] = {}
    for length in lengths:
        for position in range(1, length + 1):
            before, closes = ticks[-1].now, position == length
            now = moved(
                before,
                sample=draw(st.integers(1, batch)) if closes else batch,
                closes=closes,
                ms=draw(st.integers(0, 2500)),
                tokens=draw(st.integers(0, 40)),
            )
            fresh = draw(metric_reports)
            metrics = metrics | fresh
            ticks.append(Tick(before, now, "update", total, metrics, frozenset(fresh)))
            if sessions and draw(st.integers(0, 9)) == 9:
                again = replace(now, session=now.session + 1)
                ticks.append(Tick(again, again, "start", total, metrics))
    closing = ticks[-1].now
    ticks.append(Tick(closing, closing, "end", total, metrics))
    return Walk(tuple(ticks), batch, min(lengths))


def steady(
    updates: int,
    *,
    samples: int = 1,
    seconds: float = 1.0,
    updates_per_epoch: int = 5,
    total: int | None = None,
) -> tuple[Tick, ...]:
    """A run in which every update is alike, without its opening and closing tick."""
    points = [
        Progress(u // updates_per_epoch, u, u * samples, u * seconds) for u in range(updates + 1)
    ]
    horizon = Progress(None, total, None, None)
    pairs = itertools.pairwise(points)
    return tuple(Tick(before, now, "update", horizon) for before, now in pairs)


def reports(metric: str, values: Iterable[float | None]) -> tuple[Tick, ...]:
    """A run whose updates produce these values of a metric; None: the last one is stale."""
    ticks, last = [], math.nan
    for update, value in enumerate(values, start=1):
        last = last if value is None else value
        fresh = frozenset() if value is None else frozenset({metric})
        before, now = Progress(update=update - 1), Progress(update=update)
        ticks.append(Tick(before, now, metrics={metric: last}, fresh=fresh))
    return tuple(ticks)


def answers(schedule: Schedule, ticks: Sequence[Tick], memory: Any = ...) -> list[bool]:
    """What a schedule says tick by tick, its memory carried along."""
    kept, said = schedule.initial if memory is ... else memory, []
    for tick in ticks:
        fires, kept = schedule.step(tick, kept)
        said.append(fires)
    return said


def fired(schedule: Schedule, ticks: Sequence[Tick]) -> list[int]:
    """The updates at whose ticks a schedule fires."""
    said = answers(schedule, ticks)
    return [tick.now.update for tick, fires in zip(ticks, said, strict=True) if fires]


# ---------------------------------------------------------------- schedules

COUNTERS = ("epochs", "updates", "samples", "tokens")
CLOCKS = ("seconds", "minutes", "hours")

milliseconds = st.integers(1, 4000).map(lambda ms: ms / 1000)
quantities = st.one_of(
    st.tuples(st.sampled_from(COUNTERS), st.integers(1, 12)),
    st.tuples(st.just("seconds"), milliseconds),
    st.tuples(st.sampled_from(CLOCKS), st.floats(1e-4, 0.1)),
)
fractions = st.one_of(
    st.integers(1, 12).map(lambda m: 1 / m),
    st.floats(0.05, 1),
    st.sampled_from([0.1, 0.3, 2 / 3, 0.75]),
)


@st.composite
def everies(draw: st.DrawFn) -> Schedule:
    unit, n = draw(quantities)
    start = draw(st.none() | st.integers(0, 15))
    return every(start=start, **{unit: n})


@st.composite
def ats(draw: st.DrawFn) -> Schedule:
    unit, _ = draw(quantities)
    points = st.integers(1, 30) if unit in COUNTERS else milliseconds
    chosen = draw(st.lists(points, min_size=1, max_size=3))
    return at(**{unit: chosen})


def unions(parts: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    return st.tuples(parts, parts).map(lambda pair: pair[0] | pair[1])


shares = st.one_of(
    fractions.map(lambda f: every(fraction=f)),
    st.lists(fractions, min_size=1, max_size=3).map(lambda points: at(fraction=points)),
)
marks = st.recursive(everies() | ats() | shares, unions, max_leaves=3)
"""The families that are marks on the time line, and unions of them."""


@st.composite
def windows(draw: st.DrawFn) -> Schedule:
    chosen = dict(draw(st.lists(quantities, min_size=1, max_size=2)))
    edges: list[Callable[..., Schedule]] = [after, until]
    if draw(st.booleans()):
        edge: Callable[..., Schedule] = draw(st.sampled_from(edges))
        return edge(**chosen)
    widths = {unit: draw(st.integers(0, 10)) for unit in chosen}
    return between(**{unit: (k, k + widths[unit]) for unit, k in chosen.items()})


constants = st.sampled_from([always, never, once_at_start, each_session, once_at_end])

metric_conditions = st.one_of(
    st.sampled_from(METRICS).map(when),
    st.builds(
        when,
        st.sampled_from(METRICS),
        st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
        st.integers(-2, 2) | st.floats(-2, 2),
    ),
)
improvements = st.builds(
    on_improvement,
    st.sampled_from(METRICS),
    mode=st.sampled_from(["min", "max", "auto"]),
    min_delta=st.sampled_from([0.0, 0.5]),
)
plateaus = st.builds(
    on_plateau,
    st.sampled_from(METRICS),
    patience=st.integers(1, 3),
    mode=st.sampled_from(["min", "max", "auto"]),
)


def combined(parts: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    return st.one_of(
        st.tuples(parts, parts).map(lambda pair: pair[0] & pair[1]),
        st.tuples(parts, parts).map(lambda pair: pair[0] | pair[1]),
        parts.map(lambda part: ~part),
    )


def remembered(parts: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    counts = st.integers(1, 4)
    return st.one_of(
        combined(parts),
        st.builds(first, counts, parts),
        st.builds(skip, counts, parts),
        st.tuples(parts, quantities).map(lambda pair: cooldown(pair[0], **dict([pair[1]]))),
    )


plain = marks | windows() | constants
memoryless_schedules = st.recursive(plain | metric_conditions, combined, max_leaves=5)
schedules = st.recursive(
    plain | metric_conditions | improvements | plateaus, remembered, max_leaves=5
)

# ---------------------------------------------------------------- training


@dataclass(slots=True)
class Samples:
    """A data set of (inputs, target) that notes which samples it served."""

    inputs: torch.Tensor
    targets: torch.Tensor
    served: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.served.append(index)
        return self.inputs[index], self.targets[index]


def samples(n: int, seed: int = 1) -> Samples:
    """`n` samples of three inputs and two targets."""
    generator = torch.Generator().manual_seed(seed)
    return Samples(torch.randn(n, 3, generator=generator), torch.randn(n, 2, generator=generator))


def net(*, dropout: float = 0.3, norm: bool = False) -> torch.nn.Module:
    """Always the same small network, its random numbers apart from the global ones."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        between = torch.nn.BatchNorm1d(5) if norm else torch.nn.Tanh()
        return torch.nn.Sequential(
            torch.nn.Linear(3, 5), between, torch.nn.Dropout(dropout), torch.nn.Linear(5, 2)
        )


def squared_error(model: Any, batch: Any) -> torch.Tensor:
    """Mean squared error of a batch of `samples`."""
    inputs, targets = batch
    return torch.nn.functional.mse_loss(model(inputs), targets)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """Gradient descent with a state of its own."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@dataclass(slots=True)
class Clock:
    """A clock that moves by a quarter of a second whenever it is read."""

    now: float = 100.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now
