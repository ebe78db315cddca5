"""Schedules of the opening and the closing tick, and the two constants."""

from noether.schedules.expression import Expression
from noether.schedules.schedule import (
    NO_NAMES,
    Asks,
    Moment,
    Schedule,
    memoryless,
    never_again,
    soon,
)


def opens_run(tick: Moment) -> bool:
    return tick.event == "start" and tick.now.session == 1


def opens_session(tick: Moment) -> bool:
    return tick.event == "start"


def closes_run(tick: Moment) -> bool:
    return tick.event == "end"


def holds(tick: Moment) -> bool:
    return True


def fails(tick: Moment) -> bool:
    return False


def off_updates(term: str, asks: Asks) -> Schedule:
    """A schedule that no update's tick fires."""
    return memoryless(Expression(term), asks, never_again, awaits=NO_NAMES)


once_at_start: Schedule = off_updates("once_at_start", opens_run)
"""Fires at the opening tick of the run, not of a resumed session."""

each_session: Schedule = off_updates("each_session", opens_session)
"""Fires at the opening tick of every session; on resume alone: `each_session & ~once_at_start`."""

once_at_end: Schedule = off_updates("once_at_end", closes_run)
"""Fires at the closing tick of a run that is over, finished or stopped on purpose."""

always: Schedule = memoryless(Expression("always"), holds, soon)
"""Fires on every tick, the opening and the closing one included."""

never: Schedule = off_updates("never", fails)
"""Never fires."""
