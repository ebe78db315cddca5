"""Which checkpoints a run keeps. Saving is a request: the core commits it last in the tick."""

from dataclasses import dataclass

from noether.callback import Callback, factory
from noether.effects import Effect, Save, Say
from noether.schedules import Schedule, every, once_at_end, when
from noether.schedules.metrics import direction, improves
from noether.state import TrainState


@factory
def checkpoint(
    *,
    keep_last: int | None = 2,
    keep_every: Schedule | None = None,
    schedule: Schedule | None = None,
) -> Callback:
    """Save the whole state, by default after each epoch and at the end; the newest ones stay.

    `keep_last` is how many stay (None: all of them). Those of the ticks in which `keep_every`
    fires, which are saved in any case, stay for good.

    >>> str(checkpoint().schedule)
    'every(epochs=1) | once_at_end'
    >>> str(checkpoint(keep_every=every(epochs=10), schedule=every(updates=500)).schedule)
    'every(updates=500) | every(epochs=10)'
    """
    if keep_last is not None and keep_last < 1:
        raise ValueError(f"checkpoint: keep_last is {keep_last}; expected 1 or more, or None")
    if keep_every is not None and keep_every.initial is not None:
        raise ValueError(f"checkpoint: keep_every is {keep_every}; one that remembers can't be")
    schedule = every(epochs=1) | once_at_end if schedule is None else schedule

    def save(state: TrainState) -> list[Save]:
        kept = [Save("kept")] if keep_every is not None and keep_every.asks(state) else []
        return [Save("last", keep_last=keep_last), *kept]

    return Callback(
        "checkpoint",
        on_schedule=save,
        schedule=schedule if keep_every is None else schedule | keep_every,
        reads=(),
        writes=(),
        critical=True,
    )


@dataclass(frozen=True, slots=True)
class Best:
    """The best values so far, best first, as many as are kept."""

    values: tuple[float, ...] = ()


@factory
def best_checkpoint(
    *,
    metric: str,
    mode: str = "auto",
    min_delta: float = 0.0,
    keep_best: int = 1,
    schedule: Schedule | None = None,
) -> Callback:
    """Save when `metric` is among the `keep_best` best so far; those stay.

    Runs on `schedule`, by default whenever the metric is fresh. A value enters when it beats the
    worst of those kept by more than `min_delta`; ties keep the earlier. Tagged
    `best_model.{metric}`, the slashes as dots.

    >>> best_checkpoint(metric="loss/val/total").name
    'best_checkpoint/loss/val/total'
    """
    better = direction(metric, mode)
    if keep_best < 1 or min_delta < 0:
        raise ValueError(
            f"best_checkpoint: keep_best {keep_best}, min_delta {min_delta}; "
            "expected at least 1 and 0"
        )
    tag = f"best_model.{metric.replace('/', '.')}"

    def save_best(state: TrainState, best: Best) -> tuple[Best, list[Effect]]:
        value = state.metrics[metric]
        worst = best.values[-1] if len(best.values) == keep_best else None
        if metric not in state.fresh or not improves(value, worst, better, min_delta):
            return best, []
        save = Save(tag, keep_best=keep_best, metric=metric, value=value, mode=better)
        ranked = sorted([*best.values, value], reverse=better == "max")
        said = [Say(f"best {metric} so far: {value:.4g}")] if ranked[0] == value else []
        return Best(tuple(ranked[:keep_best])), [save, *said]

    return Callback(
        f"best_checkpoint/{metric}",
        init=_nothing_best,
        on_schedule=save_best,
        schedule=when(metric) if schedule is None else schedule,
        reads=(metric,),
        writes=(),
        critical=True,
    )


def _nothing_best(state: TrainState) -> Best:
    return Best()
