"""A callback whose hooks are watched: every call is made more than once, and compared."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from noether.callback import HOOKS, Callback, Hook
from noether.dataflow import matches, needed, writes
from noether.effects import Effect
from noether.randomness import capture
from noether.state import ModelView, TrainState
from noether.testing.laws import BrokenLaw
from noether.testing.playing import types_of
from noether.testing.traces import trace
from noether.turn import EFFECTS, effects_of

Raises = tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a hook."""

    callback: Callback
    hook: str
    state: TrainState
    raises: Raises
    """The errors that the callback raises on purpose."""
    types: Mapping[str, type]
    """The dataclasses that a memory may be made of when it is read back."""

    def broken(self, law: str, finding: str, way_out: str) -> BrokenLaw:
        """The error of a law that this call breaks."""
        now = self.state.now
        where = f"{self.hook}, at update {now.update} (epoch {now.epoch}, {self.state.event})"
        return BrokenLaw(told(self.callback, where, law, finding, way_out))


def told(callback: Callback, where: str, law: str, finding: str, way_out: str) -> str:
    """The text of a broken law: who and where, which law, what was found, and the way out."""
    subject = f"callback {callback.name!r}, {where}" if where else f"callback {callback.name!r}"
    return f"{subject}: it breaks the law of callbacks that {law}: {finding}. {way_out}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call led to."""

    memory: Any = None
    effects: tuple[Effect, ...] = ()
    error: Exception | None = None

    @property
    def trace(self) -> Any:
        """What it comes to, to be compared."""
        error = None if self.error is None else (type(self.error).__name__, str(self.error))
        return trace((self.memory, self.effects, error))


@dataclass(frozen=True, slots=True)
class Observation:
    """Calls of one hook with one snapshot and one memory, and what they changed."""

    call: Call
    first: Answer
    """Of a copy of the memory."""
    answer: Answer
    unaware: Mapping[str, Answer]
    """What it says without a metric that it doesn't declare to read, by metric."""
    changed: tuple[str, ...]
    """What the hook can reach and is now another than it was."""


def watched(callback: Callback, raises: Raises, check: Callable[[Observation], None]) -> Callback:
    """The callback, each call of its hooks an observation that is checked."""

    def watching(hook: str) -> Hook:
        def watch(state: TrainState, *memory: Any) -> Any:
            observation = _observed(Call(callback, hook, state, raises, types), memory)
            check(observation)
            return _handed(observation)

        return watch

    types = types_of(callback)
    there = [hook for hook in ("init", *HOOKS) if getattr(callback, hook) is not None]
    hooks: dict[str, Any] = {hook: watching(hook) for hook in there}
    return replace(callback, **hooks)


def _handed(observation: Observation) -> Any:
    """The answer as the fold takes it."""
    answer, call = observation.answer, observation.call
    if answer.error is not None:
        raise answer.error
    if call.hook == "init":
        return answer.memory
    return answer.effects if call.callback.init is None else (answer.memory, answer.effects)


def _observed(call: Call, memory: tuple[Any, ...]) -> Observation:
    seen = _reached(call, memory)
    unaware = {m: _answer(_without(call, m), copy.deepcopy(memory)) for m in _undeclared(call)}
    first = _answer(call, copy.deepcopy(memory))
    answer = _answer(call, memory)
    now = _reached(call, memory)
    changed = tuple(name for name in seen if name in now and now[name] != seen[name])
    return Observation(call, first, answer, unaware, changed)


def _undeclared(call: Call) -> list[str]:
    """The metrics there are that the callback doesn't declare to read, where it declares any."""
    callback = call.callback
    if callback.reads is None:
        return []
    declared = (*needed(callback), *callback.reads_optional, *writes(callback))
    return sorted(metric for metric in call.state.metrics if not matches(metric, declared))


def _without(call: Call, metric: str) -> Call:
    """The call, had nobody reported the metric."""
    metrics = {name: value for name, value in call.state.metrics.items() if name != metric}
    state = replace(call.state, metrics=metrics, fresh=call.state.fresh - {metric})
    return replace(call, state=state, raises=(Exception,))


# ---------------------------------------------------------------- what a hook can reach


def _reached(call: Call, memory: tuple[Any, ...]) -> dict[str, Any]:
    """Traces by name. Of its memory a hook may change what tensors hold."""
    state = call.state
    parts: dict[str, Any] = {
        name: trace(getattr(state, name))
        for name in ("losses", "outputs", "metrics", "results", "hyper", "dataset_lengths")
    }
    for name, numbers in capture().items():
        plain = trace(numbers) if isinstance(numbers, Tensor | list) else numbers
        parts[f"the random numbers of {name}"] = plain
    parts["the memory it was handed"] = trace(memory, tensors=False)
    return parts | (_weights(state.model) if isinstance(state.model, ModelView) else {})


def _weights(model: ModelView) -> dict[str, Any]:
    parts: dict[str, Any] = {f"buffer {n}": trace(b) for n, b in model.buffers.items()}
    for name, parameter in model.parameters.items():
        parts[f"parameter {name}"] = trace((parameter, parameter.requires_grad))
        parts[f"the gradient of {name}"] = trace(parameter.grad)
    return parts


# ---------------------------------------------------------------- a call


def _answer(call: Call, memory: tuple[Any, ...]) -> Answer:
    """What the hook says, or an error that is raised on purpose."""
    try:
        with torch.no_grad():
            said = _whole(getattr(call.callback, call.hook)(call.state, *memory))
    except Exception as error:
        if isinstance(error, call.raises):
            return Answer(error=error)
        raise call.broken(
            "a hook raises on no snapshot",
            f"{type(error).__name__}: {error}",
            "Mind what may be missing, or name errors that are meant so: raises=(...).",
        ) from error
    return Answer(said) if call.hook == "init" else _parted(call, said)


def _whole(said: Any) -> Any:
    """What a hook said, its generators run: their bodies are hooks too."""
    if isinstance(said, tuple) and len(said) == 2 and isinstance(said[1], Iterator):
        return said[0], tuple(said[1])
    return tuple(said) if isinstance(said, Iterator) else said


def _parted(call: Call, said: Any) -> Answer:
    """Memory and effects of what a hook said."""
    memory, effects = None, said
    if call.callback.init is not None:
        if not isinstance(said, tuple) or len(said) != 2 or isinstance(said[0], EFFECTS):
            raise _no_effects(call, said, "A hook with memory returns (memory, effects).")
        memory, effects = said
    try:
        return Answer(memory, tuple(effects_of(effects)))
    except TypeError:
        way_out = "Return None, an effect, or several in a list."
        raise _no_effects(call, effects, way_out) from None


def _no_effects(call: Call, said: Any, way_out: str) -> BrokenLaw:
    return call.broken("a hook returns effects", f"it returned {said!r}", way_out)
