"""Averages of the weights, kept beside the live ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from noether.callback import Callback, factory
from noether.state import ModelView, TrainState


@dataclass(frozen=True, slots=True)
class Averages:
    """Averaged weights and buffers by the average's name, and how many updates are in them."""

    weights: Mapping[str, Mapping[str, Tensor]]
    updates: int = 0


@factory
def ema(
    *,
    decay: float | Sequence[float],
    start: int = 0,
    warmup: bool = False,
    every: int = 1,
    average_buffers: bool = False,
) -> Callback:
    """Keep exponential moving averages of the weights: decay * average + (1 - decay) * weights.

    After every performed update that is a multiple of `every`, from update `start` on; before
    that the average is the weights themselves. Each decay makes an average `ema={decay}`, which a
    data pass takes by that name, or as `ema` where there is but one, beside the live weights in
    the same run. Buffers are copied, floating ones averaged with `average_buffers`.

    warmup: let the decay of the u-th averaged update be (1 + u) / (10 + u) at most, as
        TensorFlow's ExponentialMovingAverage does, so that early weights are forgotten sooner.

    Raises ValueError for a decay that is not between 0 and 1, or given twice.

    >>> list(ema(decay=[0.99, 0.999]).averages)
    ['ema=0.99', 'ema=0.999']
    """
    decays = _checked([decay] if isinstance(decay, int | float) else list(decay), start, every)

    def average(state: TrainState, kept: Averages) -> tuple[Averages, None]:
        if not state.performed or state.now.update % every:
            return kept, None
        begun = state.now.update > start
        for name, factor in decays.items():
            capped = min(factor, (1 + kept.updates) / (10 + kept.updates)) if warmup else factor
            rate = 1 - capped if begun else 1.0
            _move(kept.weights[name], state.model, rate, buffers=average_buffers)
        return Averages(kept.weights, kept.updates + begun), None

    return Callback(
        "ema",
        init=partial(_begin, tuple(decays)),
        after_update=average,
        reads=(),
        writes=(),
        averages={name: _named(name) for name in decays},
    )


def _checked(decays: Sequence[float], start: int, every: int) -> dict[str, float]:
    for decay in decays:
        if not 0 < decay < 1:
            raise ValueError(f"decay is {decay!r}; expected a number between 0 and 1")
    named = {f"ema={decay}": decay for decay in decays}
    if not named or len(named) < len(decays):
        raise ValueError(f"decay is {decays!r}; expected one number, or several different ones")
    if start < 0 or every < 1:
        raise ValueError(f"start is {start}, every {every}; expected 0 or more, and 1 or more")
    return named


def _begin(names: Sequence[str], state: TrainState) -> Averages:
    return Averages({name: {k: v.clone() for k, v in _held(state.model)} for name in names})


def _held(model: ModelView) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by name, no gradients with them."""
    return [(k, v.detach()) for k, v in (*model.parameters.items(), *model.buffers.items())]


def _named(name: str) -> Callable[[Averages], Mapping[str, Tensor]]:
    return lambda kept: kept.weights[name]


def _move(kept: Mapping[str, Tensor], model: ModelView, rate: float, *, buffers: bool) -> None:
    """Move what is averaged towards the present weights, copy the rest; all in place."""
    averaged: tuple[list[Any], list[Any]] = [], []
    for name, value in _held(model):
        mixed = name in model.parameters or buffers
        if mixed and value.is_floating_point() and rate != 1:
            averaged[0].append(kept[name])
            averaged[1].append(value)
        else:
            kept[name].copy_(value)
    if averaged[0]:
        torch._foreach_lerp_(*averaged, rate)
