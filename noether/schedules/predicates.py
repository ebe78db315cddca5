"""`where`: a condition of one's own."""

from collections.abc import Callable
from reprlib import repr as shown
from typing import Any

from noether.schedules.expression import Expression
from noether.schedules.schedule import Moment, Schedule, memoryless, soon


def where(predicate: Callable[[Any], object]) -> Schedule:
    """Fires when a pure function of the tick says so.

    The function sees a `Tick` or a whole `TrainState`, and may look at what both have: `before`,
    `now`, `event`, `total`, `metrics` and `fresh`. It has no form in text.

    >>> from noether.progress import Progress
    >>> def odd(tick):
    ...     return tick.now.update % 2
    >>> where(odd), where(odd).fires(Progress(update=2), Progress(update=3))
    (where(odd), True)
    """
    if isinstance(predicate, Schedule) or not callable(predicate):
        raise TypeError(
            f"where({shown(predicate)}): this is no function of the tick. "
            "Give one, or write the schedule itself."
        )

    def asks(tick: Moment) -> bool:
        return bool(predicate(tick))

    return memoryless(Expression("where", (predicate,)), asks, soon, predicted=False)
