"""Tensors of a model chosen by name, and whole where ranks share them."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor


def chosen(
    tensors: Mapping[str, Tensor], patterns: Sequence[str] | None, who: str
) -> dict[str, Tensor]:
    """The tensors whose names match a pattern; None: all. Raises LookupError where none does."""
    if patterns is None:
        return dict(tensors)
    found = {n: t for n, t in tensors.items() if any(fnmatchcase(n, each) for each in patterns)}
    if not found:
        some = ", ".join(list(tensors)[:5]) or "none"
        raise LookupError(f"{who}: no name matches {' or '.join(patterns)}; there are: {some} ...")
    return found


def whole(tensor: Tensor) -> Tensor:
    """The tensor without its graph, gathered where each rank holds a part of it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
