"""What a loss function gives: losses by name, their sum, and outputs beside them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def named_losses(answer: Any) -> tuple[dict[str, Tensor], Any]:
    """What a loss function returned: its losses by name, `total` among them, and its outputs."""
    if isinstance(answer, Tensor) and answer.ndim == 0:
        return {"total": answer}, None
    loss, outputs = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    named = loss if isinstance(loss, Mapping) else {"total": loss}
    scalars = all(isinstance(part, Tensor) and part.ndim == 0 for part in named.values())
    if not named or not scalars or (named is loss and "total" in named):
        raise TypeError(
            "the loss function returns the mean over the batch: a 0-dimensional tensor, a mapping "
            "of them by name (`total` is their sum and ours to add), or a pair of either and "
            f"outputs; found {_shapes(loss)}"
        )
    first, *more = named.values()
    return {"total": sum(more, start=first), **named}, outputs


def _shapes(loss: Any) -> str:
    if isinstance(loss, Mapping):
        return str({name: _shapes(part) for name, part in loss.items()})
    return f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
