"""How large gradients, weights and updates are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noether.callback import Callback, factory
from noether.effects import Log
from noether.hooks.diagnostics.named import chosen, sizes
from noether.hooks.outputs.names import texts
from noether.state import ModelView, TrainState

Norms = Mapping[str, Tensor]
"""Norms by the tensors' names, and that of all of them together as `ALL`."""
ALL = ""


@dataclass(frozen=True, slots=True)
class Before:
    """What was seen before the optimizer's step: norms of gradients, copies of the weights."""

    gradients: Norms
    weights: Mapping[str, Tensor]


@factory
def norms(
    *,
    gradients: bool = True,
    weights: bool = True,
    updates: bool = True,
    per_parameter: bool = False,
    norm: float = 2.0,
    patterns: Sequence[str] | None = None,
) -> Callback:
    """Log `norms/gradient`, `norms/weight`, `norms/update` and `norms/update_to_weight`.

    Of the parameters that are trained, or of those of them whose names match one of `patterns`,
    as one vector: its gradient, its weights after the update, what the update changed, and the
    quotient of the last two, where both are wanted. With `per_parameter` also each one's, as
    `norms/gradient/{name}`. `norm` is the p of the norm; `inf`: the largest absolute value.

    `norms/gradient` is that of the run, of all gradients before clipping, where `norm` is 2 and
    there are no patterns. Other norms of gradients are taken of what the optimizer gets, clipped.

    Acts in due updates alone, where `updates` costs a copy of the weights for a moment. An update
    that was skipped for being non-finite logs nothing.

    Raises ValueError for a norm that isn't above 0, or where nothing is wanted; LookupError, in
    the update, where no name matches.

    >>> norms(updates=False, per_parameter=True).writes
    ('norms/gradient', 'norms/gradient/*', 'norms/weight', 'norms/weight/*')
    """
    wanted = None if patterns is None else texts("norms: patterns", patterns)
    _check(norm, wanted, some=gradients or weights or updates)
    of_run = norm == 2 and wanted is None

    def look(state: TrainState, seen: Before | None) -> tuple[Before, None]:
        trained = _trained(state.model, wanted)
        found = {n: p.grad for n, p in trained.items() if gradients and p.grad is not None}
        size = _norms(found, norm) if per_parameter or not of_run else {}
        if of_run and found and state.model.grad_norm is not None:
            size |= {ALL: state.model.grad_norm}
        copies = {n: p.detach().clone() for n, p in trained.items()} if updates else {}
        return Before(size, copies), None

    def compare(state: TrainState, seen: Before | None) -> tuple[None, Log | None]:
        if seen is None:
            return None, None
        trained = _trained(state.model, wanted)
        held = _norms(trained, norm) if weights else {}
        steps = _norms(_changed(seen.weights, trained), norm)
        both = {n: step / held[n] for n, step in steps.items() if n in held}
        kinds = (seen.gradients, held, steps, both)
        metrics = dict(_keyed(dict(zip(KINDS, kinds, strict=True)), per_parameter=per_parameter))
        return None, Log(metrics) if metrics else None

    kinds = zip(KINDS, (gradients, weights, updates, updates and weights), strict=True)
    keys = [f"norms/{kind}" for kind, logged in kinds if logged]
    return Callback(
        "norms",
        init=_nothing_seen,
        on_schedule=look,
        after_update=compare,
        point="before_update",
        reads=(),
        writes=[k for key in keys for k in ((key, f"{key}/*") if per_parameter else (key,))],
        on_error="warn",
    )


KINDS = ("gradient", "weight", "update", "update_to_weight")


def _check(norm: float, patterns: Sequence[str] | None, *, some: bool) -> None:
    if not norm > 0:
        raise ValueError(f"norms: norm is {norm}; expected a number above 0, or inf")
    if not some:
        raise ValueError("norms: gradients, weights and updates are false; set one at least")
    if patterns is not None and not patterns:
        raise ValueError("norms: patterns is empty; expected one at least, or None for all")


def _nothing_seen(state: TrainState) -> Before | None:
    return None


def _trained(model: ModelView, patterns: Sequence[str] | None) -> dict[str, Tensor]:
    named = chosen(model.parameters, patterns, "norms")
    return {name: p for name, p in named.items() if p.requires_grad and p.numel()}


def _changed(copies: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What the update changed, in the place of the copies, which are this callback's own."""
    if copies:
        torch._foreach_sub_(list(copies.values()), [now[name].detach() for name in copies])
    return copies


def _norms(tensors: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
    """The norm of each and of all, in double precision, still on the device."""
    if not tensors:
        return {}
    each = sizes(list(tensors.values()), norm)
    return {ALL: torch.linalg.vector_norm(each, norm), **dict(zip(tensors, each, strict=True))}


def _keyed(kinds: Mapping[str, Norms], *, per_parameter: bool) -> Iterator[tuple[str, Tensor]]:
    for kind, norms in kinds.items():
        for name, size in norms.items():
            if name == ALL:
                yield f"norms/{kind}", size
            elif per_parameter:
                yield f"norms/{kind}/{name}", size
