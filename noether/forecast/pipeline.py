"""What each callback of a pipeline will do in a run, before the run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

from noether.callback import Callback, Pipeline
from noether.dataflow import needed, writers
from noether.forecast.firing import Line, answers, before, spared
from noether.forecast.known import possibly, reporting, surely, union, unknowns
from noether.forecast.moments import (
    NEVER,
    PLAIN,
    Span,
    arrives,
    first,
    moment,
    opening,
    plain,
    scheduled,
)
from noether.forecast.stretches import Firings
from noether.schedules import always

SILENT = Span(NEVER, NEVER)


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
    reports: Span = SILENT
    """The moments at which it may first, and will at last have reported metrics that stay."""
    opens: Span = SILENT
    """Those of a resumed session's opening tick, whose metrics are forgotten after it."""

    @property
    def count(self) -> int | None:
        """How many times it runs; None where that can't be known beforehand."""
        return None if self.unknown else self.sure.count


def forecast(pipeline: Pipeline, line: Line) -> tuple[Forecast, ...]:
    """When the scheduled hooks of a pipeline in the fold's order run, if it runs to its horizon.

    A callback that reads a metric waits for it, in this session or one before. A callback is
    taken to report all it promises when its hook runs; where it has several hooks, it is unknown
    which of them reports.
    """
    earlier = (
        [past(found, line) for found in forecast(pipeline, before(line))] if line.start else []
    )
    made: list[Forecast] = []
    for position, callback in enumerate(pipeline):
        sources = {
            metric: [
                found[source]
                for source in writers(metric, pipeline[:position])
                for found in (earlier, made)
                if found
            ]
            for metric in sorted(needed(callback))
        }
        made.append(foreseen(callback, line, sources))
    return tuple(made)


Sources = Mapping[str, Sequence[Forecast]]
"""By metric, the forecasts of the callbacks that promise it."""


def past(found: Forecast, line: Line) -> Forecast:
    """What of a forecast of the sessions before has come true when this one begins."""
    end = moment(line.start + 1, 0)
    soon, late = (NEVER if when >= end else when for when in astuple(found.reports))
    return replace(found, reports=Span(soon, late))


def foreseen(callback: Callback, line: Line, sources: Sources) -> Forecast:
    """The forecast of one callback, from those of the callbacks whose metrics it needs."""
    stays, there = awaited(sources), awaited(sources, opening=True)
    sure, possible = bounds(callback, line, sources)
    late = waiting(sure, stays.late, there.late, callback, line)
    soon = waiting(possible, stays.soon, there.soon, callback, line)
    reports = joined(list(hook_spans(callback, late, soon, stays, line)))
    opens = joined(list(opening_spans(callback, late, soon, line)))
    found = Forecast(callback, late, soon, (), reports, SILENT if line.session == 1 else opens)
    if (late.count, late.opening) == (soon.count, soon.opening):
        return replace(found, possible=late)
    schedule = always if callback.schedule is None else callback.schedule
    unsure = (m for m in sources if awaited({m: sources[m]}, opening=True).unsure)
    return replace(found, unknown=tuple(dict.fromkeys((*unknowns(schedule), *unsure))))


def joined(spans: Sequence[Span]) -> Span:
    """When a callback first reports, as it is unknown which of its hooks does: with the first of
    them at the soonest, with the last at the latest.
    """
    return Span(
        min((span.soon for span in spans), default=NEVER),
        max((span.late for span in spans), default=NEVER),
    )


def awaited(sources: Sources, *, opening: bool = False) -> Span:
    """The moments at which the last of the metrics may be, and surely is there to stay, or with
    `opening` for the opening tick alone.
    """
    spans = [
        [*(s.reports for s in found), *((s.opens for s in found) if opening else ())]
        for found in sources.values()
    ]
    return Span(
        max((min((s.soon for s in each), default=NEVER) for each in spans), default=0),
        max((min((s.late for s in each), default=NEVER) for each in spans), default=0),
    )


def bounds(callback: Callback, line: Line, sources: Sources) -> tuple[Firings, Firings]:
    """The sure and the possible firings of its schedule."""
    if callback.on_schedule is None:
        return Firings(), Firings()
    schedule = always if callback.schedule is None else callback.schedule
    production = {
        metric: union(reporting(source.callback) for source in sources[metric])
        for metric in schedule.reads
    }
    lower, upper = surely(schedule, production), possibly(schedule, production)
    boundaries = callback.point == "tick"
    sure = answers(lower, line, boundaries=boundaries)
    possible = sure if upper == lower else answers(upper, line, boundaries=boundaries)
    # What may have fired at the last counts may spare the closing tick; what has fired does.
    return spared(sure, by=possible), spared(possible, by=sure)


def waiting(found: Firings, stays: int, there: int, callback: Callback, line: Line) -> Firings:
    """Those of the firings that come when every metric that is needed is there."""
    place = scheduled(callback)
    since = arrives(stays, place)
    return replace(
        found,
        since=since,
        opening=found.opening and arrives(there, place) <= line.start,
        closing=found.closing and since <= line.stop + 1,
    )


def hook_spans(
    callback: Callback, sure: Firings, possible: Firings, waits: Span, line: Line
) -> Iterator[Span]:
    """For each hook that may report something that stays, when it first does."""
    if callback.before_training is not None and line.session == 1:
        yield Span(opening(line.start), opening(line.start))
    yield from (
        Span(plain(hook, waits.soon, line), plain(hook, waits.late, line))
        for hook in PLAIN
        if getattr(callback, hook) is not None
    )
    if callback.on_schedule is not None:
        place = scheduled(callback)
        yield Span(first(possible, place, line), first(sure, place, line))


def opening_spans(
    callback: Callback, sure: Firings, possible: Firings, line: Line
) -> Iterator[Span]:
    """For each hook, when on the opening tick it runs."""
    yield from (SILENT for hook in PLAIN if getattr(callback, hook) is not None)
    if callback.before_training is not None:
        yield Span(opening(line.start), opening(line.start))
    if callback.on_schedule is not None:
        at = moment(line.start, scheduled(callback))
        yield Span(at if possible.opening else NEVER, at if sure.opening else NEVER)
