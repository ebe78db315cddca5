"""Moments inside a run: each update has places, one after the other, at which hooks run."""

from dataclasses import dataclass

from noether.callback import Callback
from noether.forecast.firing import Line
from noether.forecast.stretches import Firings

PLACES = 7
"""Places of an update: see `PLAIN` and `SCHEDULED`."""
PLAIN = {"after_accumulation_step": 0, "before_update": 2, "after_update": 4, "after_epoch": 5}
"""Where the hooks of every update run."""
SCHEDULED = {"after_accumulation_step": 1, "before_update": 3, "tick": 6}
"""Where scheduled hooks run, by their point."""
NEVER = PLACES * 2**63


@dataclass(frozen=True, slots=True)
class Span:
    """Between which moments something first happens."""

    soon: int
    late: int

    @property
    def unsure(self) -> bool:
        return self.soon != self.late


def moment(update: int, place: int) -> int:
    """A place of an update, as a number that grows along the run."""
    return PLACES * update + place


def scheduled(callback: Callback) -> int:
    """The place at which a callback's scheduled hook runs."""
    return SCHEDULED[callback.point]


def opening(update: int) -> int:
    """The moment of `before_training` in a session that goes on after an update."""
    return moment(update, PLAIN["after_update"])


def arrives(since: int, place: int) -> int:
    """The first update whose place is not before a moment."""
    return max(-(-(since - place) // PLACES), 0)


def plain(hook: str, since: int, line: Line) -> int:
    """The first moment, not before another, at which a hook of every update or epoch runs."""
    place = PLAIN[hook]
    if hook == "after_accumulation_step" and line.feed.accumulate > 1:
        place += 1  # what a scheduled hook of one micro-batch reports, the next one finds
    update = max(arrives(since, place), line.start + 1)
    if hook == "after_epoch":
        length = line.feed.updates_per_epoch or 1
        update = -(-update // length) * length
    return moment(update, place) if update <= line.stop else NEVER


def first(found: Firings, place: int, line: Line) -> int:
    """The moment of a scheduled hook's first firing that leaves a trace."""
    if found.opening and line.session == 1:
        return moment(line.start, place)
    update = next(iter(found), line.stop + 1)
    return moment(update, place) if update <= line.stop or found.closing else NEVER
