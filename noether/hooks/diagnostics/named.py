"""Tensors of a model chosen by name, and whole where ranks share them."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
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


def sizes(tensors: Sequence[Tensor], norm: float) -> Tensor:
    """The norm of each tensor in double precision, still on the device.

    Of one that ranks share it is that of the whole, for which only norms travel.
    """
    here = [_here(tensor) for tensor in tensors]
    found = torch.stack([size.double() for size in torch._foreach_norm(here, norm)])
    shared = [hasattr(tensor, "to_local") for tensor in tensors]
    if not any(shared):
        return found
    parts = _gathered(found, tensors[shared.index(True)])
    both: Tensor = torch.linalg.vector_norm(parts, norm, dim=0)
    return both.where(torch.tensor(shared, device=both.device), found)


def _here(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; 0 where that is nothing."""
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    # Half precision overflows long before a sum of its squares does any harm.
    wide = tensor.float() if tensor.itemsize < 4 else tensor
    return wide if wide.numel() else wide.new_zeros(1)


def _gathered(found: Tensor, like: Tensor) -> Tensor:
    """What each part's ranks found, a row for each part. A reduction by max would lose NaN."""
    from torch.distributed.tensor import DTensor, Replicate, Shard  # late: few runs need it

    held: DTensor = like  # type: ignore[assignment]  # it has parts
    places = [Shard(0) if place.is_shard() else Replicate() for place in held.placements]
    return DTensor.from_local(found[None], held.device_mesh, places).full_tensor()
