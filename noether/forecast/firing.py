"""The firings of a schedule over a run, jumped to from one to the next."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from noether.feed import Feed, pace, reckoned
from noether.forecast.rhythm import Rhythm, Scale, rhythm, settle
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


def firings(schedule: Schedule, line: Line, *, boundaries: bool = True) -> Firings:
    """The ticks of a session at which a schedule of counts fires.

    Without `boundaries` it isn't asked on the opening and closing tick. The closing tick is spared
    by what fired at the same counts. Raises nothing; the time it takes is that of the firings of
    one period.
    """
    memory = schedule.initial
    opening = False
    if boundaries:
        opening, stepped = schedule.step(line.tick("start", line.start), memory)
        # A resumed session's opening tick changes no memory.
        memory = stepped if line.session == 1 else memory
    found = repeating(schedule, line)
    if found is None:
        found, memory = remembered(schedule, line, memory)
    stretches = tuple(stretch for stretch in found if stretch.pattern)
    made = Firings(stretches, opening)
    spared = made.within(line.stop, line.stop) if line.stop > line.start else opening
    closing, _ = schedule.step(line.tick("end", line.stop), memory)
    return replace(made, closing=boundaries and closing and not spared)


def repeating(schedule: Schedule, line: Line) -> list[Stretch] | None:
    """The stretches between the edges of its rhythm, if it has one."""
    scale = Scale(line.feed, line.stop)
    found = rhythm(schedule, scale)
    if found is None:
        return None
    inner = sorted(edge for edge in found.edges if line.start < edge < line.stop)
    edges = [line.start, *inner, line.stop]
    return [stretch(schedule, line, scale, *pair) for pair in pairwise(edges)]


def stretch(schedule: Schedule, line: Line, scale: Scale, start: int, stop: int) -> Stretch:
    """The firings between two edges, from those of one period."""
    settled = settle(schedule, line.tick("update", start + 1), scale)
    found = rhythm(settled, scale) or Rhythm()
    once = jumps(settled, line, start, min(start + found.period, stop), None)
    pattern = tuple(update - start for update, fires, _ in once if fires)
    return Stretch(start, stop, found.period, pattern)


def remembered(schedule: Schedule, line: Line, memory: Memory) -> tuple[list[Stretch], Memory]:
    """Its firings as one stretch that does not repeat, and its memory after them."""
    pattern = []
    for update, fires, stepped in jumps(schedule, line, line.start, line.stop, memory):
        memory = stepped
        if fires:
            pattern.append(update - line.start)
    length = max(line.stop - line.start, 1)
    return [Stretch(line.start, line.stop, length, tuple(pattern))], memory


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
