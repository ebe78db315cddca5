"""Which checkpoints a run keeps. Saving is a request: the core commits it last in the tick."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from noether.callback import Callback, factory
from noether.effects import Effect, Export, Load, Save, Say
from noether.schedules import Schedule, every, once_at_end, when
from noether.schedules.metrics import Direction, Mode, direction, improves
from noether.state import TrainState


@factory
def checkpoint(
    *,
    keep_last: int | None = 2,
    keep_every: Schedule | None = None,
    weights_only: bool = False,
    export: bool = False,
    models: Sequence[str] | None = None,
    schedule: Schedule | None = None,
) -> Callback:
    """Save the whole state, by default after each epoch and at the end; the newest ones stay.

    `keep_last` is how many stay (None: all of them). Those of the ticks in which `keep_every`
    fires, which are saved in any case, stay for good.

    export: also write the weights alone, as `weights/E{e}_U{u}_S{s}.safetensors`; they stay.
    weights_only: keep those files, and of whole checkpoints the newest alone, to go on from.
    models: the submodules whose weights are in these files; by default all.

    Raises ValueError for a number below 1, a `keep_every` that remembers, or `models` where
    nothing is exported; at the start for a submodule that is not there.

    >>> str(checkpoint().schedule)
    'every(epochs=1) | once_at_end'
    >>> str(checkpoint(keep_every=every(epochs=10), schedule=every(updates=500)).schedule)
    'every(updates=500) | every(epochs=10)'
    """
    _check(keep_last, keep_every, models, exports=export or weights_only)
    schedule = every(epochs=1) | once_at_end if schedule is None else schedule
    last = Save("last", keep_last=1 if weights_only else keep_last)

    def save(state: TrainState) -> list[Effect]:
        kept = [Save("kept")] if keep_every is not None and keep_every.asks(state) else []
        written = [_exported(state, models)] if export or weights_only else []
        return [last, *kept, *written]

    def check(state: TrainState) -> None:
        _check_models("checkpoint", models or (), state)

    return Callback(
        "checkpoint",
        before_training=None if models is None else check,
        on_schedule=save,
        schedule=schedule if keep_every is None else schedule | keep_every,
        reads=(),
        writes=(),
        critical=True,
    )


def _exported(state: TrainState, models: Sequence[str] | None) -> Export:
    now = state.now
    parts = None if models is None else tuple(models)
    return Export(f"E{now.epoch}_U{now.update}_S{now.sample}", models=parts)


def _check(
    keep_last: int | None,
    keep_every: Schedule | None,
    models: Sequence[str] | None,
    *,
    exports: bool,
) -> None:
    if keep_last is not None and keep_last < 1:
        raise ValueError(f"checkpoint: keep_last is {keep_last}; expected 1 or more, or None")
    if keep_every is not None and keep_every.initial is not None:
        raise ValueError(f"checkpoint: keep_every is {keep_every}; one that remembers can't be")
    if models is not None and not exports:
        raise ValueError(
            "checkpoint: models is given, but a checkpoint holds the whole model, to go on from; "
            "export=True or weights_only=True writes files of parts"
        )


def _check_models(who: str, models: Sequence[str], state: TrainState) -> None:
    names = (*state.model.parameters, *state.model.buffers)
    for model in models:
        if not any(name.startswith(f"{model}.") for name in names):
            parts = sorted({name.rpartition(".")[0] for name in names} - {""})
            raise ValueError(f"{who}: the model has no part {model!r}; it has {', '.join(parts)}")


@dataclass(frozen=True, slots=True)
class Best:
    """The best values so far, best first, as many as are kept."""

    values: tuple[float, ...] = ()
    first: float | None = None
    """The last one that was better than all before it."""
    count: int = 0
    """Fresh values since."""
    exceeded: tuple[int, ...] = ()
    """The tolerances below that count, now or earlier."""


@factory
def best_checkpoint(
    *,
    metric: str,
    mode: Mode = "auto",
    min_delta: float = 0.0,
    keep_best: int = 1,
    tolerances: Sequence[int] | None = None,
    export: bool = False,
    models: Sequence[str] | None = None,
    save_frozen_weights: bool = True,
    schedule: Schedule | None = None,
) -> Callback:
    """Save when `metric` is among the `keep_best` best so far; those stay.

    Runs on `schedule`, by default whenever the metric is fresh. A value enters when it beats the
    worst of those kept by more than `min_delta`; ties keep the earlier. Tagged
    `best_model.{metric}`, the slashes as dots.

    tolerances: for each number t keep, as `best_model.{metric}.tolerance={t}`, what
        `early_stopping(patience=t + 1)` would have left: the best until more than t fresh values
        in a row were no better.
    export: also write the weights of the best as `weights/best_model.{metric}.safetensors`, of
        the submodules `models` alone, and without those that are not trained if
        `save_frozen_weights` is False; either of them exports too.

    Raises ValueError for numbers out of range; at the start for a submodule that is not there.

    >>> best_checkpoint(metric="loss/val/total").name
    'best_checkpoint/loss/val/total'
    """
    better = direction(metric, mode)
    limits = _tolerances(tolerances, keep_best, min_delta)
    tag = _tag(metric)
    exports = export or models is not None or not save_frozen_weights
    parts = None if models is None else tuple(models)
    exported = [Export(tag, models=parts, frozen=save_frozen_weights)] if exports else []

    def save_best(state: TrainState, best: Best) -> tuple[Best, list[Effect]]:
        value = state.metrics[metric]
        if metric not in state.fresh:
            return best, []
        worst = best.values[keep_best - 1] if len(best.values) >= keep_best else None
        if improves(value, best.first, better, min_delta):
            best = replace(best, first=value, count=0)
            asked = [*_tolerated(best), *exported, Say(f"best {metric} so far: {value:.4g}")]
        else:
            best, asked = _later(best, limits), []
        if not improves(value, worst, better, min_delta):
            return best, asked
        ranked = sorted([*best.values, value], reverse=better == "max")
        save = _save(tag, keep_best, metric, value, better)
        return replace(best, values=tuple(ranked[:keep_best])), [save, *asked]

    def _tolerated(best: Best) -> list[Effect]:
        assert best.first is not None
        waiting = [limit for limit in limits if limit not in best.exceeded]
        tags = [f"{tag}.tolerance={limit}" for limit in waiting]
        return [_save(name, 1, metric, best.first, better) for name in tags]

    def check(state: TrainState, best: Best) -> tuple[Best, None]:
        _check_models("best_checkpoint", models or (), state)
        return best, None

    return Callback(
        f"best_checkpoint/{metric}",
        init=_nothing_best,
        before_training=None if models is None else check,
        on_schedule=save_best,
        schedule=when(metric) if schedule is None else schedule,
        reads=(metric,),
        writes=(),
        critical=True,
    )


@factory
def load_best_at_end(*, metric: str, mode: Mode = "auto", min_delta: float = 0.0) -> Callback:
    """Keep the best weights by `metric`, and put them into the model when the run is over.

    The checkpoint is that of `best_checkpoint(metric=...)`, which need not be there too. On the
    closing tick, whatever ended the run, the last state is saved first, as every checkpoint asked
    for; then the best weights are loaded, for whoever goes on with the model.

    >>> load_best_at_end(metric="loss/val/total").name
    'load_best_at_end/loss/val/total'
    """
    better = direction(metric, mode)
    _tolerances(None, 1, min_delta)
    tag = _tag(metric)

    def keep(state: TrainState, best: Best) -> tuple[Best, Save | None]:
        value = state.metrics[metric]
        if metric not in state.fresh or not improves(value, best.first, better, min_delta):
            return best, None
        return Best((value,), value), _save(tag, 1, metric, value, better)

    def load(state: TrainState, best: Best) -> tuple[Best, Load | None]:
        return best, None if best.first is None or state.exception else Load(tag)

    return Callback(
        f"load_best_at_end/{metric}",
        init=_nothing_best,
        on_schedule=keep,
        schedule=when(metric),
        after_training=load,
        reads=(metric,),
        writes=(),
        critical=True,
    )


def _nothing_best(state: TrainState) -> Best:
    return Best()


def _tag(metric: str) -> str:
    return f"best_model.{metric.replace('/', '.')}"


def _save(tag: str, keep_best: int, metric: str, value: float, better: Direction) -> Save:
    return Save(tag, keep_best=keep_best, metric=metric, value=value, mode=better)


def _later(best: Best, limits: Sequence[int]) -> Best:
    """After one more fresh value that was not the best."""
    count = best.count + 1
    exceeded = tuple(limit for limit in limits if count > limit or limit in best.exceeded)
    return replace(best, count=count, exceeded=exceeded)


def _tolerances(given: Sequence[int] | None, keep_best: int, min_delta: float) -> tuple[int, ...]:
    limits = tuple(given or ())
    odd = len(set(limits)) < len(limits) or min(limits, default=1) < 1
    if keep_best < 1 or not min_delta >= 0 or odd:
        raise ValueError(
            f"best_checkpoint: keep_best {keep_best}, min_delta {min_delta}, tolerances "
            f"{list(limits)}; expected at least 1, at least 0, and different numbers from 1 on"
        )
    return limits
