"""A small model as hooks see it, each view with tensors of its own."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from noether.averages import having
from noether.batchnorm import batch_statistics
from noether.losses import named_losses
from noether.machine import recorded
from noether.randomness import apart
from noether.state import ModelView


def tiny() -> torch.nn.Module:
    """Always the same network of three inputs and two outputs, with buffers and a frozen bias.

    >>> [name for name, _ in tiny().named_buffers()]
    ['norm.running_mean', 'norm.running_var', 'norm.num_batches_tracked']
    """
    with apart(seed=7):
        parts = OrderedDict[str, torch.nn.Module](
            body=torch.nn.Linear(3, 4), norm=torch.nn.BatchNorm1d(4), head=torch.nn.Linear(4, 2)
        )
    model = torch.nn.Sequential(parts)
    model.get_parameter("body.bias").requires_grad_(False)  # noqa: FBT003
    return model


def squared_error(model: Any, batch: Any) -> Tensor:
    """The mean squared error of a batch of (inputs, targets)."""
    inputs, targets = batch
    return torch.nn.functional.mse_loss(model(inputs), targets)


def view(
    module: torch.nn.Module, loss: Callable[[Any, Any], Any], update: int, *, gradients: bool
) -> ModelView:
    """The module as it might be after an update, with gradients or without; itself untouched."""
    generator = torch.Generator().manual_seed(update)
    parameters = {
        name: _moved(parameter, generator, gradients=gradients)
        for name, parameter in module.named_parameters()
    }
    buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}

    def call(*args: Any, **kwargs: Any) -> Any:
        return functional_call(module, {**parameters, **buffers}, args, kwargs)

    def losses(batch: Any) -> tuple[dict[str, Tensor], Any]:
        return named_losses(loss(call, batch))

    def norm() -> Tensor | None:
        found = [p.grad for p in parameters.values() if p.grad is not None]
        return torch.nn.utils.get_total_norm(found) if found else None

    def recording(inputs: Any, patterns: Sequence[str]) -> Mapping[str, Any]:
        return recorded(module, patterns, lambda: call(inputs))

    def statistics(batch: Any) -> Mapping[str, Tensor]:
        own = {**parameters, **buffers}
        return having(module, own, lambda: batch_statistics(module, lambda: loss(module, batch)))

    return ModelView(parameters, buffers, call, losses, norm, recording, statistics)


def _moved(
    parameter: torch.nn.Parameter, generator: torch.Generator, *, gradients: bool
) -> torch.nn.Parameter:
    """A parameter near the given one."""
    value = parameter.detach().clone()
    if value.is_floating_point():
        value += 0.1 * torch.randn(value.shape, generator=generator).to(value)
    moved = torch.nn.Parameter(value, requires_grad=parameter.requires_grad)
    if gradients and moved.requires_grad:
        moved.grad = torch.randn(value.shape, generator=generator).to(value)
    return moved
