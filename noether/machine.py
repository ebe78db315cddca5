"""The live things of a run - model, loss, optimizer - and the single steps made with them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from noether.batchnorm import batch_statistics
from noether.distributed import ALONE, Ranks, agreed, local_device
from noether.errors import ConfigurationError, suggestion
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
    made.configured = configured(made)
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
        return module, _exchanging(module, loss, device)
    parallels.sharded(module, device, ranks)
    return module, None


def _exchanging(
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


def hyper(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, float]]:
    """Hyper-parameters by group; a single unnamed group is `default`, others go by number."""
    groups = optimizer.param_groups
    return {group_name(groups, i): _numbers(group) for i, group in enumerate(groups)}


def configured(machine: Machine) -> dict[str, dict[str, float]]:
    """Hyper-parameters as they were given, before any scheduler moved the rate."""
    groups = machine.optimizer.param_groups
    given = hyper(machine.optimizer)
    for i, group in enumerate(groups):
        if "initial_lr" in group:
            given[group_name(groups, i)]["lr"] = group["initial_lr"]
    return given


def reconfigure(
    machine: Machine,
    old: Mapping[str, Mapping[str, float]],
    new: Mapping[str, Mapping[str, float]],
) -> None:
    """Let hyper-parameters that were configured otherwise before a resume take their new value.

    Under a scheduler a changed rate rescales the present one, and the base that it goes on from.
    """
    groups = machine.optimizer.param_groups
    for i, group in enumerate(groups):
        name = group_name(groups, i)
        for key, value in new.get(name, {}).items():
            before = old.get(name, {}).get(key)
            if before is None or before == value:
                continue
            if key != "lr" or machine.scheduler is None:
                group[key] = value
            elif before and hasattr(machine.scheduler, "base_lrs"):
                group["lr"] *= value / before
                group["initial_lr"] = machine.scheduler.base_lrs[i] = value


def group_name(groups: list[dict[str, Any]], position: int) -> str:
    """The name of a parameter group."""
    unnamed = "default" if len(groups) == 1 else str(position)
    return str(groups[position].get("name", unnamed))


def _numbers(group: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in group.items() if type(value) in (int, float)}


def apply_setting(machine: Machine, target: str, value: Any) -> None:
    """Perform a `Set`: a hyper-parameter in every group, or `lr/encoder` in one."""
    key, _, wanted = target.partition("/")
    if key == "trainable":
        return _set_trained(machine, wanted, trained=bool(value))
    groups = machine.optimizer.param_groups
    chosen = [g for i, g in enumerate(groups) if not wanted or group_name(groups, i) == wanted]
    if not chosen or any(key not in group for group in chosen):
        known = {f"{k}/{g}" for g, values in hyper(machine.optimizer).items() for k in values}
        raise LookupError(f"Set({target!r}): no such hyper-parameter; known: {sorted(known)}")
    for group in chosen:
        group[key] = value
    return None


def _set_trained(machine: Machine, wanted: str, *, trained: bool) -> None:
    """Let the parameters of a group or name pattern be trained, or not.

    Only what the optimizer holds can be trained.
    """
    groups = machine.optimizer.param_groups
    held = [g["params"] for i, g in enumerate(groups) if group_name(groups, i) == wanted]
    grouped = {id(parameter) for group in held for parameter in group}
    named = dict(machine.module.named_parameters(remove_duplicate=False))
    chosen = [p for n, p in named.items() if id(p) in grouped or fnmatchcase(n, wanted)]
    if not chosen:
        hint = suggestion(wanted, named)
        raise LookupError(f"Set('trainable/{wanted}'): no parameter has such a name. {hint}")
    if trained:
        learning = {id(parameter) for parameter in machine.parameters}
        chosen = [parameter for parameter in chosen if id(parameter) in learning]
    if not chosen:
        raise LookupError(
            f"Set('trainable/{wanted}'): the optimizer holds none of these parameters; make it of "
            "all that are to be trained at some time"
        )
    train_or_freeze(machine, [(parameter, trained) for parameter in chosen])


def train_or_freeze(machine: Machine, flags: Iterable[tuple[torch.nn.Parameter, bool]]) -> None:
    """Let each of these parameters be trained, or not."""
    changed = [(p, trained) for p, trained in flags if p.requires_grad != trained]
    for parameter, trained in changed:
        parameter.requires_grad_(trained)
        parameter.grad = None
    if changed and machine.ranks.size > 1 and not machine.lockstep:
        # What exchanges gradients looked once, when it was made, at which there will be.
        machine.forward = _exchanging(machine.module, machine.loss, machine.device)


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
