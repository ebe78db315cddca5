"""A model on several ranks: copies whose gradients are averaged, or one that is shared out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from noether.distributed import Ranks
from noether.errors import ConfigurationError


def as_first(module: nn.Module) -> None:
    """Give every rank the weights and buffers of rank 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            dist.broadcast(parameter.detach(), src=0)
    share_buffers(module)


def share_buffers(module: nn.Module) -> None:
    """Give every rank the buffers of rank 0."""
    with torch.no_grad():
        for buffer in module.buffers():
            if 0 not in buffer.stride():  # an expanded constant can't be written
                shared = buffer.detach().clone(memory_format=torch.contiguous_format)
                dist.broadcast(shared, src=0)
                buffer.copy_(shared)


def synchronised(module: nn.Module, device: torch.device) -> nn.Module:
    """The model with batch norms over all ranks; raises ConfigurationError on a CPU."""
    if device.type == "cpu":
        raise ConfigurationError(
            ["sync_batchnorm: torch has batch norms over ranks for GPUs alone; leave it out"]
        )
    made: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return made


def copied(
    module: nn.Module, loss: Callable[[Any, Any], Any], device: torch.device
) -> DistributedDataParallel:
    """The loss of a batch, its gradients averaged over equal copies of the model on all ranks.

    The loss function gets the model itself, and may use any part of it.
    """
    whole = nn.Module()
    whole.add_module("model", module)
    whole.forward = partial(loss, module)
    ids = None if device.index is None else [device.index]
    made = DistributedDataParallel(whole, device_ids=ids)
    if device.type == "cpu":
        made.register_comm_hook(dist.get_world_size(), _one_by_one)
    return made


def _one_by_one(
    ranks: int,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Average each parameter's gradient by itself.

    Parameters are bundled otherwise in a session's first update than in later ones, and the place
    in a bundle decides the order of summation: a resumed run would not be the same to the bit.
    """
    for gradient in bucket.gradients():
        dist.all_reduce(gradient)
    done = torch.futures.Future[Tensor]()
    done.set_result(bucket.buffer().div_(ranks))
    return done


def sharded(module: nn.Module, device: torch.device, ranks: Ranks) -> None:
    """Share the parameters out among the ranks: those of each block of a list, then the rest."""
    mesh = init_device_mesh(device.type, (ranks.size,))
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    for block in dict.fromkeys(block for part in lists for block in part.children()):
        if block is not module and any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def set_gradient_sync(forward: Any, module: nn.Module, *, last: bool) -> None:
    """Let the backward pass about to come exchange gradients, if it is its update's last."""
    if isinstance(forward, DistributedDataParallel):
        forward.require_backward_grad_sync = last
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)


def shared_out(value: Tensor, like: Any) -> Tensor:
    """The tensor shared out as another one is; this rank has all of it."""
    if isinstance(value, DTensor) or not isinstance(like, DTensor):
        return value
    there = value.to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)
