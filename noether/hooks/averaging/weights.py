"""Averaged weights as a memory, moved in place towards the live ones."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from noether.state import ModelView, TrainState

Buffers = Literal["copy", "average"]


@dataclass(frozen=True, slots=True)
class Averages:
    """Averaged weights and buffers by the average's name, and how many updates are in them."""

    weights: Mapping[str, Mapping[str, Tensor]]
    updates: int = 0


def begin(paths: Mapping[str, str | None]) -> Callable[[TrainState], Averages]:
    """The memory of averages by name, each of the part of the model at a path; None: all of it."""

    def init(state: TrainState) -> Averages:
        held = dict(_held(state.model))
        return Averages({name: _part(held, path, name) for name, path in paths.items()})

    return init


def named(name: str) -> Callable[[Averages], Mapping[str, Tensor]]:
    """Where the memory holds the average of that name."""
    return lambda kept: kept.weights[name]


def _part(held: Mapping[str, Tensor], path: str | None, name: str) -> dict[str, Tensor]:
    found = {k: v.clone() for k, v in held.items() if path is None or k.startswith(f"{path}.")}
    if not found:
        parts = sorted({key.rpartition(".")[0] for key in held} - {""})
        raise ValueError(f"{name}: the model has no part {path!r}; it has {', '.join(parts)}")
    return found


def _held(model: ModelView) -> Iterable[tuple[str, Tensor]]:
    """Parameters and buffers by name, no gradients with them."""
    return [(k, v.detach()) for k, v in (*model.parameters.items(), *model.buffers.items())]


def move(kept: Mapping[str, Tensor], model: ModelView, rate: float, buffers: Buffers) -> None:
    """Move what is averaged towards the present weights, copy the rest; all in place."""
    averaged: tuple[list[Any], list[Any]] = [], []
    for name, value in _held(model):
        mixed = name in model.parameters or buffers == "average"
        if name not in kept:
            continue
        if mixed and value.is_floating_point() and rate != 1:
            averaged[0].append(kept[name])
            averaged[1].append(value)
        else:
            kept[name].copy_(value)
    if averaged[0]:
        torch._foreach_lerp_(*averaged, rate)
