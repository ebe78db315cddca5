"""What batch norms see of a batch, without a change of the model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from noether.averages import having

STATISTICS = ("running_mean", "running_var")


def batch_statistics(module: torch.nn.Module, call: Callable[[], Any]) -> dict[str, Tensor]:
    """What the running statistics come to, by buffer name, where `call` alone moves them.

    The model is in training mode for it, with buffers that are copies of its own.
    """
    layers = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None
    }
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for name in layers:
        buffers[f"{name}.num_batches_tracked"].zero_()
    with _averaging(module, list(layers.values())):
        having(module, buffers, call)
    wanted = [f"{name}.{statistic}" for name in layers for statistic in STATISTICS]
    return {name: buffers[name] for name in wanted}


@contextmanager
def _averaging(module: torch.nn.Module, layers: list[_BatchNorm]) -> Iterator[None]:
    """Training mode, running statistics being the mean of all that is seen."""
    modes = [(part, part.training) for part in module.modules()]
    momenta = [(layer, layer.momentum) for layer in layers]
    shared = [layer for layer in layers if isinstance(layer, torch.nn.SyncBatchNorm)]
    module.train()
    for layer in layers:
        layer.momentum = None
    for layer in shared:
        # Its own would wait for ranks which may have no batch left.
        layer.forward = MethodType(_BatchNorm.forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in shared:
            del layer.forward
        for layer, momentum in momenta:
            layer.momentum = momentum
        for part, training in modes:
            part.training = training
