"""Ending a run at a count, or when a metric has got somewhere."""

from collections.abc import Callable

from noether.callback import Callback, factory
from noether.effects import Stop
from noether.schedules import Schedule, when
from noether.state import TrainState


@factory
def stop_at(
    *, epoch: int | None = None, update: int | None = None, sample: int | None = None
) -> Callback:
    """Stop in the first tick whose count is this or more, after all else in that tick.

    A session that begins there makes no update.
    The horizon stays that of the run: for a run that is planned shorter, `until=` is the place.

    Raises ValueError unless exactly one count is given, and positive.

    >>> stop_at(epoch=3).name
    'stop_at/epoch'
    """
    given = {"epoch": epoch, "update": update, "sample": sample}
    said = {unit: limit for unit, limit in given.items() if limit is not None}
    if len(said) != 1 or min(said.values()) < 1:
        raise ValueError(
            f"stop_at: found {said or 'nothing'}; expected one of epoch, update, sample, positive"
        )
    ((unit, limit),) = said.items()

    def look(state: TrainState) -> Stop | None:
        reached = getattr(state.now, unit)
        return Stop(f"reached {unit} {limit}") if reached >= limit else None

    return Callback(
        f"stop_at/{unit}",
        before_training=look,
        after_update=look,
        reads=(),
        writes=(),
        critical=True,
    )


@factory
def threshold_stop(
    *,
    metric: str,
    above: float | None = None,
    below: float | None = None,
    schedule: Schedule | None = None,
) -> Callback:
    """Stop when a fresh value of `metric` is above, or below, the target.

    Raises ValueError unless exactly one of `above` and `below` is given.

    >>> threshold_stop(metric="accuracy/val", above=0.97).name
    'threshold_stop/accuracy/val'
    """
    side, limit = one_side("threshold_stop", above, below)

    def look(state: TrainState) -> Stop | None:
        value = state.metrics[metric]
        if metric not in state.fresh or not beyond(value, side, limit):
            return None
        return Stop(f"{metric} is {value:.4g}, {side} {limit:g}")

    return Callback(
        f"threshold_stop/{metric}",
        on_schedule=look,
        schedule=when(metric) if schedule is None else schedule,
        reads=(metric,),
        writes=(),
        critical=True,
    )


def one_side(who: str, above: float | None, below: float | None) -> tuple[str, float]:
    """Which of two limits is given; raises ValueError unless it is one, and a number."""
    if (above is None) == (below is None):
        raise ValueError(f"{who}: above {above}, below {below}; expected one of them")
    side, limit = ("below", below) if above is None else ("above", above)
    if limit is None or limit != limit:
        raise ValueError(f"{who}: {side} is {limit}; expected a number")
    return side, limit


def looks(who: str, start: Schedule | None) -> Callable[[TrainState], bool]:
    """Whether a tick is looked at; raises ValueError for a start that remembers."""
    if start is None:
        return lambda state: True
    if start.initial is not None:
        raise ValueError(f"{who}: start is {start}; one that remembers can't be")
    return start.asks


def reads(metric: str, start: Schedule | None) -> tuple[str, ...]:
    """The metrics that are looked at, those of the start among them."""
    return tuple(dict.fromkeys((metric, *sorted(() if start is None else start.reads))))


def beyond(value: float, side: str, limit: float) -> bool:
    """Whether a value is on that side of the limit; one that is no number is on neither."""
    return value > limit if side == "above" else value < limit
