"""Losses that leap out of those before them."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from noether.callback import Callback, factory
from noether.effects import Effect, Log, Say, Stop
from noether.state import TrainState

Action = Literal["log", "stop"]
NORMAL = 1.4826
"""The standard deviation of a normal distribution in median absolute deviations."""

LEAST = 1e-3
"""The least deviation, as a share of the median."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The last losses in a ring, and the largest score since the schedule fired."""

    ring: Tensor
    """As many as the window has, and the newest; NaN where there was none yet."""
    score: Tensor
    count: int = 0
    """Losses that have come, those that have left included."""
    scored: int = 0
    """Of them, how many have got a score since the schedule fired."""
    quiet_until: int = 0
    """The update up to which no spike is told."""


@factory
def loss_spike(
    *,
    loss: str = "total",
    window: int = 100,
    factor: float = 6.0,
    warmup: int = 20,
    action: Action = "log",
    cooldown: int = 0,
) -> Callback:
    """Log `loss_spike/score`: by how many robust deviations the loss is above those before it.

    Each performed update's loss gets a score on the device: its distance from the median of the
    `window` losses before it, in units of 1.4826 times the median absolute deviation from that
    (for normal ones the standard deviation), but of a thousandth of the median at least: what is
    flat does not leap by rounding. Where that is 0 too, so is the score. The first `warmup` losses
    get none, and losses that aren't finite never count as earlier ones. When the schedule fires,
    the largest score since it fired last is read. Where it is above `factor`, that is said, at most
    once in `cooldown` updates; with the `action` "stop" the run ends.

    Of a `loss` other than the total the metric is `loss_spike/score/{loss}`.

    Raises ValueError for a bad option; LookupError, in the update, for a loss that isn't there.

    >>> loss_spike(loss="fit").writes
    ('loss_spike/score/fit',)
    """
    _check(action, window=(window, 3), warmup=(warmup, 3), cooldown=(cooldown, 0))
    if not factor > 0:
        raise ValueError(f"loss_spike: factor is {factor}; expected a number above 0")
    own = "" if loss == "total" else f"/{loss}"
    key = f"loss_spike/score{own}"

    def add(state: TrainState, seen: Losses | None) -> tuple[Losses | None, None]:
        if not state.performed:
            return seen, None
        value = _named(state, loss)
        kept = seen if seen is not None and len(seen.ring) == window + 1 else _begun(value, window)
        return _added(kept, value, warmup), None

    def judge(state: TrainState, seen: Losses | None) -> tuple[Losses | None, list[Effect]]:
        if seen is None or not seen.scored:
            return seen, []
        rest = replace(seen, score=torch.full_like(seen.score, torch.nan), scored=0)
        score, update = float(seen.score), state.now.update  # waits for the device
        logged: list[Effect] = [Log({key: score})]
        if not score > factor or update <= seen.quiet_until:
            return rest, logged
        told = f"{key} is {score:.3g} at update {update}: more than {factor:g}"
        asked = Stop(told) if action == "stop" else Say(told)
        return replace(rest, quiet_until=update + cooldown), [*logged, asked]

    return Callback(
        f"loss_spike{own}",
        init=_nothing_seen,
        after_update=add,
        on_schedule=judge,
        reads=(),
        writes=(key,),
        critical=action == "stop",
        on_error="raise" if action == "stop" else "warn",
    )


def _check(action: str, **given: tuple[int, int]) -> None:
    for option, (value, least) in given.items():
        if value < least:
            raise ValueError(f"loss_spike: {option} is {value}; expected {least} or more")
    if action not in ("log", "stop"):
        raise ValueError(f"loss_spike: action is {action!r}; expected 'log' or 'stop'")


def _nothing_seen(state: TrainState) -> Losses | None:
    return None


def _named(state: TrainState, loss: str) -> Tensor:
    if loss not in state.losses:
        raise LookupError(f"loss_spike: no loss {loss!r}; there are: {', '.join(state.losses)}")
    return state.losses[loss].detach().double()


def _begun(value: Tensor, window: int) -> Losses:
    nothing = torch.full((window + 1,), torch.nan, dtype=value.dtype, device=value.device)
    return Losses(nothing, nothing[0].clone())


def _added(kept: Losses, value: Tensor, warmup: int) -> Losses:
    """The losses with one more, in the place of the oldest."""
    place = kept.count % len(kept.ring)
    kept.ring[place] = torch.nan
    score = kept.score
    if kept.count >= warmup:
        score = torch.fmax(score, _score(value, kept.ring))
    kept.ring[place] = value.where(value.isfinite(), torch.nan)
    scored = kept.scored + (kept.count >= warmup)
    return replace(kept, score=score, count=kept.count + 1, scored=scored)


def _score(value: Tensor, earlier: Tensor) -> Tensor:
    """By how many robust deviations a loss is above earlier ones; NaN among them are none."""
    median = earlier.nanquantile(0.5)
    deviation = (earlier - median).abs().nanquantile(0.5) * NORMAL
    scale = torch.maximum(deviation, LEAST * median.abs())
    above = value - median
    return torch.where((scale == 0) & above.isfinite(), 0 * above, above / scale)
