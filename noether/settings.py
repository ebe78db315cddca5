"""What `Set` changes: hyper-parameters, and which parameters are trained."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch

from noether.errors import suggestion
from noether.hyper import group_name, hyper
from noether.machine import Machine, exchanging


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
        machine.forward = exchanging(machine.module, machine.loss, machine.device)
