"""What repeats in a schedule: between two edges, its firings come again with a period.

Whether it fires is asked of the schedule itself, in one period; here is only how long that is.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from noether.feed import Feed, reaching
from noether.schedules import Schedule, Tick, always, never
from noether.schedules.terms import OPERATORS


@dataclass(frozen=True, slots=True)
class Rhythm:
    """After each edge, up to the next one, firings repeat every `period` updates."""

    period: int | None = 1
    """None: they never do."""
    edges: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Scale:
    """The units of a run in updates."""

    feed: Feed
    total: int
    """Updates of the run."""

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
        if unit == "epochs":
            return int(n * self.feed.updates_per_epoch) or 1
        samples = self.feed.samples_per_epoch or 1
        epochs: int = math.lcm(n, samples) // samples
        return epochs * self.feed.updates_per_epoch or 1


def rhythm(schedule: Schedule, scale: Scale) -> Rhythm:
    """The rhythm of a schedule of counts; of one that remembers, while its memory stays the same.

    Right as long as the feed's epochs all have the same updates.
    """
    found = [RHYTHMS[term](scale, arguments) for term, arguments in leaves(schedule)]
    periods = [part.period for part in found if part.period is not None]
    return Rhythm(
        math.lcm(*periods) if len(periods) == len(found) else None,
        frozenset[int]().union(*(part.edges for part in found)),
    )


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
    if rhythm(schedule, scale).period == 1:
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


def _every(scale: Scale, options: Mapping[str, Any]) -> Rhythm:
    (unit, n), *_ = options.items()
    first = options.get("start", n)
    edges = {scale.reaching(unit, first) - 1, *([scale.total] if unit == "fraction" else [])}
    return Rhythm(scale.period(unit, n), frozenset(edges))


def _at(scale: Scale, options: Mapping[str, Any]) -> Rhythm:
    ((unit, given),) = options.items()
    points = given if isinstance(given, tuple) else (given,)
    marks = [scale.reaching(unit, point) for point in points]
    return Rhythm(edges=frozenset(edge for mark in marks for edge in (mark - 1, mark)))


def _after(scale: Scale, options: Mapping[str, Any]) -> Rhythm:
    # The edge is the last update at which the count is no more than k.
    return Rhythm(edges=frozenset(scale.reaching(u, k + 1) - 1 for u, k in options.items()))


def _between(scale: Scale, options: Mapping[str, Any]) -> Rhythm:
    counts = [(unit, k) for unit, (a, b) in options.items() for k in (a, b + 1)]
    return Rhythm(edges=frozenset(scale.reaching(unit, k) - 1 for unit, k in counts))


def _cooldown(scale: Scale, options: Mapping[str, Any]) -> Rhythm:
    # It remembers where it fired last, which is never the same.
    return Rhythm(None)


def _even(scale: Scale, options: Mapping[str, Any]) -> Rhythm:
    return Rhythm()


RHYTHMS: Mapping[str, Callable[[Scale, Mapping[str, Any]], Rhythm]] = {
    "every": _every,
    "at": _at,
    "after": _after,
    "until": _after,
    "between": _between,
    "cooldown": _cooldown,
    **dict.fromkeys(("always", "never", "once_at_start", "each_session", "once_at_end"), _even),
}
