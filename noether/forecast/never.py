"""Schedules that can never fire in a run, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from noether.callback import Pipeline
from noether.dataflow import needed, writers
from noether.forecast.firing import Line, firings
from noether.forecast.known import possibly
from noether.forecast.moments import NEVER
from noether.forecast.pipeline import Forecast, forecast
from noether.forecast.rhythm import leaves
from noether.forecast.stretches import Firings
from noether.progress import UNITS
from noether.schedules import Schedule, never

BEGINNING = 10_000
"""Updates in which most callbacks of most runs fire at least once."""


def warnings(pipeline: Pipeline, line: Line) -> Iterator[tuple[str, str]]:
    """The callbacks of a pipeline that can never run in this run, by name, and why.

    What fires early is not looked at further, so that no run waits for the forecast of all of it.
    """
    length = BEGINNING
    while line.start + length < line.stop:
        early = forecast(pipeline, replace(line, stop=line.start + length))
        if all(found.callback.on_schedule is None or begins(found.possible) for found in early):
            return iter(())
        length *= 10
    return silent(forecast(pipeline, line), line)


def begins(found: Firings) -> bool:
    """Whether something fires before the closing tick."""
    return found.opening or next(iter(found), None) is not None


def silent(forecasts: Sequence[Forecast], line: Line) -> Iterator[tuple[str, str]]:
    """The callbacks that by these forecasts can never run, by name, and why.

    A schedule that is just `never` is taken at its word; one that a later session's opening tick
    may fire is not warned of, nor what waits for it.
    """
    if line.stop == line.start:  # a run without updates, which everyone sees
        return
    perhaps: set[str] = set()
    for position, found in enumerate(forecasts):
        callback = found.callback
        if callback.on_schedule is None or found.possible.count or callback.schedule == never:
            continue
        sources = sought(found, forecasts[:position])
        writing = {source.callback.name for each in sources.values() for source in each}
        if reopens(found) or writing & perhaps:
            perhaps.add(callback.name)
        else:
            yield callback.name, reason(found, sources, line)


def sought(found: Forecast, earlier: Sequence[Forecast]) -> dict[str, list[Forecast]]:
    """The metrics that a callback needs, each with the callbacks that write it."""
    pipeline = [each.callback for each in earlier]
    metrics = sorted(needed(found.callback))
    return {metric: [earlier[p] for p in writers(metric, pipeline)] for metric in metrics}


def reopens(found: Forecast) -> bool:
    """Whether the opening tick of a later session may fire it."""
    schedule = found.callback.schedule
    terms = [] if schedule is None else [term for term, _ in leaves(schedule)]
    return found.callback.point == "tick" and "each_session" in terms


def reason(found: Forecast, sources: dict[str, list[Forecast]], line: Line) -> str:
    """Why a callback never runs."""
    schedule, point = found.callback.schedule, found.callback.point
    if schedule is not None and not often(schedule, line):
        return f"{schedule} never fires: {why(schedule, line)}"
    if schedule is not None and not often(schedule, line, boundaries=point == "tick"):
        return (
            f"{schedule} never fires: a hook at {point} runs within updates, "
            "not on the opening or the closing tick"
        )
    for metric, writing in sources.items():
        if all(source.reports.soon == NEVER for source in writing):
            return f"it needs {metric}, and {writing[0].callback.name!r} never runs"
    if schedule is not None and schedule.reads:
        metrics = ", ".join(sorted(schedule.reads))
        return f"{schedule} never fires: on no tick where it could is {metrics} produced"
    return f"it needs {', '.join(sources)}, first written after it would run for the last time"


def often(schedule: Schedule, line: Line, *, boundaries: bool = True) -> int:
    """How many times a schedule may fire by itself."""
    return firings(possibly(schedule, {}), line, boundaries=boundaries).count


def why(schedule: Schedule, line: Line) -> str:
    """Why a schedule fires on no tick."""
    inner = [part for part in schedule.expression.arguments if isinstance(part, Schedule)]
    silent = [part for part in inner if not often(part, line)]
    if silent:
        return "; ".join(why(part, line) for part in silent)
    if schedule.term == "&":
        times = ", ".join(f"{part} fires {counted(often(part, line))}" for part in inner)
        return f"{times}, but never in the same tick"
    if schedule.term == "skip":
        return f"{inner[0]} fires {counted(often(inner[0], line))}, and all of them are skipped"
    if schedule.term == "~":
        return f"{inner[0]} holds on every tick"
    if schedule.term == "never":
        return "never is never"
    return f"the run ends at {end(schedule, line)}, before {schedule}"


def counted(times: int) -> str:
    """A number of times in words."""
    return "once" if times == 1 else f"{times:,} times"


def end(schedule: Schedule, line: Line) -> str:
    """The last counts of the run, in the units of a term."""
    units = [unit for unit, _ in schedule.expression.options if unit in UNITS] or ["updates"]
    last = line.at(line.stop)
    return ", ".join(f"{UNITS[unit]} {last.count(unit):,}" for unit in units)
