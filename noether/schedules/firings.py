"""Schedules that remember another one's firings: `first`, `skip` and `cooldown`."""

from reprlib import repr as shown

from noether.schedules import arguments
from noether.schedules.expression import Expression
from noether.schedules.schedule import Memory, Moment, Schedule, remembering
from noether.schedules.units import CLOCK, PREDICTED, reader, scaled


def first(n: int, schedule: Schedule) -> Schedule:
    """Fires with the first n firings of a schedule; it remembers how many there were.

    >>> from noether.schedules import every
    >>> first(2, every(epochs=1))
    first(2, every(epochs=1))
    """
    return numbered("first", n, schedule, early=True)


def skip(n: int, schedule: Schedule) -> Schedule:
    """Fires with all but the first n firings of a schedule; it remembers how many there were.

    >>> from noether.schedules import when
    >>> skip(1, when("loss/val/total"))
    skip(1, when("loss/val/total"))
    """
    return numbered("skip", n, schedule, early=False)


def numbered(term: str, n: int, schedule: Schedule, *, early: bool) -> Schedule:
    subject = f"{term}({shown(n)}, {shown(schedule)})"
    n, schedule = arguments.whole(subject, n), arguments.schedule(subject, schedule)

    def step(tick: Moment, memory: Memory) -> tuple[bool, Memory]:
        count, kept = memory
        fires, kept = schedule.step(tick, kept)
        if not fires:
            return False, (count, kept)
        return (count < n) is early, (min(count + 1, n), kept)

    initial = (0, schedule.initial)
    expression = Expression(term, (n, schedule))
    return remembering(
        expression, step, initial, schedule.ahead, parts=[schedule], awaits=schedule.awaits
    )


def cooldown(schedule: Schedule, **units: float) -> Schedule:
    """Fires with a schedule, unless it has fired less than so much ago; it remembers when.

    So any two firings are at least that far apart. The unit is one of those of `every`, but no
    fraction.

    >>> from noether.schedules import when
    >>> cooldown(when("loss/train", ">", 10), updates=100)
    cooldown(when("loss/train", ">", 10), updates=100)
    """
    unit, given = arguments.one_unit("cooldown", units)
    subject = f"cooldown({shown(schedule)}, {unit}={shown(given)})"
    if unit == "fraction":
        raise ValueError(f"{subject}: a fraction is no distance here. Give updates or epochs.")
    schedule = arguments.schedule(subject, schedule)
    given = arguments.interval(subject, unit, given)
    count, distance = reader(unit), scaled(unit, given)

    def step(tick: Moment, memory: Memory) -> tuple[bool, Memory]:
        last, kept = memory
        fires, kept = schedule.step(tick, kept)
        now = count(tick.now)
        if not fires or (last is not None and now - last < distance):
            return False, (last, kept)
        return True, (now, kept)

    return remembering(
        Expression("cooldown", (schedule,), ((unit, given),)),
        step,
        (None, schedule.initial),
        schedule.ahead,
        parts=[schedule],
        clocked=unit in CLOCK,
        predicted=unit in PREDICTED,
        awaits=schedule.awaits,
    )
