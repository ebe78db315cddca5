"""The firings of a schedule over a run, jumped to from one to the next."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from noether.feed import Feed, pace, reckoned
from noether.forecast.memories import moved, relative
from noether.forecast.rhythm import edges, period, scaled, settle
from noether.forecast.stretches import Firings, Stretch
from noether.progress import Progress
from noether.schedules import Schedule, Tick
from noether.schedules.schedule import Memory, Pace


@dataclass(frozen=True, slots=True)
class Line:
    """The time line of a session: what is known of its ticks before it begins."""

    feed: Feed
    total: Progress
    pace: Pace
    start: int
    """The update after which the session goes on."""
    stop: int
    """The run's last update."""
    session: int

    def at(self, update: int) -> Progress:
        """The counts at an update."""
        return reckoned(self.feed, update, self.session)

    def tick(self, event: Literal["start", "update", "end"], update: int) -> Tick:
        """The tick that an update makes, or the opening or closing one after it."""
        before = update - 1 if event == "update" else update
        return Tick(self.at(before), self.at(update), event, self.total)


def line(feed: Feed, total: Progress, *, start: int = 0, session: int = 1) -> Line:
    """The time line of a session that goes on from update `start` to a horizon that is known."""
    known = pace(feed, Progress(), 0, total)
    return Line(feed, total, known, start, max(int(total.update), start), session)


def before(line: Line) -> Line:
    """The sessions before as one."""
    return replace(line, start=0, stop=line.start, session=1)


def firings(schedule: Schedule, line: Line, *, boundaries: bool = True) -> Firings:
    """The ticks of a session at which a callback with a schedule of counts fires.

    Without `boundaries` it isn't asked on the opening and closing tick. The closing tick is spared
    by what fired at the same counts. The time it takes is that of the firings of one period.
    """
    made = answers(schedule, line, boundaries=boundaries)
    return spared(made, by=made)


def spared(found: Firings, *, by: Firings) -> Firings:
    """The firings without the closing tick, if others fire at the run's last counts."""
    return replace(found, closing=found.closing and not by.last)


def answers(schedule: Schedule, line: Line, *, boundaries: bool) -> Firings:
    """The ticks at which a schedule of counts says yes."""
    memory, opening, closing = kept(schedule, line, boundaries=boundaries), False, False
    if boundaries:
        opening, stepped = schedule.step(line.tick("start", line.start), memory)
        # A resumed session's opening tick changes no memory.
        memory = stepped if line.session == 1 else memory
    stretches, memory = repeating(schedule, line, memory)
    if boundaries:
        closing, _ = schedule.step(line.tick("end", line.stop), memory)
    made = Firings(tuple(s for s in stretches if s.pattern), opening, closing)
    if line.stop > line.start:
        last = bool(made.within(line.stop, line.stop))
    elif line.session > 1:
        last = answers(schedule, before(line), boundaries=boundaries).last
    else:
        last = opening
    return replace(made, last=last)


def kept(schedule: Schedule, line: Line, *, boundaries: bool) -> Memory:
    """What a schedule remembers of the sessions before, had they been one."""
    memory = schedule.initial
    if memory is None or not line.start:
        return memory
    earlier = before(line)
    if boundaries:
        _, memory = schedule.step(earlier.tick("start", 0), memory)
    return repeating(schedule, earlier, memory)[1]


def repeating(schedule: Schedule, line: Line, memory: Memory) -> tuple[list[Stretch], Memory]:
    """Its firings between the edges of its rhythm, and its memory after them."""
    scale = scaled(schedule, line.feed, int(line.total.update))
    inner = sorted(edge for edge in edges(schedule, scale) if line.start < edge < line.stop)
    stretches: list[Stretch] = []
    for start, stop in pairwise([line.start, *inner, line.stop]):
        if schedule.initial is None:
            settled = settle(schedule, line.tick("update", start + 1), scale)
            length = period(settled, scale)
            once, _ = asked(settled, line, start, min(start + length, stop), memory)
            stretches.append(Stretch(start, stop, length, once))
        else:
            length = period(schedule, scale)
            cycles, memory = cycling(schedule, line, start, stop, length, memory)
            stretches += cycles
    return stretches, memory


def cycling(
    schedule: Schedule, line: Line, start: int, stop: int, every: int, memory: Memory
) -> tuple[list[Stretch], Memory]:
    """The firings of a schedule that remembers, so many updates at a time until its memory, seen
    from there, comes again.
    """
    stretches: list[Stretch] = []
    seen: dict[Any, int] = {}
    while start < stop:
        begun = seen.setdefault(relative(schedule, memory, line.at(start)), start)
        length = start - begun
        if length and start + length <= stop:
            end = stop - (stop - start) % length
            pattern = tuple(u - begun for s in stretches if s.start >= begun for u in s)
            stretches.append(Stretch(start, end, length, pattern))
            memory = moved(schedule, memory, line.at(start), line.at(end))
        else:
            end = min(start + every, stop)
            pattern, memory = asked(schedule, line, start, end, memory)
            stretches.append(Stretch(start, end, every, pattern))
        start = end
    return stretches, memory


def asked(
    schedule: Schedule, line: Line, start: int, stop: int, memory: Memory
) -> tuple[tuple[int, ...], Memory]:
    """The firings from `start` to `stop` as offsets, and the memory after them."""
    pattern = []
    for update, fires, stepped in jumps(schedule, line, start, stop, memory):
        memory = stepped
        if fires:
            pattern.append(update - start)
    return tuple(pattern), memory


def jumps(
    schedule: Schedule, line: Line, start: int, stop: int, memory: Memory
) -> Iterator[tuple[int, bool, Any]]:
    """The updates after `start` at which it must be asked, its answers, and its memory."""
    now = line.at(start)
    while (update := schedule.ahead(now, line.pace)) is not None and update <= stop:
        tick = line.tick("update", update)
        fires, memory = schedule.step(tick, memory)
        yield update, fires, memory
        now = tick.now
