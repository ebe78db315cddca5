"""The calendar: the ticks at which something surely fires, in order, made as it is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge, nlargest
from itertools import groupby, islice
from operator import itemgetter
from typing import Literal

from noether.forecast import Firings
from noether.plan.planning import Plan
from noether.progress import Progress


@dataclass(frozen=True, slots=True)
class Entry:
    """A tick at which something fires, and the names of what does, in the fold's order."""

    tick: Literal["start", "update", "end"]
    now: Progress
    fires: tuple[str, ...]


def calendar(plan: Plan) -> Iterator[Entry]:
    """The ticks at which something surely fires.

    >>> from noether import Callback, every, once_at_start
    >>> from noether.plan.planning import plan
    >>> made = plan(
    ...     [Callback("a", on_schedule=print, schedule=every(updates=4) | once_at_start)],
    ...     samples=10, until={"updates": 9},
    ... )
    >>> [(entry.tick, entry.now.update) for entry in calendar(made)]
    [('start', 0), ('update', 4), ('update', 8)]
    """
    line = plan.line
    names = [found.callback.name for found in plan.forecasts]
    opening = tuple(f.callback.name for f in plan.forecasts if f.sure.opening)
    closing = tuple(f.callback.name for f in plan.forecasts if f.sure.closing)
    if opening:
        yield Entry("start", line.at(line.start), opening)
    every = [positioned(found.sure, place) for place, found in enumerate(plan.forecasts)]
    for update, pairs in groupby(merge(*every), key=itemgetter(0)):
        yield Entry("update", line.at(update), tuple(names[place] for _, place in pairs))
    if closing:
        yield Entry("end", line.at(line.stop), closing)


def positioned(firings: Firings, place: int) -> Iterator[tuple[int, int]]:
    for update in firings:
        yield update, place


def busiest(plan: Plan, most: int, *, within: int) -> list[Entry]:
    """The updates at which most callbacks fire together, of the first `within` in the calendar."""
    together = (entry for entry in islice(calendar(plan), within) if len(entry.fires) > 1)
    return nlargest(most, together, key=lambda entry: len(entry.fires))
