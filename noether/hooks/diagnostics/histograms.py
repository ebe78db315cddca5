"""How weights and gradients are distributed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from noether.callback import Callback, factory
from noether.effects import Write
from noether.hooks.diagnostics.named import chosen, whole
from noether.hooks.outputs.names import stamp, texts
from noether.state import TrainState

PIECE = 1 << 22
"""Numbers that are counted at once: a bound on memory, and on counts that are kept as floats."""


@factory
def histograms(
    *,
    parameters: bool = True,
    gradients: bool = True,
    bins: int = 64,
    patterns: Sequence[str] | None = None,
) -> Callback:
    """Write `{name}_E{e}_U{u}_S{s}`: histograms of parameters and gradients.

    Just before the optimizer's step, of all parameters or of those whose names match one of
    `patterns`. The file holds, as `parameters` and `gradients`, by name: `counts` in `bins` equal
    bins from the least to the largest finite number, their `edges` (one more), and `nonfinite`,
    how many NaN and infinite numbers there are. An update skipped for being non-finite writes
    nothing.

    Raises ValueError for `bins` below 1, or where nothing is wanted; LookupError, in the update,
    where no name matches.

    >>> histograms(patterns=["head.*"]).point
    'before_update'
    """
    wanted = None if patterns is None else texts("histograms: patterns", patterns)
    _check(bins, wanted, some=parameters or gradients)

    def write(state: TrainState) -> Write:
        named = chosen(state.model.parameters, wanted, "histograms")
        grads = {name: p.grad for name, p in named.items() if p.grad is not None}
        kinds = {"parameters": (named, parameters), "gradients": (grads, gradients)}
        found = {kind: _each(held, bins) for kind, (held, asked) in kinds.items() if asked}
        return Write(f"{{name}}_{stamp(state)}", found)

    return Callback(
        "histograms",
        on_schedule=write,
        point="before_update",
        reads=(),
        writes=(),
        on_error="warn",
    )


def _check(bins: int, patterns: Sequence[str] | None, *, some: bool) -> None:
    if bins < 1:
        raise ValueError(f"histograms: bins is {bins}; expected 1 or more")
    if not some:
        raise ValueError("histograms: parameters and gradients are false; set one at least")
    if patterns is not None and not patterns:
        raise ValueError("histograms: patterns is empty; expected one at least, or None for all")


def _each(tensors: Mapping[str, Tensor], bins: int) -> dict[str, Any]:
    real = {name: t for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    return {name: _histogram(whole(tensor).flatten(), bins) for name, tensor in real.items()}


def _histogram(numbers: Tensor, bins: int) -> dict[str, Tensor]:
    """Counts and edges, without waiting for the device."""
    low, high = _range(numbers)
    counts = torch.zeros(bins, dtype=torch.int64, device=numbers.device)
    for piece in torch.split(numbers, PIECE):
        places = (piece.double() - low) / (high - low) * bins
        # What is not finite has no place, nor has what is out of range for `histc`.
        inside = places.where(piece.isfinite(), -1.0)
        counts += torch.histc(inside, bins, min=0, max=bins).long()
    steps = torch.arange(bins + 1, dtype=torch.float64, device=numbers.device) / bins
    nonfinite = numbers.numel() - counts.sum()
    return {"counts": counts, "edges": low + (high - low) * steps, "nonfinite": nonfinite}


def _range(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest finite number; half a unit around where there is but one."""
    finite = numbers.isfinite()
    low = numbers.where(finite, torch.inf).min().double()
    high = numbers.where(finite, -torch.inf).max().double()
    none = low > high
    low, high = low.where(~none, 0.0), high.where(~none, 0.0)
    apart = torch.where(low == high, 0.5, 0.0)
    return low - apart, high + apart
