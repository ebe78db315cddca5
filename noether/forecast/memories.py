"""Memories of schedules of counts seen from where the run stands, so that they can come again."""

from typing import Any

from noether.progress import Progress
from noether.schedules import Schedule
from noether.schedules.schedule import Memory
from noether.schedules.units import reader, scaled


def relative(schedule: Schedule, memory: Memory, now: Progress) -> Any:
    """A memory as all that matters of it from `now` on; equal where the schedule goes on alike.

    >>> from noether import cooldown, every
    >>> schedule = cooldown(every(updates=1), updates=5)
    >>> relative(schedule, (7, None), Progress(update=9))
    (2, None)
    """
    if schedule.term != "cooldown":
        return _inside(schedule, memory, lambda part, kept: relative(part, kept, now))
    ((unit, given),) = schedule.expression.options
    distance, (last, kept) = scaled(unit, given), memory
    gone = distance if last is None else min(reader(unit)(now) - last, distance)
    return gone, relative(schedule.expression.arguments[0], kept, now)


def moved(schedule: Schedule, memory: Memory, since: Progress, now: Progress) -> Memory:
    """The memory, had all that it remembers happened as much later as `now` is than `since`."""
    if schedule.term != "cooldown":
        return _inside(schedule, memory, lambda part, kept: moved(part, kept, since, now))
    ((unit, _),) = schedule.expression.options
    count, (last, kept) = reader(unit), memory
    later = None if last is None else last + count(now) - count(since)
    return later, moved(schedule.expression.arguments[0], kept, since, now)


def _inside(schedule: Schedule, memory: Memory, change: Any) -> Any:
    """The memory with what the parts of a schedule keep in it changed."""
    parts = [part for part in schedule.expression.arguments if isinstance(part, Schedule)]
    if memory is None or not parts:
        return memory
    if schedule.term in ("first", "skip"):
        count, kept = memory
        return count, change(parts[0], kept)
    return tuple(change(part, kept) for part, kept in zip(parts, memory, strict=True))
