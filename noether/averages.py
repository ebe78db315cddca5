"""Weights by name: the averages that callbacks keep, and a model that has them for a while."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import functional_call

from noether.callback import Callback, DataPass, Pipeline
from noether.errors import suggestion

T = TypeVar("T")
LIVE = "live"


def keepers(pipeline: Pipeline) -> dict[str, tuple[Callback, str]]:
    """By name, who keeps those weights, and what it calls them: its own name says the only ones."""
    found = {}
    for callback in pipeline:
        if len(callback.averages) == 1:
            found[callback.name] = callback, next(iter(callback.averages))
    return found | {name: (c, name) for c in pipeline for name in c.averages}


def mistakes(data: DataPass, pipeline: Pipeline, *, shared_out: bool = False) -> Iterator[str]:
    """Why a pass can't be made with the weights that it names."""
    if data.weights == LIVE:
        return
    known = keepers(pipeline)
    if data.weights not in known:
        hint = suggestion(data.weights, {LIVE, *known})
        yield f"weights {data.weights!r} are kept by no callback; {hint}"
    elif shared_out:
        yield (
            f"weights {data.weights!r}: with parallel='fsdp' only the live weights can be "
            "evaluated; use parallel='ddp'"
        )


def weights(
    pipeline: Pipeline, name: str, memories: Mapping[str, Any]
) -> Mapping[str, Tensor] | None:
    """The weights of that name as they are now; None for the live ones."""
    if name == LIVE:
        return None
    callback, own = keepers(pipeline)[name]
    found: Mapping[str, Tensor] = callback.averages[own](memories[callback.name])
    return found


def having(module: torch.nn.Module, weights: Mapping[str, Tensor], function: Callable[[], T]) -> T:
    """What `function` gives while the model has these weights; its own are untouched."""
    wrapper = torch.nn.Module()
    wrapper.add_module("model", module)
    # In training mode it would put the model into it.
    wrapper.training = module.training
    wrapper.forward = function
    named = {f"model.{name}": tensor for name, tensor in weights.items()}
    made: T = functional_call(wrapper, named, ())
    return made
