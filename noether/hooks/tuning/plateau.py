"""A learning rate that goes down when a metric has stopped to improve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from noether.callback import Callback, factory
from noether.effects import Effect, Say, Set
from noether.schedules import Schedule, when
from noether.schedules.metrics import Mode, direction, improves
from noether.state import TrainState


@dataclass(frozen=True, slots=True)
class Plateau:
    """The best value so far, the fresh ones since that were no better, and those to wait still."""

    best: float | None = None
    count: int = 0
    cooling: int = 0


@factory
def reduce_on_plateau(
    *,
    metric: str,
    mode: Mode = "auto",
    factor: float = 0.1,
    patience: int = 10,
    cooldown: int = 0,
    min_lr: float = 0.0,
    min_delta: float = 0.0,
    groups: Sequence[str] | None = None,
    schedule: Schedule | None = None,
) -> Callback:
    """Multiply the learning rate with `factor` after more than `patience` values no better.

    Fresh values of the metric are counted, on `schedule` or by default wherever there is one; one
    that is not finite is no better. An improvement is one by more than `min_delta`. For `cooldown`
    values after a reduction none is counted. The rate stays at `min_lr` at least. `groups`: the
    parameter groups whose rate it is, by default all. Torch's ReduceLROnPlateau does the same with
    `threshold_mode="abs"`. Both `lr_scheduler=` and `lr_schedule` move the rate as well, as if
    nothing had reduced it: use one of them.

    Raises ValueError for numbers out of range, and at the start for a group that is not there.

    >>> reduce_on_plateau(metric="loss/val/total").name
    'reduce_on_plateau/loss/val/total'
    """
    better = direction(metric, mode)
    chosen = _named(groups)
    if not 0 < factor < 1 or min(patience, cooldown, min_lr, min_delta) < 0:
        raise ValueError(
            f"reduce_on_plateau: factor {factor}, patience {patience}, cooldown {cooldown}, min_lr "
            f"{min_lr}, min_delta {min_delta}; expected a factor between 0 and 1, the others 0 or "
            "more"
        )

    def check(state: TrainState, seen: Plateau) -> tuple[Plateau, None]:
        _rates(state, chosen)
        return seen, None

    def watch(state: TrainState, seen: Plateau) -> tuple[Plateau, list[Effect]]:
        if metric not in state.fresh:
            return seen, []
        value = state.metrics[metric]
        if improves(value, seen.best, better, min_delta):
            return Plateau(value, 0, max(seen.cooling - 1, 0)), []
        if seen.cooling:
            return Plateau(seen.best, 0, seen.cooling - 1), []
        if seen.count < patience:
            return replace(seen, count=seen.count + 1), []
        rates = _rates(state, chosen)
        lower = {n: max(r * factor, min_lr) for n, r in rates.items() if r > min_lr}
        return Plateau(seen.best, 0, cooldown), _asked(lower, f"{metric} {value:.4g}")

    return Callback(
        f"reduce_on_plateau/{metric}",
        init=_flat,
        before_training=check,
        on_schedule=watch,
        schedule=when(metric) if schedule is None else schedule,
        reads=(metric,),
        writes=(),
    )


def _flat(state: TrainState) -> Plateau:
    return Plateau()


def _asked(rates: Mapping[str, float], what: str) -> list[Effect]:
    said = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
    sets = [Set(f"lr/{name}", rate) for name, rate in rates.items()]
    return [*sets, Say(f"{what} is on a plateau; lr {said}")] if rates else []


def _named(groups: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(groups, str) or (groups is not None and not groups):
        found = f"reduce_on_plateau: groups is {groups!r}"
        raise ValueError(f"{found}; expected a list of names, or None for all")
    return None if groups is None else tuple(groups)


def _rates(state: TrainState, groups: Sequence[str] | None) -> dict[str, float]:
    """The rates of these groups, or of all; raises ValueError for one that is not there."""
    known = {name: values["lr"] for name, values in state.hyper.items() if "lr" in values}
    if strange := [name for name in groups or () if name not in known]:
        found = f"reduce_on_plateau: no group {strange[0]!r} has a rate"
        raise ValueError(f"{found}; those that do: {sorted(known)}")
    return known if groups is None else {name: known[name] for name in groups}
