"""Outputs by name, and the names of what is made of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from noether.state import TrainState


def prefix(weights: str) -> str:
    """What a name begins with that belongs to these weights.

    >>> prefix("live"), prefix("ema")
    ('', 'ema/')
    """
    return "" if weights == "live" else f"{weights}/"


def stamp(state: TrainState) -> str:
    """When a file was written, as a part of its name."""
    return f"E{state.now.epoch}_U{state.now.update}_S{state.now.sample}"


def texts(option: str, given: Sequence[str] | None) -> tuple[str, ...]:
    """An option that is a list of texts; raises ValueError for anything else."""
    if isinstance(given, str) or not all(isinstance(text, str) for text in given or ()):
        raise ValueError(f"{option} is {given!r}; expected a list of texts")
    return tuple(given or ())


def by_name(outputs: Any, usual: str) -> Mapping[str, Any]:
    """Outputs by name; a single one under its `usual` name."""
    if isinstance(outputs, Mapping):
        return outputs
    return {} if outputs is None else {usual: outputs}


def chosen(outputs: Any, keys: Sequence[str], patterns: Sequence[str], who: str) -> dict[str, Any]:
    """The outputs of these names, and those whose names contain a pattern, each once.

    Raises LookupError, with the names there are, where a key is missing or nothing is found.
    """
    named = by_name(outputs, "outputs")
    missing = [key for key in keys if key not in named]
    found = {
        name: value
        for name, value in named.items()
        if name in keys or any(pattern in name for pattern in patterns)
    }
    if missing or not found:
        lacking = f"no output {', '.join(map(repr, missing))}"
        lacking = lacking if missing else f"no output's name contains {' or '.join(patterns)}"
        raise LookupError(f"{who}: {lacking}; there are: {', '.join(named) or 'none'}")
    return found


def number(name: str, output: Any) -> Tensor:
    """The numbers of an output in double precision; raises TypeError where it has none."""
    if not isinstance(output, Tensor | int | float):
        raise TypeError(f"output {name!r} is {output!r}; expected a tensor or a number")
    return torch.as_tensor(output).detach().double()
