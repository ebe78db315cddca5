"""The losses of training as it goes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from noether.callback import Callback, factory
from noether.effects import Log
from noether.state import TrainState


@dataclass(frozen=True, slots=True)
class LossSum:
    """Sums of losses over performed updates, weighted by samples, and what was left out."""

    sums: Mapping[str, Any]
    samples: int = 0
    skipped: int = 0


@factory
def online_loss() -> Callback:
    """Log `loss/online/{loss}/{I}`: the mean over all samples since the last firing.

    Adds up after every update, on a GPU without waiting for it. Updates skipped for being
    non-finite are left out of the mean and counted in `loss/online/skipped/{I}` once there are any.

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
    earlier = total.sums
    sums = {n: _added(earlier.get(n, 0.0), loss, samples) for n, loss in state.losses.items()}
    return LossSum(sums, total.samples + samples, total.skipped), None


def at_hand(value: torch.Tensor) -> bool:
    """Whether reading the value waits for no device and no other rank."""
    return value.device.type == "cpu" and type(value) is torch.Tensor


def _added(total: Any, value: torch.Tensor, weight: int) -> Any:
    """`total + weight * value` in double precision, where the value is: a tensor, or a number."""
    if at_hand(value):
        return total + weight * value.item()
    if isinstance(total, torch.Tensor):
        return torch.add(total, value, alpha=weight)
    return value.double() * weight + total


def _log_loss(state: TrainState, total: LossSum) -> tuple[LossSum, Log | None]:
    means = {f"loss/online/{n}/{{I}}": s / total.samples for n, s in total.sums.items()}
    if total.skipped:
        means["loss/online/skipped/{I}"] = total.skipped
    return LossSum({}), Log(means) if means else None
