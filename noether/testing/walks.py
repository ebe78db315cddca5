"""Runs, tick by tick: invented ones for properties, plain ones for examples, and who fires in them.

What is invented is what training does to a schedule: epochs that end in a short batch, updates of
several micro-batches on several ranks, uneven time, counters of the feed, metrics that come and
go stale, restarts, and runs that end before their horizon.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hypothesis import strategies as st

from noether.progress import Progress
from noether.schedules import Schedule, Tick
from noether.state import UNKNOWN

METRICS = ("loss/val", "accuracy")
"""The metrics of a run, unless others are asked for."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A run from its opening tick to its closing one, and what is promised about its pace.

    >>> walk = Walk(steady(3, samples=4), samples_per_update=4, updates_per_epoch=5)
    >>> [tick.now.sample for tick in walk.updates]
    [4, 8, 12]
    """

    ticks: tuple[Tick, ...]
    samples_per_update: int
    """Samples of a full update, over all ranks and micro-batches."""
    updates_per_epoch: int
    """No epoch has fewer."""
    ranks: int = 1
    accumulate: int = 1
    """Micro-batches of a full update."""

    @property
    def updates(self) -> tuple[Tick, ...]:
        """The ticks that are neither opening nor closing."""
        return tuple(tick for tick in self.ticks if tick.event == "update")

    def micro_batches(self, tick: Tick) -> tuple[tuple[int, ...], ...]:
        """The samples of a tick's micro-batches, each by rank; in a short one some may get none."""
        samples = tick.now.sample - tick.before.sample
        size = self.samples_per_update // self.accumulate
        sizes = [min(size, samples - start) for start in range(0, samples, size)]
        return tuple(
            tuple(n // self.ranks + (rank < n % self.ranks) for rank in range(self.ranks))
            for n in sizes
        )


metric_values = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-2, 2),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)


def metric_reports(metrics: Collection[str]) -> st.SearchStrategy[dict[str, float]]:
    """What one tick produces: some of these metrics, each with a value."""
    if not metrics:
        return st.just({})
    return st.dictionaries(st.sampled_from(sorted(metrics)), metric_values)


def progress_walks(
    *, sessions: bool = True, metrics: Collection[str] = METRICS
) -> st.SearchStrategy[Walk]:
    """Invented runs, restarted now and then unless `sessions` is False, that produce `metrics`.

    Time is in whole milliseconds; the feed counts `tokens`; a horizon is known or not.

    >>> from hypothesis import given
    >>> from noether import at
    >>> @given(progress_walks())
    ... def at_fires_once_at_most(walk):
    ...     assert len(fired(at(samples=8), walk.ticks)) <= 1
    >>> at_fires_once_at_most()
    """
    restarts = RESTARTS if sessions else st.just(set[int]())
    return _walks(_epochs(names(metrics)), restarts)


def names(metrics: Collection[str]) -> tuple[str, ...]:
    """Names of metrics, each once."""
    if isinstance(metrics, str):
        raise TypeError(f"metrics is the string {metrics!r}; give a list of names")
    return tuple(dict.fromkeys(metrics))


SPREADS = ((1, 1), (1, 1), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2))
"""Ranks, and micro-batches of an update."""

REMAINDERS = (0, 0, 7, None)
"""Updates of the horizon that a run leaves out; None: the horizon is not known."""


@dataclass(frozen=True, slots=True)
class Update:
    """What is drawn for one update."""

    fresh: dict[str, float]
    milliseconds: int
    tokens: int
    missing: int
    """Samples that a full one would have more, if this is the last of its epoch."""


def _epochs(metrics: Collection[str]) -> st.SearchStrategy[list[list[Update]]]:
    times, counts = st.integers(0, 2500), st.integers(0, 40)
    # With more draws than these an update would hardly be dropped when a run is shortened.
    updates = st.builds(Update, metric_reports(metrics), times, counts, counts)
    return st.lists(st.lists(updates, min_size=1, max_size=6), min_size=1, max_size=5)


RESTARTS = st.sets(st.integers(1, 20), max_size=3)
"""The updates after which a run is restarted."""


