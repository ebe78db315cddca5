"""What each callback of a pipeline will do in a run, before the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from noether.callback import Callback, Pipeline
from noether.dataflow import needed, writers
from noether.forecast.firing import Line, firings
from noether.forecast.known import possibly, reporting, surely, union, unknowns
from noether.forecast.stretches import Firings
from noether.schedules import always

NEVER = 2**63


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a callback's scheduled hook will run."""

    callback: Callback
    sure: Firings
    """The ticks at which it runs whatever the metrics and the clock will be."""
    possible: Firings
    """The ticks at which it may run; those of `sure` where nothing is unknown."""
    unknown: tuple[str, ...] = ()
    """What decides beside the counts: metrics, the clock, counters of the feed, functions."""

    @property
    def count(self) -> int | None:
        """How many times it runs; None where that can't be known beforehand."""
        return None if self.unknown else self.sure.count


def forecast(
    pipeline: Pipeline, line: Line, *, written: frozenset[str] = frozenset()
) -> tuple[Forecast, ...]:
    """When the scheduled hooks of a pipeline in the fold's order run, if it runs to its horizon.

    A callback is taken to report all it promises whenever its hook runs, and one that reads a
    metric waits for it, unless it is among those `written` before the session.
    """
    made: list[Forecast] = []
    for position, callback in enumerate(pipeline):
        sources = {
            metric: [made[source] for source in writers(metric, pipeline[:position])]
            for metric in sorted(needed(callback))
        }
        made.append(foreseen(callback, line, sources, written))
    return tuple(made)


Sources = Mapping[str, Sequence[Forecast]]
"""By metric, the forecasts of the callbacks that promise it."""


def foreseen(callback: Callback, line: Line, sources: Sources, written: frozenset[str]) -> Forecast:
    """The forecast of one callback, from those of the callbacks whose metrics it needs."""
    if callback.on_schedule is None:
        return Forecast(callback, Firings(), Firings())
    schedule = always if callback.schedule is None else callback.schedule
    within = callback.point != "tick"
    production = {
        metric: union(reporting(source.callback) for source in sources[metric])
        for metric in schedule.reads
    }
    lower = surely(schedule, production)
    upper = possibly(schedule, production)
    sure = firings(lower, line, boundaries=not within)
    possible = sure if upper == lower else firings(upper, line, boundaries=not within)
    waits = [metric for metric in sources if metric not in written]
    late = {m: first(sources[m], line, sure=True, within=within) for m in waits}
    soon = {m: first(sources[m], line, sure=False, within=within) for m in waits}
    unsure = [metric for metric in waits if late[metric] != soon[metric]]
    return Forecast(
        callback,
        waiting(sure, late, line),
        waiting(possible, soon, line),
        tuple(dict.fromkeys((*unknowns(schedule), *unsure))),
    )


def first(sources: Sequence[Forecast], line: Line, *, sure: bool, within: bool) -> int:
    """The first update at whose tick a reader finds a metric; `line.start` on the opening tick."""
    return min(
        (
            reported(source, line, sure=sure) + (within and source.callback.point == "tick")
            for source in sources
        ),
        default=NEVER,
    )


def reported(source: Forecast, line: Line, *, sure: bool) -> int:
    """The update at whose tick a callback first reports."""
    found = source.sure if sure else source.possible
    if source.callback.on_schedule is None:
        found = firings(reporting(source.callback), line)
    if found.opening:
        return line.start
    return next(iter(found), line.stop + 1 if found.closing else NEVER)


def waiting(found: Firings, metrics: Mapping[str, int], line: Line) -> Firings:
    """Those of the firings that find every metric they need."""
    since = max(metrics.values(), default=0)
    return replace(
        found,
        since=since,
        opening=found.opening and since <= line.start,
        closing=found.closing and since <= line.stop + 1,
    )
