"""A copy of a tree's tensors in memory that is kept from save to save."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from noether.checkpoint.encoding import Path, mapped


@dataclass(slots=True)
class Staging:
    """Memory for the copies, by place in the tree."""

    held: dict[Path, tuple[Any, Tensor]] = field(default_factory=dict)
    """With the form of what it was made for."""


def staged(staging: Staging, tree: Any) -> Any:
    """The encoded `tree` with copies of its tensors on the CPU; what the last call gave is lost.

    Tensors of one memory stay so. Of one that is shared out among the ranks this one's part is
    copied. Waits for the device.
    """
    earlier, staging.held = staging.held, {}
    twins: dict[Any, Tensor] = {}
    devices = set()

    def copied(path: Path, tensor: Tensor) -> Tensor:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        devices.add(local.device)
        key = _identity(local)
        if key is None or key not in twins:
            held = _memory(earlier.get(path), local)
            held.copy_(local, non_blocking=True)
            staging.held[path] = _form(local), held
            twins[key] = held
        else:
            held = twins[key]
        return held if local is tensor else _like(held, tensor)

    copy = mapped(tree, copied)
    for device in devices:
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
    return copy


def _identity(tensor: Tensor) -> Any:
    """The same for two tensors that are one memory; None where there is none."""
    if tensor.layout is not torch.strided or not tensor.nbytes:
        return None
    read = tensor.is_conj(), tensor.is_neg()  # as they are, or the other way round
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device, read


def _memory(held: tuple[Any, Tensor] | None, tensor: Tensor) -> Tensor:
    """Memory for a copy of the tensor: what is held, where it fits."""
    if held is not None and held[0] == _form(tensor):
        return held[1]
    pinned = tensor.is_cuda and tensor.layout is torch.strided
    return torch.empty_like(tensor, device="cpu", pin_memory=pinned, requires_grad=False)


def _form(tensor: Tensor) -> Any:
    strided = tensor.layout is torch.strided
    inner = tensor.stride() if strided else _filled(tensor)
    return tensor.layout, tensor.dtype, tensor.shape, inner


def _filled(tensor: Tensor) -> Any:
    """How many numbers a sparse tensor holds, which a copy can't change."""
    return tensor._nnz(), tensor.dense_dim()


def _like(local: Tensor, tensor: Any) -> Tensor:
    """A part of a tensor that is shared out as another one is."""
    # `from_local` would move it to the mesh's device.
    made: Tensor = type(tensor)(local, tensor._spec, requires_grad=False)
    return made
