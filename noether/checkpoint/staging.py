"""A copy of a tree's tensors in memory that is kept from save to save."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from noether.checkpoint.encoding import Path, mapped


@dataclass(slots=True)
class Staging:
    """Memory for the copies, by place in the tree."""

    held: dict[Path, Tensor] = field(default_factory=dict)


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
            staging.held[path] = held
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
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device


def _memory(held: Tensor | None, tensor: Tensor) -> Tensor:
    """Memory for a copy of the tensor: what is held, where it fits."""
    if held is not None and _form(held) == _form(tensor):
        return held
    pinned = tensor.is_cuda and tensor.layout is torch.strided
    return torch.empty_like(tensor, device="cpu", pin_memory=pinned, requires_grad=False)


def _form(tensor: Tensor) -> Any:
    strided = tensor.layout is torch.strided
    return tensor.layout, tensor.dtype, tensor.shape, tensor.stride() if strided else None


def _like(local: Tensor, tensor: Any) -> Tensor:
    """A part of a tensor that is shared out as another one is."""
    # `from_local` would move it to the mesh's device.
    made: Tensor = type(tensor)(local, tensor._spec, requires_grad=False)
    return made
