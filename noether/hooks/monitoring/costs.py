"""What the callbacks themselves cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from noether.callback import Callback, factory
from noether.effects import Log
from noether.schedules import Schedule, every
from noether.state import TrainState


@dataclass(frozen=True, slots=True)
class Counted:
    """What each callback had taken at the last firing, in seconds, and in which session."""

    session: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@factory
def hook_times(*, schedule: Schedule | None = None) -> Callback:
    """Log `time/hook/{name}`: seconds that each callback's hooks took since the last firing.

    A data pass counts for the callback that it is made for, one that several share for the first
    of them; what effects take does not count. Runs on `schedule`, by default every 100 updates;
    what was spent before a resume and not yet logged is left out. Over ranks: the most.

    >>> str(hook_times().schedule)
    'every(updates=100)'
    """
    return Callback(
        "hook_times",
        init=_nothing_counted,
        on_schedule=_log_costs,
        schedule=every(updates=100) if schedule is None else schedule,
        reads=(),
        writes=("time/hook/*",),
        on_error="warn",
    )


def _nothing_counted(state: TrainState) -> Counted:
    return Counted()


def _log_costs(state: TrainState, earlier: Counted) -> tuple[Counted, Log | None]:
    now = Counted(state.now.session, dict(state.hook_seconds))
    known = earlier.seconds if earlier.session == now.session else {}
    took = {
        f"time/hook/{name}": seconds - known.get(name, 0.0) for name, seconds in now.seconds.items()
    }
    return now, Log(took, over_ranks="max") if took else None
