"""Marks on the time line: `every` and `at`. A schedule fires when a tick passes a mark."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from fractions import Fraction
from reprlib import repr as shown
from typing import Any, TypeAlias

from noether.progress import Progress
from noether.schedules import arguments
from noether.schedules.expression import Expression
from noether.schedules.schedule import Asks, Moment, Pace, Schedule, memoryless
from noether.schedules.shares import at_shares, every_share
from noether.schedules.units import CLOCK, PREDICTED, reach, reader, scaled

Mark: TypeAlias = Callable[[Progress], int | Fraction | None]
"""The next mark ahead of a point, in the unit's own count; None: there is no more."""


def every(*, start: float | None = None, **units: float | Fraction) -> Schedule:
    """Fires each time the count has grown by another n, once per tick however many marks it passed.

    The unit is `epochs`, `updates`, `samples`, `seconds`, `minutes`, `hours`, a counter of the
    feed (`every(tokens=1000)`), or `fraction`, of the run's updates, which needs a horizon. The
    marks are n, 2n, 3n, or with `start=k` k, k+n, k+2n; nothing fires at 0. What the feed does
    not count never fires.

    >>> schedule = every(samples=3)
    >>> [s for s in range(2, 13, 2) if schedule.fires(Progress(sample=s - 2), Progress(sample=s))]
    [4, 6, 10, 12]
    """
    unit, n = arguments.one_unit("every", units)
    subject = f"every({unit}={shown(n)})"
    if unit == "fraction":
        return every_share(subject, n, start)
    n = arguments.interval(subject, unit, n)
    options: tuple[tuple[str, Any], ...] = ((unit, n),)
    if start is not None:
        start = arguments.bound(f"every({unit}={n}, start={shown(start)})", unit, start)
        options += (("start", start),)
    period, first = scaled(unit, n), scaled(unit, n if start is None else start)
    return counted(
        Expression("every", (), options),
        unit,
        growing(unit, period, first),
        next_multiple(unit, period, first),
    )


def at(**units: float | Fraction | Iterable[float | Fraction]) -> Schedule:
    """Fires in the tick that reaches the point, or each of the points.

    The unit is one of those of `every`; the points are above 0.

    >>> schedule = at(updates=[3, 1])
    >>> schedule
    at(updates=[1, 3])
    >>> [u for u in range(1, 9) if schedule.fires(Progress(update=u - 1), Progress(update=u))]
    [1, 3]
    """
    unit, value = arguments.one_unit("at", units)
    subject = f"at({unit}={shown(value)})"
    given = tuple(value) if isinstance(value, list | tuple | set | frozenset | range) else (value,)
    if not given:
        raise ValueError(f"{subject}: there is no point. Give one or more; `never` never fires.")
    if unit == "fraction":
        return at_shares(subject, given)
    points = sorted({arguments.interval(subject, unit, point) for point in given})
    expression = Expression("at", (), ((unit, points[0] if len(points) == 1 else tuple(points)),))
    marks = [scaled(unit, point) for point in points]
    return counted(expression, unit, passing(unit, marks), next_point(unit, marks))


def counted(expression: Expression, unit: str, asks: Asks, mark: Mark) -> Schedule:
    def ahead(now: Progress, pace: Pace) -> int | None:
        target = mark(now)
        return None if target is None else reach(unit, target, now, pace)

    def rests(now: Progress, pace: Pace) -> tuple[None, int | Fraction | None]:
        return None, mark(now)

    clocked = unit in CLOCK
    return memoryless(
        expression,
        asks,
        ahead,
        clocked=clocked,
        predicted=unit in PREDICTED,
        rests=rests if clocked else None,
    )


def growing(unit: str, period: int | Fraction, first: int | Fraction) -> Asks:
    count = reader(unit)

    def asks(tick: Moment) -> bool:
        passed = (count(tick.now) - first) // period
        return bool(passed >= 0 and passed > (count(tick.before) - first) // period)

    return asks


def next_multiple(unit: str, period: int | Fraction, first: int | Fraction) -> Mark:
    count = reader(unit)

    def mark(now: Progress) -> int | Fraction | None:
        ordinal: int = max((count(now) - first) // period + 1, 0)
        return first + ordinal * period

    return mark


def passing(unit: str, marks: list[int | Fraction]) -> Asks:
    count = reader(unit)
    if len(marks) == 1:
        [mark] = marks
        return lambda tick: bool(count(tick.before) < mark <= count(tick.now))

    def asks(tick: Moment) -> bool:
        return bisect_right(marks, count(tick.now)) > bisect_right(marks, count(tick.before))

    return asks


def next_point(unit: str, marks: list[int | Fraction]) -> Mark:
    count = reader(unit)

    def mark(now: Progress) -> int | Fraction | None:
        passed = bisect_right(marks, count(now))
        return None if passed == len(marks) else marks[passed]

    return mark
