"""`strict=True`: what hooks may not do is looked for around every call, and named."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from noether.callback import HOOKS, Callback, DataPass, Hook
from noether.dataflow import matches, needed, writes
from noether.effects import Log
from noether.errors import PurityError
from noether.randomness import capture
from noether.state import ModelView, TrainState


def watched(callback: Callback) -> Callback:
    """The callback, every call of its hooks watched; an error of it ends the run.

    A hook that changes a parameter, buffer, gradient or other tensor of its snapshot, draws from
    the global random numbers, reads or logs a metric that it doesn't declare, or keeps a tensor
    of the model uncopied, raises PurityError. Not seen is what goes around torch's version
    counters (`tensor.data`), and what is kept in closures and globals: `check_callback` of
    `noether.testing` finds that.
    """
    there = [hook for hook in ("init", *HOOKS) if getattr(callback, hook) is not None]
    hooks: dict[str, Any] = {hook: _watched(callback, hook) for hook in there}
    data = None if callback.data is None else _watched_pass(callback.data)
    return replace(callback, data=data, on_error="raise", **hooks)


def _watched(callback: Callback, hook: str) -> Hook:
    function: Hook = getattr(callback, hook)

    @wraps(function)
    def watch(state: TrainState, *memory: Any) -> Any:
        metrics: Any = Metrics(state.metrics)
        before, random = _versions(_of_state(state)), capture()
        answer = _whole(function(replace(state, metrics=metrics), *memory))
        _compare_tensors(before, _versions(_of_state(state)))
        _compare_random(random, capture())
        _check_reads(callback, metrics.read)
        kept, effects = (answer, ()) if hook == "init" else _parted(callback, answer)
        _check_writes(callback, effects)
        _check_copied(kept, state.model)
        return answer

    return watch


def _watched_pass(data: DataPass) -> DataPass:
    def process(model: ModelView, batch: Any) -> Mapping[str, Any]:
        parts = {**_of_model(model), **dict(_tensors(batch, "the batch"))}
        before = _versions(parts)
        answer = data.process(model, batch)
        # A pass has random numbers of its own.
        _compare_tensors(before, _versions({**parts, **_of_model(model)}))
        return answer

    return replace(data, process=process)


# ---------------------------------------------------------------- what it was asked


def _whole(answer: Any) -> Any:
    """What a hook said, its generators run: their bodies are hooks too."""
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Iterator):
        return answer[0], tuple(answer[1])
    return tuple(answer) if isinstance(answer, Iterator) else answer


def _parted(callback: Callback, answer: Any) -> tuple[Any, Any]:
    """Memory and effects; what has another form is for the fold to refuse."""
    pair = isinstance(answer, tuple) and len(answer) == 2
    return answer if callback.init is not None and pair else (None, answer)


# ---------------------------------------------------------------- tensors and random numbers

Versions = dict[str, tuple[int, int, bool]]
"""Identity, version and trainability of tensors by name."""


def _versions(parts: Mapping[str, Tensor]) -> Versions:
    return {name: (id(t), t._version, t.requires_grad) for name, t in parts.items()}


def _of_state(state: TrainState) -> dict[str, Tensor]:
    parts = _of_model(state.model) if isinstance(state.model, ModelView) else {}
    for name in ("losses", "outputs", "results"):
        parts |= dict(_tensors(getattr(state, name), name))
    return parts


def _of_model(model: ModelView) -> dict[str, Tensor]:
    parts = {f"parameter {name}": tensor for name, tensor in model.parameters.items()}
    parts |= {f"buffer {name}": tensor for name, tensor in model.buffers.items()}
    return parts | {f"the gradient of {name}": grad for name, grad in model.gradients.items()}


def _tensors(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a tree, by where they are."""
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _tensors(item, f"{place}.{number}")
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from _tensors(getattr(value, each.name), f"{place}.{each.name}")


def _compare_tensors(before: Versions, after: Versions) -> None:
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if changed:
        raise PurityError(
            f"it changes {_listed(changed)}; hooks look at tensors and change copies, and ask for "
            "the rest: Set, Load"
        )


def _compare_random(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    drawn = [name for name, state in after.items() if not _same(before.get(name), state)]
    if drawn:
        raise PurityError(
            f"it draws from the global random numbers of {_listed(drawn)}, which moves training's; "
            "use a torch.Generator or random.Random of its own"
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    return bool(one == other)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_copied(memory: Any, model: Any) -> None:
    """The model's own tensors move on with training; what is remembered must not."""
    if not isinstance(model, ModelView):
        return
    owned = {t.untyped_storage().data_ptr(): name for name, t in _of_model(model).items()}
    for place, tensor in _tensors(memory, "memory"):
        if tensor.numel() and (name := owned.get(tensor.untyped_storage().data_ptr())):
            raise PurityError(f"its {place} is {name} itself; keep a copy: tensor.detach().clone()")


# ---------------------------------------------------------------- promises


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of a snapshot, noting which of them are read."""

    known: Mapping[str, float]
    read: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> float:
        self.read.add(name)
        return self.known[name]

    def get(self, name: str, default: Any = None) -> Any:
        """As of any mapping."""
        self.read.add(name)
        return self.known.get(name, default)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return name in self.known

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)

    def keys(self) -> Any:
        """All names; to see them is not to read them."""
        return self.known.keys()

    def values(self) -> Any:
        """All values, read by that."""
        self.read.update(self.known)
        return self.known.values()

    def items(self) -> Any:
        """All of it, read by that."""
        self.read.update(self.known)
        return self.known.items()


def _check_reads(callback: Callback, read: set[str]) -> None:
    declared = (*needed(callback), *callback.reads_optional, *writes(callback))
    stray = sorted(name for name in read if not matches(name, declared))
    if stray:
        raise PurityError(
            f"it reads {_listed(stray)} and does not declare that; add it to reads, or to "
            "reads_optional if it can do without"
        )


def _check_writes(callback: Callback, effects: Any) -> None:
    logs = effects if isinstance(effects, list | tuple) else (effects,)
    logged = [name for log in logs if isinstance(log, Log) for name in log.metrics]
    named = [name.replace("{I}", callback.label) for name in logged]
    stray = [name for name in named if not matches(name, writes(callback))]
    if stray:
        raise PurityError(
            f"it logs {_listed(stray)} and does not declare that; add it to writes, globs are "
            "allowed"
        )
