"""Schedules that can never fire in a run, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from noether.callback import Callback, Pipeline
from noether.dataflow import needed, writers
from noether.forecast.firing import Line, answers, firings, jumps
from noether.forecast.known import possibly, reporting, union
from noether.progress import UNITS
from noether.schedules import Schedule, never


def warnings(pipeline: Pipeline, line: Line) -> Iterator[tuple[str, str]]:
    """The callbacks that can never run in this run, by name, and why.

    The pipeline is in the fold's order. A schedule that is just `never` is taken at its word.
    """
    silent: set[str] = set()
    if line.stop == line.start:  # a run without updates, which everyone sees
        return
    for position, callback in enumerate(pipeline):
        why = silence(callback, pipeline[:position], silent, line)
        if why is not None:
            silent.add(callback.name)
            if callback.schedule != never:
                yield callback.name, why


def silence(
    callback: Callback, earlier: Sequence[Callback], silent: set[str], line: Line
) -> str | None:
    """Why a callback's scheduled hook never runs; None if it may, or if there is none."""
    if callback.on_schedule is None:
        return None
    sources = {m: [earlier[p] for p in writers(m, earlier)] for m in sorted(needed(callback))}
    for metric, found in sources.items():
        if found and all(writer.name in silent and mute(writer) for writer in found):
            return f"it needs {metric}, and {found[0].name!r} never runs"
    schedule = callback.schedule
    if schedule is None:
        return None
    production = {m: union(map(reporting, sources[m])) for m in schedule.reads}
    if ever(possibly(schedule, production), line, boundaries=callback.point == "tick"):
        return None
    return f"{schedule} never fires: {reason(schedule, callback.point, line)}"


def mute(callback: Callback) -> bool:
    """Whether only its scheduled hook could report anything."""
    others = ("after_update", "before_update", "after_accumulation_step", "after_epoch")
    return not any(getattr(callback, hook) for hook in (*others, "before_training"))


def ever(schedule: Schedule, line: Line, *, boundaries: bool = True) -> bool:
    """Whether a schedule of counts fires at all, in this session or when a later one opens."""
    resumed = replace(line, start=line.stop, session=line.session + 1)
    return bool(
        soon(schedule, line)
        or answers(schedule, line, boundaries=boundaries).count
        or (boundaries and answers(schedule, resumed, boundaries=True).opening)
    )


def soon(schedule: Schedule, line: Line) -> bool:
    """Whether one that remembers fires in an update of a fresh session; found without the rest."""
    if schedule.initial is None or line.start:
        return False
    _, memory = schedule.step(line.tick("start", 0), schedule.initial)
    return any(fires for _, fires, _ in jumps(schedule, line, 0, line.stop, memory))


def reason(schedule: Schedule, point: str, line: Line) -> str:
    """Why a schedule never fires at a point of the run."""
    if not often(schedule, line):
        return why(schedule, line)
    if point != "tick":
        return f"a hook at {point} runs within updates, not on the opening or the closing tick"
    if not schedule.reads:
        return "not on the ticks of this session"
    return f"on no tick where it could is {', '.join(sorted(schedule.reads))} produced"


def often(schedule: Schedule, line: Line) -> int:
    """How many times a schedule may fire by itself."""
    return firings(possibly(schedule, {}), line).count


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
