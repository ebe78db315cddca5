"""The live things of a run - model, loss, optimizer - and the single steps made with them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from noether.batchnorm import batch_statistics
from noether.distributed import ALONE, Ranks, agreed, local_device
from noether.errors import ConfigurationError
from noether.hyper import configured
from noether.losses import named_losses
from noether.state import ModelView

MAX_SKIPPED = 100
"""Non-finite updates in a row that `on_nonfinite="skip"` forgives."""


@dataclass(slots=True)
class Machine:
    """What training changes. Only the loop steps it, and only `Set` and `Load` reach into it."""

    module: torch.nn.Module
    loss: Callable[[Any, Any], Any]
    optimizer: torch.optim.Optimizer
    scheduler: Any
    lr_interval: str
    precision: str
    clip_norm: float | None
    clip_value: float | None
    max_skipped: int | None
    """None: a non-finite update ends the run."""
    device: torch.device
    parameters: list[torch.nn.Parameter]
    """What the optimizer holds."""
    others: list[torch.nn.Parameter] = field(default_factory=list)
    """Those of the model that it doesn't hold, whose gradients would add up."""
    configured: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Hyper-parameters as this process's configuration gives them."""
    ranks: Ranks = ALONE
    forward: Callable[[Any], Any] | None = None
    """The loss function of a batch where a backward follows, which exchanges gradients over ranks;
    None: there is but one rank.
    """
    lockstep: bool = False
    """Whether a forward pass takes all ranks together."""
    view: ModelView | None = None
    grad_norm: Tensor | None = None

    def share_buffers(self) -> None:
        """Give every rank the buffers of rank 0, which are those that a checkpoint holds."""
        if self.ranks.size > 1:
            from noether.parallel import share_buffers  # late: it takes longer than all of noether

            share_buffers(self.module)

    def autocast(self) -> AbstractContextManager[Any]:
        """The run's precision around a forward pass."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def machine(
    module: torch.nn.Module,
    *,
    loss: Callable[[Any, Any], Any],
    optimizer: Any,
    lr_scheduler: Any,
    on_nonfinite: str | Mapping[str, int],
    device: str | None,
    parallel: str = "ddp",
    sync_batchnorm: bool = False,
    ranks: Ranks = ALONE,
    **options: Any,
) -> Machine:
    """The machine of a run, its model on `device` (None: where it is), or shared by all ranks."""
    if device is not None:
        module.to(local_device(device, ranks))
    first = next(module.parameters(), None)
    if first is None:
        raise ConfigurationError([f"the model, a {type(module).__name__}, has no parameters"])
    forward = None
    if ranks.size > 1:
        module, forward = _spread(module, loss, first.device, ranks, parallel, sync=sync_batchnorm)
    if not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer(module.parameters())
    _check_optimizer(module, optimizer)
    if isinstance(lr_scheduler, type) or not hasattr(lr_scheduler, "state_dict"):
        lr_scheduler = None if lr_scheduler is None else lr_scheduler(optimizer)
    if isinstance(lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ConfigurationError(
            [
                "lr_scheduler is a ReduceLROnPlateau, which needs a metric; "
                "use the callback hooks.reduce_on_plateau(metric=...)"
            ]
        )
    held = [p for group in optimizer.param_groups for p in group["params"]]
    known = set(map(id, held))
    made = Machine(
        module,
        loss,
        optimizer,
        lr_scheduler,
        max_skipped=_max_skipped(on_nonfinite),
        device=first.device,
        parameters=held,
        others=[p for p in module.parameters() if id(p) not in known],
        ranks=ranks,
        forward=forward,
        lockstep=ranks.size > 1 and parallel == "fsdp",
        **options,
    )
    made.view = _view(made)
    made.configured = configured(made.optimizer)
    return made


def _spread(
    module: torch.nn.Module,
    loss: Callable[[Any, Any], Any],
    device: torch.device,
    ranks: Ranks,
    parallel: str,
    *,
    sync: bool,
) -> tuple[torch.nn.Module, Callable[[Any], Any] | None]:
    """The model on several ranks, and how its loss is computed in training."""
    from noether import parallel as parallels  # late: it takes longer than all of noether

    if sync:
        module = parallels.synchronised(module, device)
    parallels.as_first(module)
    if parallel == "ddp":
        return module, exchanging(module, loss, device)
    parallels.sharded(module, device, ranks)
    return module, None


def exchanging(
    module: torch.nn.Module, loss: Callable[[Any, Any], Any], device: torch.device
) -> Callable[[Any], Any] | None:
    """The loss of a batch over copies of the model; None where nothing is trained."""
    from noether.parallel import copied  # late: it takes longer than all of noether

    learns = any(parameter.requires_grad for parameter in module.parameters())
    return copied(module, loss, device) if learns else None


def _check_optimizer(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigurationError(["LBFGS evaluates the loss by itself; use another optimizer"])
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(parameter) in held for parameter in module.parameters()):
        raise ConfigurationError(
            ["the optimizer holds none of the model's parameters; make it of model.parameters()"]
        )


def _max_skipped(on_nonfinite: str | Mapping[str, int]) -> int | None:
    if isinstance(on_nonfinite, str):
        return None if on_nonfinite == "raise" else MAX_SKIPPED
    return on_nonfinite["skip"]


def _view(machine: Machine) -> ModelView:
    def call(*args: Any, **kwargs: Any) -> Any:
        with machine.autocast():
            return machine.module(*args, **kwargs)

    def losses(batch: Any) -> tuple[Mapping[str, Tensor], Any]:
        return evaluate_loss(machine, batch)

    def norm() -> Tensor | None:
        return machine.grad_norm

    def recording(inputs: Any, patterns: Sequence[str]) -> Mapping[str, Any]:
        return recorded(machine.module, patterns, lambda: call(inputs))

    def statistics(batch: Any) -> Mapping[str, Tensor]:
        return batch_statistics(machine.module, lambda: losses(batch))

    return ModelView(
        MappingProxyType(dict(machine.module.named_parameters())),
        MappingProxyType(dict(machine.module.named_buffers())),
        call,
        losses,
        norm,
        recording,
        statistics,
    )


def recorded(
    module: torch.nn.Module, patterns: Sequence[str], call: Callable[[], Any]
) -> dict[str, Any]:
    """What the submodules of these name patterns give while `call` runs, by name."""
    found: dict[str, Any] = {}
    chosen = [
        (name, part)
        for name, part in module.named_modules()
        if name and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    handles = [
        part.register_forward_hook(lambda *given, name=name: found.update({name: given[2]}))
        for name, part in chosen
    ]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[name] for name, _ in chosen if name in found}


def evaluate_loss(
    machine: Machine, batch: Any, forward: Callable[[Any], Any] | None = None
) -> tuple[dict[str, Tensor], Any]:
    """The named losses of a batch, `total` among them, and the loss function's outputs."""
    with machine.autocast():
        answer = machine.loss(machine.module, batch) if forward is None else forward(batch)
    return named_losses(answer)


