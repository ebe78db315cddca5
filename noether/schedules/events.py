"""Schedules of the opening and the closing tick, and the two constants."""

from noether.schedules.expression import Expression
from noether.schedules.schedule import Moment, Schedule, memoryless, never_again, soon


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


once_at_start: Schedule = memoryless(Expression("once_at_start"), opens_run, never_again)
"""Fires at the opening tick of the run, not of a resumed session."""

each_session: Schedule = memoryless(Expression("each_session"), opens_session, never_again)
"""Fires at the opening tick of every session; on resume alone: `each_session & ~once_at_start`."""

once_at_end: Schedule = memoryless(Expression("once_at_end"), closes_run, never_again)
"""Fires at the closing tick of a run that is over, finished or stopped on purpose."""

always: Schedule = memoryless(Expression("always"), holds, soon)
"""Fires on every tick, the opening and the closing one included."""

never: Schedule = memoryless(Expression("never"), fails, never_again)
"""Never fires."""
