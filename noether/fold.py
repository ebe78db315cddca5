"""The fold: a pipeline's hooks run over one snapshot, giving memories and effects."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ParamSpec

import torch

from noether.agenda import Agenda, due
from noether.callback import HOOKS, Callback, Pipeline
from noether.dataflow import needed, order
from noether.effects import Stop
from noether.errors import HookError
from noether.schedules import Tick
from noether.state import TrainState
from noether.turn import (
    Carry,
    Combine,
    Failure,
    Fold,
    Request,
    Serve,
    Turn,
    asked,
    guarded,
    read,
    run,
    run_all,
    run_scheduled,
)

P = ParamSpec("P")
NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one snapshot led to."""

    carry: Carry
    state: TrainState
    """The snapshot with the metrics that it has after the tick; memories are in `carry`."""
    requests: tuple[Request, ...] = ()
    failures: tuple[Failure, ...] = ()


def _without_gradients(function: Callable[P, Outcome]) -> Callable[P, Outcome]:
    """`torch.no_grad` around each call, in half its time, which every tick pays."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Outcome:
        with torch.set_grad_enabled(False):
            return function(*args, **kwargs)

    return call


def compiled(pipeline: Pipeline) -> Fold:
    """The fold of a pipeline; raises ConfigurationError with all that is wrong with it."""
    ordered = order(pipeline)
    having = {name: tuple(c for c in ordered if getattr(c, name) is not None) for name in HOOKS}
    early = tuple(c for c in having["on_schedule"] if c.point != "tick")
    having["on_schedule"] = tuple(c for c in having["on_schedule"] if c.point == "tick")
    return Fold(ordered, having, early, {c.name: needed(c) for c in ordered})


@_without_gradients
def begin(fold: Fold, state: TrainState, carry: Carry) -> Outcome:
    """Memories for the callbacks that have none yet; memories of absent callbacks are dropped."""
    names = {callback.name for callback in fold.pipeline}
    known = {name: m for name, m in carry.memories.items() if name in names}
    schedules = _schedule_memories(fold, carry.schedules)
    turn = _turn(fold, state, replace(carry, memories=known, schedules=schedules), _serve_nothing)
    for callback in fold.pipeline:
        if callback.init is not None and callback.name not in known:
            memory = guarded(turn, callback, "init", callback.init, state)
            turn.memories[callback.name] = memory
    return _outcome(turn, keep=True)


def _schedule_memories(fold: Fold, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """A memory for each schedule that remembers; one that was changed begins anew."""
    memories = {}
    for callback in fold.pipeline:
        if callback.schedule is not None and callback.schedule.initial is not None:
            text = str(callback.schedule)
            known = earlier.get(callback.name)
            same = known is not None and known[0] == text
            memories[callback.name] = known if same else (text, callback.schedule.initial)
    return memories


@_without_gradients
def tick(
    fold: Fold,
    state: TrainState,
    carry: Carry,
    serve: Serve,
    *,
    keep: bool = True,
    agenda: Agenda | None = None,
    combine: Combine | None = None,
    spent: dict[str, float] | None = None,
) -> Outcome:
    """Fold an opening, update or closing tick; with `keep` False no memory changes.

    An update's tick asks the schedules that the agenda finds due, without one all of them: the
    outcome is the same. A hook that raises does not stop the others; it is among the outcome's
    failures. What was logged is made equal on all ranks by `combine`. To what each callback has
    `spent` so far, in seconds, its hooks' time is added.
    """
    turn = _turn(fold, state, carry, serve)
    turn.agenda = agenda if state.event == "update" else None
    turn.combine, turn.spent = combine, spent
    if state.event == "start":
        run_all(turn, "before_training")
    elif state.event == "update":
        run_all(turn, "after_update")
        if state.closes_epoch:
            run_all(turn, "after_epoch")
    run_scheduled(turn)
    if state.event == "end":
        run_all(turn, "after_training")
    read(turn)
    return _outcome(turn, keep=keep)


def due_early(agenda: Agenda, moment: Tick, carry: Carry) -> tuple[Pipeline, Carry]:
    """The callbacks of `early` that will fire within the update about to be made.

    Raises HookError where a schedule raises.
    """
    positions = due(agenda, moment.now)
    if not positions:
        return (), carry
    asking = [agenda.pipeline[position] for position in sorted(positions)]
    stepped: dict[str, Any] = {}
    firing = tuple(c for c in asking if _fires(c, moment, carry, stepped))
    return firing, replace(carry, schedules=_merged(carry.schedules, stepped))


def _fires(callback: Callback, moment: Tick, carry: Carry, stepped: dict[str, Any]) -> bool:
    try:
        return asked(callback, moment, carry.schedules, stepped)
    except Exception as error:
        raise hook_error(Failure(callback, "schedule", error), moment) from error


@_without_gradients
def passage(
    fold: Fold,
    state: TrainState,
    carry: Carry,
    firing: Pipeline,
    combine: Combine | None = None,
    spent: dict[str, float] | None = None,
) -> Outcome:
    """Fold a snapshot taken within an update: a micro-batch, or the gradients before the step.

    `firing` are the callbacks of `early` whose schedule fires in this update.
    """
    point = "after_accumulation_step" if state.event == "accumulation_step" else "before_update"
    turn = _turn(fold, state, carry, _serve_nothing)
    turn.combine, turn.spent = combine, spent
    run_all(turn, point)
    for callback in firing:
        if callback.point == point:
            run(turn, callback, "on_schedule")
    read(turn)
    return _outcome(turn, keep=True)


@_without_gradients
def evaluate(
    fold: Fold, state: TrainState, carry: Carry, serve: Serve, combine: Combine | None = None
) -> Outcome:
    """Run each callback's `at_evaluation`, or where it has none but a data pass its `on_schedule`,
    whatever the schedule says; no memory changes.
    """
    turn = _turn(fold, replace(state, metrics={}), replace(carry, metrics={}), serve)
    turn.combine = combine
    turn.passes = [c for c in fold.pipeline if evaluated(c) and c.data is not None]
    for callback in fold.pipeline:
        if (hook := evaluated(callback)) is not None:
            run(turn, callback, hook)
    read(turn)
    return _outcome(turn, keep=False)


def evaluated(callback: Callback) -> str | None:
    """The hook that an evaluation runs."""
    if callback.at_evaluation is not None:
        return "at_evaluation"
    passes = callback.data is not None and callback.on_schedule is not None
    return "on_schedule" if passes else None


@_without_gradients
def leave(fold: Fold, state: TrainState, carry: Carry, *hooks: str) -> Outcome:
    """Run the hooks of a way out that keeps no memory: `after_training`, `on_exception`."""
    turn = _turn(fold, state, carry, _serve_nothing)
    for hook in hooks:
        run_all(turn, hook)
    read(turn)
    return _outcome(turn, keep=False)


def hook_error(failure: Failure, state: TrainState | Tick) -> HookError:
    """The error that ends a run, naming callback, hook and progress."""
    now = state.now
    return HookError(
        f"callback {failure.callback.name!r}, {failure.hook}, at update {now.update} "
        f"(epoch {now.epoch}): {type(failure.error).__name__}: {failure.error}"
    )


def _turn(fold: Fold, state: TrainState, carry: Carry, serve: Serve) -> Turn:
    if state.metrics is not carry.metrics or state.memories is not carry.memories:
        state = replace(state, metrics=carry.metrics, memories=carry.memories)
    return Turn(fold, carry, state, serve)


def _serve_nothing(callbacks: Pipeline, memories: Mapping[str, Any]) -> Mapping[str, Any]:
    names = ", ".join(repr(callback.name) for callback in callbacks)
    raise RuntimeError(f"the pass of {names} is served at the end of a tick only")


def _outcome(turn: Turn, *, keep: bool) -> Outcome:
    carry, stops = turn.carry, turn.carry.stops
    if turn.requests:
        asked = tuple(r.effect.reason for r in turn.requests if isinstance(r.effect, Stop))
        stops = stops + asked
    if keep:
        memories = _merged(carry.memories, turn.memories)
        schedules = _merged(carry.schedules, turn.schedules)
        # The opening tick of a resumed session leaves no trace in what follows.
        earlier = NONE if turn.state.event == "update" else carry.fired
        fired = earlier | turn.fired if turn.fired else earlier
        carry = Carry(memories, schedules, turn.state.metrics, fired, stops)
    else:
        carry = Carry(carry.memories, carry.schedules, carry.metrics, carry.fired, stops)
    return Outcome(carry, turn.state, tuple(turn.requests), tuple(turn.failures))


def _merged(earlier: Mapping[str, Any], changes: Mapping[str, Any]) -> Mapping[str, Any]:
    # A tick in which nothing changes copies nothing, however much is remembered.
    return {**earlier, **changes} if changes else earlier
