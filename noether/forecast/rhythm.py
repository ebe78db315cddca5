"""What repeats in a schedule: between two edges, its firings come again with a period.

Whether it fires is asked of the schedule itself, in one period; here is only how long that is.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from noether.feed import Feed, reaching
from noether.schedules import Schedule, Tick, always, never
from noether.schedules.terms import OPERATORS


@dataclass(frozen=True, slots=True)
class Scale:
    """The units of a run in updates."""

    feed: Feed
    total: int
    """Updates of the run."""
    by_epoch: bool = False
    """Whether each epoch is a stretch of its own, in which updates are alike but for the last."""

    def reaching(self, unit: str, count: float) -> int:
        """The update that reaches a count."""
        if unit == "fraction":
            return math.ceil(count * self.total)
        return reaching(self.feed, unit, count)

    def period(self, unit: str, n: Any) -> int:
        """The updates after which marks at multiples of n lie alike again."""
        if unit == "fraction":
            return Fraction(n * self.total).numerator or 1
        if unit == "updates":
            return int(n)
        if self.by_epoch:
            size = self.feed.batch_size
            return 1 if unit == "epochs" else math.lcm(n, size) // size
        if unit == "epochs":
            return int(n * self.feed.updates_per_epoch) or 1
        samples = self.feed.samples_per_epoch or 1
        epochs: int = math.lcm(n, samples) // samples
        return epochs * self.feed.updates_per_epoch or 1


def period(schedule: Schedule, scale: Scale) -> int:
    """The updates after which the firings of a schedule of counts come again between two edges;
    of one that remembers, as long as its memory, seen from where the run stands, is the same.

    Right as long as the feed's epochs all have the same updates.
    """
    return math.lcm(*(_period(scale, *leaf) for leaf in leaves(schedule)))


def _period(scale: Scale, term: str, options: Mapping[str, Any]) -> int:
    if term not in ("every", "cooldown"):
        return 1
    (unit, n), *_ = options.items()
    # Which marks a cooldown drops depends on how long ago, not on where the count stands.
    return scale.period(unit, n if term == "every" else 1)


def edges(schedule: Schedule, scale: Scale) -> set[int]:
    """The updates after which the firings of a schedule of counts begin to follow another rule."""
    found = {edge for term, options in leaves(schedule) for edge in _edges(scale, term, options)}
    if scale.by_epoch:
        ends = range(0, scale.total + 1, scale.feed.updates_per_epoch or 1)
        found.update(edge for end in ends for edge in (end - 1, end))
    return found


def _edges(scale: Scale, term: str, options: Mapping[str, Any]) -> Iterator[int]:
    for unit, given in options.items():
        if term == "every" and unit != "start":
            yield scale.reaching(unit, options.get("start", given)) - 1
            if unit == "fraction":
                yield scale.total
        elif term == "at":
            for point in given if isinstance(given, tuple) else (given,):
                mark = scale.reaching(unit, point)
                yield from (mark - 1, mark)
        elif term in ("after", "until"):  # the last update at which the count is no more than k
            yield scale.reaching(unit, given + 1) - 1
        elif term == "between":
            first, last = given
            yield from (scale.reaching(unit, first) - 1, scale.reaching(unit, last + 1) - 1)


SHORT = 4
"""Questions that a stretch of its own is worth."""


def scaled(schedule: Schedule, feed: Feed, total: int) -> Scale:
    """The scale on which a schedule's firings are known by the fewest questions.

    Where the samples of an epoch and a period of them have little in common, both repeat together
    only after very many epochs, and epoch by epoch is the shorter way.
    """
    whole, by_epoch = Scale(feed, total), Scale(feed, total, by_epoch=True)
    length = max(feed.updates_per_epoch, 1)
    questions = (min(period(schedule, by_epoch), length) + SHORT) * (total // length + 1)
    return by_epoch if questions < min(period(schedule, whole), total) else whole


def settle(schedule: Schedule, tick: Tick, scale: Scale) -> Schedule:
    """The schedule without its parts that say the same on every tick between two edges.

    They are asked on one of the ticks; what is left may have a much shorter period.
    """
    if schedule.term in ("&", "|"):
        decides, passes = (never, always) if schedule.term == "&" else (always, never)
        parts = [settle(part, tick, scale) for part in schedule.expression.arguments]
        left = [part for part in parts if part != passes] or [passes]
        if decides in parts:
            return decides
        return left[0] if len(left) == 1 else OPERATORS[schedule.term](*left)
    if period(schedule, scale) == 1:
        return always if schedule.asks(tick) else never
    return schedule


def leaves(schedule: Schedule) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The terms that others join or narrow, with their options; `cooldown` is one of them."""
    expression = schedule.expression
    inner = [part for part in expression.arguments if isinstance(part, Schedule)]
    if not inner or expression.term == "cooldown":
        yield expression.term, dict(expression.options)
    for part in inner:
        yield from leaves(part)
