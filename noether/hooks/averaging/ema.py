"""Exponential moving averages of the weights."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import torch

from noether.callback import Callback, factory
from noether.effects import Export
from noether.hooks.averaging.weights import Averages, Buffers, begin, move, named, placed
from noether.schedules import Schedule
from noether.state import TrainState


@factory
def ema(
    *,
    decay: float | Sequence[float],
    model_paths: Sequence[str | None] | None = None,
    start: int = 0,
    warmup: bool = False,
    every: int = 1,
    buffers: Buffers = "copy",
    device: str | None = None,
    schedule: Schedule | None = None,
) -> Callback:
    """Keep exponential moving averages of the weights: decay * average + (1 - decay) * weights.

    After every performed update that is a multiple of `every`, from update `start` on; before
    that the average is the weights themselves. Each decay makes an average `ema={decay}`, which a
    data pass takes by that name, or as `ema` where there is but one, beside the live weights in
    the same run. Every checkpoint holds them.

    model_paths: submodules that are averaged instead of the whole model (null: that one), each as
        `ema={decay}.{path}`.
    warmup: let the decay of the u-th averaged update be (1 + u) / (10 + u) at most, as
        TensorFlow's ExponentialMovingAverage does, so that early weights are forgotten sooner.
    buffers: "copy" the model's, or "average" the floating ones too.
    device: where the averages are kept, "cpu" say, if not where the model is; each averaged update
        then waits for a copy of the weights, and each pass with an average for one of it.
    schedule: when the averages are written to `weights/ema={decay}.safetensors`; None: never.

    Raises ValueError for a decay that is not between 0 and 1, or given twice, or a device that is
    none; at the start for a submodule that is not there.

    >>> list(ema(decay=[0.99, 0.999]).averages)
    ['ema=0.99', 'ema=0.999']
    """
    decays = _checked([decay] if isinstance(decay, int | float) else list(decay), start, every)
    if buffers not in get_args(Buffers):
        raise ValueError(f"ema: buffers is {buffers!r}; expected one of {get_args(Buffers)}")
    _check_device(device)
    paths = _paths([None] if model_paths is None else model_paths)
    pairs = [(name, path) for name in decays for path in paths]
    parts = {name if path is None else f"{name}.{path}": path for name, path in pairs}
    factors = dict(zip(parts, (decays[name] for name, _ in pairs), strict=True))

    def average(state: TrainState, kept: Averages) -> tuple[Averages, None]:
        if not state.performed or state.now.update % every:
            return kept, None
        kept = placed(kept, state.model, device)
        begun = state.now.update > start
        most = (1 + kept.updates) / (10 + kept.updates) if warmup else 1.0
        for name, factor in factors.items():
            move(kept.weights[name], state.model, 1 - min(factor, most) if begun else 1.0, buffers)
        return replace(kept, updates=kept.updates + begun), None

    def export(state: TrainState, kept: Averages) -> tuple[Averages, list[Export]]:
        return kept, [Export(name, weights=name) for name in parts]

    return Callback(
        "ema",
        init=begin(parts, device),
        after_update=average,
        on_schedule=None if schedule is None else export,
        schedule=schedule,
        reads=(),
        writes=(),
        averages={name: named(name) for name in parts},
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


def _check_device(device: str | None) -> None:
    try:
        torch.device(device or "cpu")
    except RuntimeError as error:
        raise ValueError(f"ema: device is {device!r}; expected cpu, cuda, cuda:1, ...") from error


def _paths(paths: Sequence[str | None]) -> Sequence[str | None]:
    if isinstance(paths, str) or not paths or len(set(paths)) < len(paths) or "" in paths:
        raise ValueError(f"ema: model_paths is {paths!r}; expected different names of submodules")
    return paths
