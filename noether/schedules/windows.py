"""Windows: they hold on all ticks of a stretch, so they drop marks and never move one."""

from collections.abc import Callable, Mapping
from typing import Any

from noether.progress import Progress
from noether.schedules import arguments
from noether.schedules.algebra import all_of
from noether.schedules.expression import Expression
from noether.schedules.schedule import Asks, Moment, Pace, Schedule, memoryless
from noether.schedules.units import CLOCK, PREDICTED, reach, reader, scaled

Edges = tuple[Any, Any]
"""The first and the last count inside, either of them None where the window is open."""


def after(**units: float) -> Schedule:
    """Holds once the count is above k; of several units, all must be.

    The tick that closes epoch 3 is the first at which `after(epochs=2)` holds.

    >>> after(updates=8).fires(Progress(update=8), Progress(update=9))
    True
    """
    given = arguments.several_units("after", units, arguments.bound)
    # Counts are integers, time in nanoseconds too, so above k is at least floor(k) + 1.
    return window("after", given, lambda unit, k: (scaled(unit, k) // 1 + 1, None))


def until(**units: float) -> Schedule:
    """Holds as long as the count is at most k; of several units, all must be.

    >>> until(updates=8).fires(Progress(update=8), Progress(update=9))
    False
    """
    given = arguments.several_units("until", units, arguments.bound)
    return window("until", given, lambda unit, k: (None, scaled(unit, k)))


def between(**units: tuple[float, float]) -> Schedule:
    """Holds from the first count of a pair to the second, both inside; of several units, in all.

    >>> schedule = between(updates=(2, 4))
    >>> [u for u in range(1, 9) if schedule.fires(Progress(update=u - 1), Progress(update=u))]
    [2, 3, 4]
    """
    given = arguments.several_units("between", units, pair)
    return window("between", given, lambda unit, k: (scaled(unit, k[0]), scaled(unit, k[1])))


def pair(subject: str, unit: str, value: object) -> tuple[float, float]:
    """Two bounds in order."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise TypeError(f"{subject}: this is no pair. Give two counts, (2, 4) say.")
    first, last = (arguments.bound(subject, unit, edge) for edge in value)
    if first > last:
        raise ValueError(f"{subject}: {first} comes after {last}. Give the smaller one first.")
    return first, last


def window(
    term: str, given: tuple[tuple[str, Any], ...], edges: Callable[[str, Any], Edges]
) -> Schedule:
    """A window in each of the units given."""
    bounds = {unit: edges(unit, value) for unit, value in given}
    tests = [inside(unit, *bounds[unit]) for unit in bounds]

    def ahead(now: Progress, pace: Pace) -> int | None:
        return entrance(bounds, now, pace)

    return memoryless(
        Expression(term, (), given),
        all_of(tests),
        ahead,
        clocked=any(unit in CLOCK for unit in bounds),
        predicted=all(unit in PREDICTED for unit in bounds),
    )


def inside(unit: str, first: Any, last: Any) -> Asks:
    """The test of one unit."""
    count = reader(unit)
    if last is None:
        return lambda tick: bool(count(tick.now) >= first)
    if first is None:
        return lambda tick: bool(count(tick.now) <= last)

    def asks(tick: Moment) -> bool:
        return bool(first <= count(tick.now) <= last)

    return asks


def entrance(bounds: Mapping[str, Edges], now: Progress, pace: Pace) -> int | None:
    """The next update, as a lower bound, inside all of the windows; None behind one of them."""
    update = int(now.update) + 1
    for unit, (first, _) in bounds.items():
        if first is not None:
            update = max(update, reach(unit, first, now, pace))
    for unit, (_, last) in bounds.items():
        count = update if unit == "updates" else reader(unit)(now)
        if last is not None and count > last:
            return None
    return update
