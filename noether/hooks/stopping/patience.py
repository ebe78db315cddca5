"""Ending a run whose metric has stopped to improve."""

import math
from dataclasses import dataclass
from typing import Literal

from noether.callback import Callback, factory
from noether.effects import Effect, Say, Stop
from noether.hooks.stopping.limits import looks, reads
from noether.schedules import Schedule, when
from noether.schedules.metrics import Mode, direction, improves
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
    mode: Mode = "auto",
    min_delta: float = 0.0,
    threshold_mode: Literal["abs", "rel"] = "abs",
    baseline: float | None = None,
    start: Schedule | None = None,
    check_finite: bool = True,
    schedule: Schedule | None = None,
) -> Callback:
    """Stop after `patience` fresh values of `metric` in a row without improvement.

    An improvement is a finite value better than the best by more than `min_delta`; with
    `threshold_mode="rel"` by more than that share of the best. Values are counted, not epochs; on
    resume the count goes on under the new patience.

    baseline: what the first value has to beat.
    start: values of ticks where it does not fire are not looked at: `after(epochs=3)`.
    check_finite: stop at once at a value that is NaN or infinite; else it is one no better.

    Raises ValueError for a patience below 1, a min_delta that is negative or no number, a baseline
    that is not finite, or a start that remembers.

    >>> early_stopping(metric="loss/val/total", patience=3).reads
    ('loss/val/total',)
    """
    better = direction(metric, mode)
    if patience < 1 or not min_delta >= 0 or threshold_mode not in ("abs", "rel"):
        raise ValueError(
            f"early_stopping: patience {patience}, min_delta {min_delta}, threshold_mode "
            f"{threshold_mode!r}; expected at least 1, at least 0, and 'abs' or 'rel'"
        )
    if baseline is not None and not math.isfinite(baseline):
        raise ValueError(f"early_stopping: baseline is {baseline}; expected a finite number")
    looked_at = looks("early_stopping", start)

    def begin(state: TrainState) -> Patience:
        return Patience(baseline)

    def watch(state: TrainState, seen: Patience) -> tuple[Patience, list[Effect]]:
        if metric not in state.fresh or not looked_at(state):
            return seen, []
        value = state.metrics[metric]
        if check_finite and not math.isfinite(value):
            return seen, [Stop(f"{metric} is {value}, which is not finite")]
        margin = min_delta * abs(seen.best or 0.0) if threshold_mode == "rel" else min_delta
        if improves(value, seen.best, better, margin):
            said = f"{metric} improved to {value:.4g}"
            return Patience(value, state.now.update), [Say(said)]
        return _no_better(metric, value, patience, seen)

    return Callback(
        f"early_stopping/{metric}",
        init=begin,
        on_schedule=watch,
        schedule=when(metric) if schedule is None else schedule,
        reads=reads(metric, start),
        writes=(),
        critical=True,
    )


def _no_better(
    metric: str, value: float, patience: int, seen: Patience
) -> tuple[Patience, list[Effect]]:
    seen = Patience(seen.best, seen.update, seen.count + 1)
    if seen.count < patience:
        return seen, [Say(f"{metric} {value:.4g} is no better, {seen.count}/{patience}")]
    return seen, [Stop(_reason(metric, seen))]


def _reason(metric: str, seen: Patience) -> str:
    best = "never finite" if seen.best is None else f"{seen.best:.4g} at update {seen.update}"
    return f"{metric} has not improved for {seen.count} values; best: {best}"
