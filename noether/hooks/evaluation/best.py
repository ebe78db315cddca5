"""What other metrics were when one was at its best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape

from noether.callback import Callback, factory
from noether.effects import Log
from noether.hooks.outputs.names import texts
from noether.schedules import Schedule, when
from noether.schedules.metrics import direction, improves
from noether.state import TrainState


@dataclass(frozen=True, slots=True)
class AtBest:
    """The best value so far, and what the targets were then."""

    best: float | None
    targets: Mapping[str, float]


@factory
def best_metric(
    *,
    source: str,
    targets: Sequence[str] | None = None,
    optional_targets: Sequence[str] | None = None,
    mode: str = "auto",
    min_delta: float = 0.0,
    schedule: Schedule | None = None,
) -> Callback:
    """Log `{target}/at_best/{source}`: each target's value when `source` was at its best.

    Runs on `schedule`, by default whenever `source` is fresh; while it doesn't improve, the old
    values are logged again. An improvement is a finite value better than the best by more than
    `min_delta`. It acts once all `targets` have been reported; one that nobody writes is an error
    before training, an optional one is left out.

    Raises ValueError where no target is given, or one twice.

    >>> best_metric(source="loss/val/total", targets=["accuracy/test"]).name
    'best_metric/loss/val/total'
    """
    required = texts("best_metric: targets", targets)
    optional = texts("best_metric: optional_targets", optional_targets)
    better = direction(source, mode)
    _check(required + optional, min_delta)

    def follow(state: TrainState, seen: AtBest) -> tuple[AtBest, Log | None]:
        if source not in state.fresh:
            return seen, None
        if improves(state.metrics[source], seen.best, better, min_delta):
            known = [name for name in required + optional if name in state.metrics]
            values = {name: state.metrics[name] for name in known}
            seen = AtBest(state.metrics[source], values)
        metrics = {f"{name}/at_best/{source}": value for name, value in seen.targets.items()}
        return seen, Log(metrics) if metrics else None

    return Callback(
        f"best_metric/{source}",
        init=_nothing_best,
        on_schedule=follow,
        schedule=when(source) if schedule is None else schedule,
        reads=(source, *required),
        reads_optional=optional,
        writes=tuple(_alone(f"{name}/at_best/{source}") for name in required + optional),
        on_error="warn",
    )


def _alone(metric: str) -> str:
    """The metric as a glob of nothing else.

    By its plain name it would be among those that the target's writer promises by a glob, as
    `loss/test/*` does.
    """
    return f"[{metric[0]}]{escape(metric[1:])}"


def _check(targets: Sequence[str], min_delta: float) -> None:
    if not all(targets) or not targets or len(set(targets)) < len(targets):
        found = f"targets and optional_targets are {list(targets)}"
        raise ValueError(f"best_metric: {found}; expected one metric at least, and none twice")
    if min_delta < 0:
        raise ValueError(f"best_metric: min_delta is {min_delta}; expected 0 or more")


def _nothing_best(state: TrainState) -> AtBest:
    return AtBest(None, {})