def forward(machine: Machine, batch: Any, *, last: bool = True) -> tuple[dict[str, Tensor], Any]:
    """The losses of a micro-batch that a backward follows, and the loss function's outputs.

    The ranks exchange their gradients in the `last` one of an update.
    """
    if machine.ranks.size > 1:
        from noether.parallel import set_gradient_sync  # late: it takes longer than all of noether

        set_gradient_sync(machine.forward, machine.module, last=last)
    return evaluate_loss(machine, batch, machine.forward)


def backward(losses: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Backward of a micro-batch that is `share` of its update's samples; gives its losses."""
    total = losses["total"] if share == 1.0 else losses["total"] * share
    total.backward()  # type: ignore[no-untyped-call]
    return {name: loss.detach() for name, loss in losses.items()}


def finish_gradients(machine: Machine) -> None:
    """Measure the gradients' norm, then clip them."""
    given = [g for p in machine.parameters if (g := p.grad) is not None]
    gradients = [g.coalesce().values() if g.is_sparse else g for g in given]
    norm = _total_norm(gradients) if gradients else None
    if machine.clip_norm is not None and norm is not None:
        torch.nn.utils.clip_grads_with_norm_(machine.parameters, machine.clip_norm, norm)
    if norm is not None and hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()
    machine.grad_norm = norm
    if machine.clip_value is not None:
        torch.nn.utils.clip_grad_value_(machine.parameters, machine.clip_value)


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all gradients as one vector, on their device."""
    kinds = {(type(g), g.dtype, g.device) for g in gradients}
    if len(kinds) > 1 or type(gradients[0]) is not Tensor:
        return torch.nn.utils.get_total_norm(gradients)
    # The same in half the time, as there is nothing to sort.
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def prepare(machine: Machine) -> None:
    """Make ready for an update: in training mode, with no gradients left of the one before."""
    if not machine.module.training:
        machine.module.train()
    for parameter in machine.parameters:
        parameter.grad = None
    for parameter in machine.others:
        parameter.grad = None


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every submodule is in the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def weights_are_finite(machine: Machine) -> bool:
    """Whether every weight and buffer is finite; waits for the device."""
    held = (*machine.parameters, *machine.module.parameters(), *machine.module.buffers())
    here = [t.to_local() if hasattr(t, "to_local") else t.detach() for t in held]
    real = [torch.view_as_real(t) if t.is_complex() else t for t in here if t.numel()]
    extremes = [_extremes(t) for t in real if t.is_floating_point()]
    verdict = not extremes or bool(torch.isfinite(torch.cat(extremes)).all())
    return agreed(machine.ranks, verdict)


def _extremes(tensor: Tensor) -> Tensor:
    # A tenth of the time of asking each number whether it is finite; NaN comes through.
    wide = tensor.float() if tensor.element_size() == 1 else tensor
    return torch.stack(torch.aminmax(wide))