@st.composite
def _walks(
    draw: st.DrawFn,
    drawn: st.SearchStrategy[list[list[Update]]],
    restarts: st.SearchStrategy[set[int]],
) -> Walk:
    ranks, accumulate = draw(st.sampled_from(SPREADS))
    samples = draw(st.integers(1, 6)) * ranks * accumulate
    left, complete = draw(st.sampled_from(REMAINDERS)), not draw(st.booleans())
    epochs, restarted = draw(drawn), draw(restarts)
    lengths = [len(epoch) for epoch in epochs]
    ticks = [Tick(Progress(), Progress(), "start", _horizon(lengths, left))]
    for number, epoch in enumerate(epochs, start=1):
        for place, update in enumerate(epoch, start=1):
            closes = place == len(epoch) and (complete or number < len(epochs))
            ticks.append(_update(ticks[-1], update, samples, closes=closes))
            if (now := ticks[-1].now).update in restarted:
                again = replace(now, session=now.session + 1)
                ticks.append(_standing(ticks[-1], "start", again))
    ticks.append(_standing(ticks[-1], "end", ticks[-1].now))
    return Walk(tuple(ticks), samples, min(lengths), ranks, accumulate)


def _horizon(lengths: Sequence[int], left: int | None) -> Progress:
    if left is None:
        return UNKNOWN
    return Progress(len(lengths) + left, sum(lengths) + left, None, None)


def _update(last: Tick, update: Update, samples: int, *, closes: bool) -> Tick:
    """The tick of an update after `last`."""
    before, fresh = last.now, update.fresh
    now = replace(
        before,
        epoch=before.epoch + closes,
        update=before.update + 1,
        sample=before.sample + samples - (update.missing % samples if closes else 0),
        seconds=(round(before.seconds * 1000) + update.milliseconds) / 1000,
        counters={"tokens": before.counters.get("tokens", 0) + update.tokens},
    )
    return Tick(before, now, "update", last.total, {**last.metrics, **fresh}, frozenset(fresh))


def _standing(last: Tick, event: Literal["start", "end"], now: Progress) -> Tick:
    """A tick between updates, in which nothing is produced."""
    return Tick(now, now, event, last.total, last.metrics)


def steady(
    updates: int,
    *,
    samples: int = 1,
    seconds: float = 1.0,
    updates_per_epoch: int = 5,
    total: int | None = None,
) -> tuple[Tick, ...]:
    """The updates of a run in which all are alike; `total` is its horizon in updates.

    >>> from noether import every
    >>> fired(every(samples=3), steady(6, samples=2))
    [2, 3, 5, 6]
    """
    for name, value in (("updates_per_epoch", updates_per_epoch), ("samples", samples)):
        if value < 1:
            raise ValueError(f"steady: {name} is {value}; an update has samples, an epoch updates")
    points = [
        Progress(u // updates_per_epoch, u, u * samples, u * seconds) for u in range(updates + 1)
    ]
    horizon = Progress(None, total, None, None)
    pairs = itertools.pairwise(points)
    return tuple(Tick(before, now, "update", horizon) for before, now in pairs)


def reports(metric: str, values: Iterable[float | None]) -> tuple[Tick, ...]:
    """The updates of a run that produce these values of a metric; None: the last one is stale.

    >>> from noether import on_improvement
    >>> fired(on_improvement("loss/val"), reports("loss/val", [0.5, None, 0.6, 0.4]))
    [1, 4]
    """
    ticks, last = [], math.nan
    for update, value in enumerate(values, start=1):
        last = last if value is None else value
        fresh = frozenset() if value is None else frozenset({metric})
        before, now = Progress(update=update - 1), Progress(update=update)
        ticks.append(Tick(before, now, metrics={metric: last}, fresh=fresh))
    return tuple(ticks)


def answers(schedule: Schedule, ticks: Sequence[Tick], memory: Any = ...) -> list[bool]:
    """What a schedule says tick by tick, from `memory`, else from its initial one.

    >>> from noether import every
    >>> answers(every(updates=2), steady(4))
    [False, True, False, True]
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"{schedule!r} is no schedule; give one, or parse(text) of its text")
    kept, said = schedule.initial if memory is ... else memory, []
    for tick in ticks:
        fires, kept = schedule.step(tick, kept)
        said.append(fires)
    return said


def fired(schedule: Schedule, ticks: Sequence[Tick]) -> list[int]:
    """The updates at whose ticks a schedule fires.

    >>> from noether import after, every
    >>> fired(every(updates=5) & after(updates=8), steady(20))
    [10, 15, 20]
    """
    said = answers(schedule, ticks)
    return [tick.now.update for tick, fires in zip(ticks, said, strict=True) if fires]
