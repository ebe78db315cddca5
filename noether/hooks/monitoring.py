"""What a run is doing: progress, losses, learning rates, sizes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from noether.callback import Callback, factory
from noether.effects import Effect, Log, Say
from noether.progress import Progress
from noether.schedules import Schedule, every, once_at_end, once_at_start
from noether.state import TrainState


@factory
def progress(*, schedule: Schedule | None = None) -> Callback:
    """Say where the run is: share, epoch, update, sample, last losses, pace and time left.

    Runs on `schedule`, by default every 50 updates and on the closing tick. The pace is that of
    this session alone, its first stretch left out as warm-up.

    >>> progress().name
    'progress'
    """
    return Callback(
        "progress",
        init=_no_mark,
        on_schedule=_say_progress,
        schedule=every(updates=50) | once_at_end if schedule is None else schedule,
        reads=(),
        reads_optional=("loss/online/total/*", "loss/*/total", "accuracy/*"),
        writes=(),
        on_error="warn",
    )


def _no_mark(state: TrainState) -> Progress | None:
    return None


def _say_progress(state: TrainState, mark: Progress | None) -> tuple[Progress, Say]:
    return state.now, Say("  ".join(_progress_parts(state, mark)))


def _progress_parts(state: TrainState, mark: Progress | None) -> Iterator[str]:
    now, total = state.now, state.total
    if total.update:
        yield f"{min(now.update / total.update, 1):4.0%}"
    yield f"epoch {now.epoch}  update {now.update}  sample {now.sample}"
    for name in _shown(state.metrics):
        yield f"{name} {state.metrics[name]:.4g}"
    if mark is None or mark.session != now.session or now.update <= mark.update:
        return
    pace = (now.seconds - mark.seconds) / (now.update - mark.update)
    yield f"{pace * 1000:.3g} ms/update"
    if total.update:
        left = max(total.update - now.update, 0) * pace
        yield f"{timedelta(seconds=round(left))} left"


def _shown(metrics: Mapping[str, float]) -> list[str]:
    """Total losses and accuracies; of several online intervals the longest."""
    online = [name for name in metrics if name.startswith("loss/online/total/")]
    totals = [n for n in metrics if n.startswith("loss/") and n.endswith("/total")]
    others = [*totals, *(n for n in metrics if n.startswith("accuracy/"))]
    return sorted(online, key=lambda name: (len(name), name))[-1:] + sorted(others)


@dataclass(frozen=True, slots=True)
class LossSum:
    """Sums of losses over performed updates, weighted by samples, and what was left out."""

    sums: Mapping[str, Any]
    samples: int = 0
    skipped: int = 0


@factory
def online_loss() -> Callback:
    """Log `loss/online/{loss}/{I}`: the mean over all samples since the last firing.

    Adds up after every update on the device; reads it when the schedule fires. Updates skipped
    for being non-finite are left out of the mean and counted in `loss/online/skipped/{I}` once
    there are any.

    >>> online_loss().writes
    ('loss/online/*/{I}',)
    """
    return Callback(
        "online_loss",
        init=_no_losses,
        after_update=_add_loss,
        on_schedule=_log_loss,
        reads=(),
        writes=("loss/online/*/{I}",),
        on_error="warn",
    )


def _no_losses(state: TrainState) -> LossSum:
    return LossSum({})


def _add_loss(state: TrainState, total: LossSum) -> tuple[LossSum, None]:
    if not state.performed:
        return replace(total, skipped=total.skipped + 1), None
    samples = state.now.sample - state.before.sample
    sums = {n: total.sums.get(n, 0.0) + loss.double() * samples for n, loss in state.losses.items()}
    return LossSum(sums, total.samples + samples, total.skipped), None


def _log_loss(state: TrainState, total: LossSum) -> tuple[LossSum, Log | None]:
    means = {f"loss/online/{n}/{{I}}": s / total.samples for n, s in total.sums.items()}
    if total.skipped:
        means["loss/online/skipped/{I}"] = total.skipped
    return LossSum({}), Log(means) if means else None


@factory
def learning_rate(*, weight_decay: bool = True, momentum: bool = False) -> Callback:
    """Log `optim/lr/model`, `optim/wd/model`, `optim/momentum/model`, by group where named.

    >>> learning_rate(momentum=True).name
    'learning_rate'
    """
    wanted = {"lr": "lr"}
    if weight_decay:
        wanted["weight_decay"] = "wd"
    if momentum:
        wanted["momentum"] = "momentum"

    def log_rates(state: TrainState) -> Log:
        return Log(
            {
                f"optim/{short}/model{'' if group == 'default' else f'/{group}'}": values[key]
                for group, values in state.hyper.items()
                for key, short in wanted.items()
                if key in values
            }
        )

    return Callback(
        "learning_rate",
        on_schedule=log_rates,
        reads=(),
        writes=tuple(f"optim/{short}/*" for short in wanted.values()),
        on_error="warn",
    )


@factory
def param_count(*, depth: int = 1) -> Callback:
    """Log `param_count/total` and `param_count/{child}`, each also `/trainable` and `/frozen`.

    Runs once, on the opening tick of the run; `depth` is how deep children are told apart.

    >>> str(param_count().schedule)
    'once_at_start'
    """
    if depth < 1:
        raise ValueError(f"param_count: depth is {depth}; expected 1 or more")

    def count_parameters(state: TrainState) -> list[Effect]:
        counts: dict[str, int] = {}
        for name, parameter in state.model.parameters.items():
            kind = "trainable" if parameter.requires_grad else "frozen"
            for part in ("total", *_ancestors(name, depth)):
                for key in (part, f"{part}/trainable", f"{part}/frozen"):
                    amount = 0 if key.startswith(f"{part}/") and key != f"{part}/{kind}" else 1
                    counts[key] = counts.get(key, 0) + amount * parameter.numel()
        metrics = {f"param_count/{key}": count for key, count in counts.items()}
        said = (
            f"{counts.get('total', 0):,} parameters, {counts.get('total/trainable', 0):,} trained"
        )
        return [Log(metrics, summary=True), Say(said)]

    return Callback(
        "param_count",
        on_schedule=count_parameters,
        schedule=once_at_start,
        reads=(),
        writes=("param_count/*",),
        on_error="warn",
    )


def _ancestors(name: str, depth: int) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(min(depth, len(parts)))]
