"""What each callback of a pipeline will do in a run, before the run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from noether.callback import Callback, Pipeline
from noether.dataflow import needed, writers
from noether.forecast.firing import Line, answers, before, spared
from noether.forecast.known import possibly, reporting, surely, union, unknowns
from noether.forecast.moments import NEVER, Span, arrives, first, opening, plain, scheduled
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
    """The moments at which it may first, and will at last have reported its metrics."""

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
    earlier = forecast(pipeline, before(line)) if line.start else ()
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


def foreseen(callback: Callback, line: Line, sources: Sources) -> Forecast:
    """The forecast of one callback, from those of the callbacks whose metrics it needs."""
    waits = awaited(sources)
    sure, possible = bounds(callback, line, sources)
    late = waiting(sure, waits.late, callback, line)
    soon = waiting(possible, waits.soon, callback, line)
    reports = reporting_span(callback, late, soon, waits, line)
    if late == soon or (late.count, late.opening) == (soon.count, soon.opening):
        return Forecast(callback, late, late, (), reports)
    schedule = always if callback.schedule is None else callback.schedule
    unsure = (m for m in sources if awaited({m: sources[m]}).unsure)
    unknown = tuple(dict.fromkeys((*unknowns(schedule), *unsure)))
    return Forecast(callback, late, soon, unknown, reports)


def awaited(sources: Sources) -> Span:
    """The moments at which the last of the metrics may be, and surely is there."""
    spans = [
        Span(
            min((source.reports.soon for source in found), default=NEVER),
            min((source.reports.late for source in found), default=NEVER),
        )
        for found in sources.values()
    ]
    return Span(
        max((span.soon for span in spans), default=0), max((span.late for span in spans), default=0)
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


def waiting(found: Firings, moment: int, callback: Callback, line: Line) -> Firings:
    """Those of the firings that come when every metric that is needed is there."""
    since = arrives(moment, scheduled(callback))
    return replace(
        found,
        since=since,
        opening=found.opening and since <= line.start,
        closing=found.closing and since <= line.stop + 1,
    )


def reporting_span(
    callback: Callback, sure: Firings, possible: Firings, waits: Span, line: Line
) -> Span:
    """When a callback first reports: with the first of its hooks at the soonest, with the last of
    them at the latest.
    """
    hooks = list(hook_spans(callback, sure, possible, waits, line))
    return Span(
        min((span.soon for span in hooks), default=NEVER),
        max((span.late for span in hooks), default=NEVER),
    )


def hook_spans(
    callback: Callback, sure: Firings, possible: Firings, waits: Span, line: Line
) -> Iterator[Span]:
    """For each hook that may report, when it first runs."""
    if callback.before_training is not None:
        yield Span(opening(line.start), opening(line.start))
    yield from (
        Span(plain(hook, waits.soon, line), plain(hook, waits.late, line))
        for hook in ("after_accumulation_step", "before_update", "after_update", "after_epoch")
        if getattr(callback, hook) is not None
    )
    if callback.on_schedule is not None:
        place = scheduled(callback)
        yield Span(first(possible, place, line), first(sure, place, line))
