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
    home: str | None = None
    """The model's device, where they are kept on another."""


def begin(
    paths: Mapping[str, str | None], device: str | None = None
) -> Callable[[TrainState], Averages]:
    """The memory of averages by name, each of the part of the model at a path; None: all of it."""

    def init(state: TrainState) -> Averages:
        held = dict(_held(state.model))
        kept = Averages({name: _part(held, path, name) for name, path in paths.items()})
        return placed(kept, state.model, device)

    return init


def placed(kept: Averages, model: ModelView, device: str | None) -> Averages:
    """The averages on that device, also after a resume, which brings them to the model's."""
    if device is None:
        return kept
    home = next(iter(model.parameters.values())).device
    moved = {
        name: {key: value.to(device) for key, value in held.items()}
        for name, held in kept.weights.items()
    }
    return Averages(moved, kept.updates, str(home))


def named(name: str) -> Callable[[Averages], Mapping[str, Tensor]]:
    """What the memory holds as the average of that name, on the model's device."""

    def found(kept: Averages) -> Mapping[str, Tensor]:
        held = kept.weights[name]
        return held if kept.home is None else {k: v.to(kept.home) for k, v in held.items()}

    return found


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
            averaged[1].append(value.to(kept[name].device))
        else:
            kept[name].copy_(value)
    if averaged[0]:
        torch._foreach_lerp_(*averaged, rate)
