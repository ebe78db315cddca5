"""Ending a run that gets worse and worse."""

from dataclasses import dataclass

from noether.callback import Callback, factory
from noether.effects import Stop
from noether.hooks.stopping.limits import beyond, looks, one_side, reads
from noether.schedules import Schedule, when
from noether.schedules.metrics import Mode, direction, improves
from noether.state import TrainState


@dataclass(frozen=True, slots=True)
class Best:
    """The best value so far."""

    value: float | None = None


@factory
def divergence_stop(
    *,
    metric: str,
    above: float | None = None,
    below: float | None = None,
    factor: float | None = None,
    mode: Mode = "auto",
    start: Schedule | None = None,
    schedule: Schedule | None = None,
) -> Callback:
    """Stop when a fresh value of `metric` is out of bounds, or `factor` times worse than the best.

    Where less is better, that is a value above `factor` times the best so far; where more is, one
    below the best divided by it; both need metrics that are positive. A value that is not finite
    is worse than any. `start`: values of ticks where it does not fire are not looked at.

    Raises ValueError unless exactly one of `above`, `below`, `factor` is given, the factor above 1.

    >>> divergence_stop(metric="loss/val/total", factor=3).name
    'divergence_stop/loss/val/total'
    """
    if factor is not None and (above is not None or below is not None or not factor > 1):
        raise ValueError(
            f"divergence_stop: factor {factor}, above {above}, below {below}; expected one of "
            "them, and a factor above 1"
        )
    looked_at = looks("divergence_stop", start)
    better = "min" if factor is None else direction(metric, mode)
    side, limit = ("", 0.0) if factor is not None else one_side("divergence_stop", above, below)

    def look(state: TrainState, best: Best) -> tuple[Best, Stop | None]:
        if metric not in state.fresh or not looked_at(state):
            return best, None
        value = state.metrics[metric]
        improved = improves(value, best.value, better)
        return (Best(value), None) if improved and factor else (best, _verdict(value, best.value))

    def _verdict(value: float, best: float | None) -> Stop | None:
        if value - value != 0:
            return Stop(f"{metric} is {value}, which is not finite")
        if factor is None:
            out = beyond(value, side, limit)
            return Stop(f"{metric} is {value:.4g}, {side} {limit:g}") if out else None
        worse = best is not None and (
            value > factor * best if better == "min" else value < best / factor
        )
        said = f"{metric} is {value:.4g}, more than {factor:g} times worse than the best, {best}"
        return Stop(said) if worse else None

    return Callback(
        f"divergence_stop/{metric}",
        init=_none,
        on_schedule=look,
        schedule=when(metric) if schedule is None else schedule,
        reads=reads(metric, start),
        writes=(),
        critical=True,
    )


def _none(state: TrainState) -> Best:
    return Best()
