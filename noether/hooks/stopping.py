"""When a run has gone on long enough."""

from dataclasses import dataclass

from noether.callback import Callback, factory
from noether.effects import Effect, Say, Stop
from noether.schedules import Schedule, when
from noether.schedules.metrics import direction, improves
from noether.state import TrainState


@dataclass(frozen=True, slots=True)
class Patience:
    """The best value so far, its update, and the fresh values since that were no better."""

    best: float | None = None
    update: int = 0
    count: int = 0


@factory
def early_stopping(
    *,
    metric: str,
    patience: int,
    mode: str = "auto",
    min_delta: float = 0.0,
    schedule: Schedule | None = None,
) -> Callback:
    """Stop after `patience` fresh values of `metric` in a row without improvement.

    An improvement is a finite value better than the best by more than `min_delta`. Values are
    counted, not epochs; on resume the count goes on under the new patience.

    >>> early_stopping(metric="loss/val/total", patience=3).reads
    ('loss/val/total',)
    """
    better = direction(metric, mode)
    if patience < 1 or min_delta < 0:
        raise ValueError(
            f"early_stopping: patience {patience}, min_delta {min_delta}; expected at least 1 and 0"
        )

    def watch(state: TrainState, seen: Patience) -> tuple[Patience, list[Effect]]:
        if metric not in state.fresh:
            return seen, []
        value = state.metrics[metric]
        if improves(value, seen.best, better, min_delta):
            return Patience(value, state.now.update), []
        seen = Patience(seen.best, seen.update, seen.count + 1)
        if seen.count < patience:
            return seen, [Say(f"{metric} {value:.4g} is no better, {seen.count}/{patience}")]
        best = "never finite" if seen.best is None else f"{seen.best:.4g} at update {seen.update}"
        reason = f"{metric} has not improved for {seen.count} values; best: {best}"
        return seen, [Stop(reason)]

    return Callback(
        f"early_stopping/{metric}",
        init=_nothing_seen,
        on_schedule=watch,
        schedule=when(metric) if schedule is None else schedule,
        reads=(metric,),
        writes=(),
        critical=True,
    )


def _nothing_seen(state: TrainState) -> Patience:
    return Patience()
