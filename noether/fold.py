"""The fold: a pipeline's hooks run over one snapshot, giving memories and effects."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any, get_args

import torch

from noether.agenda import Agenda, due, woken
from noether.callback import HOOKS, Callback, DataPass, Pipeline
from noether.dataflow import matches, needed, order
from noether.effects import Effect, Log, Stop, Write
from noether.errors import HookError
from noether.metrics import check_metric, numbers
from noether.schedules import Tick
from noether.state import TrainState

EFFECTS = get_args(Effect)
Serve = Callable[[DataPass], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Request:
    """An effect, and the callback and hook that asked for it; None: a firing that asked nothing."""

    by: str
    hook: str
    effect: Effect | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A hook that raised."""

    callback: Callback
    hook: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Carry:
    """What the fold hands on from snapshot to snapshot; a checkpoint holds it."""

    memories: Mapping[str, Any] = field(default_factory=dict)
    schedules: Mapping[str, Any] = field(default_factory=dict)
    """Memories of the schedules that remember, by callback, each beside the schedule's text."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    fired: frozenset[str] = frozenset()
    """The callbacks whose schedule fired at the last counts; the closing tick spares them."""
    stops: tuple[str, ...] = ()
    """Reasons to end the run that have been given; a resumed run is bound by them too."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one snapshot led to."""

    carry: Carry
    state: TrainState
    """The snapshot as it is after the tick, with its metrics."""
    requests: tuple[Request, ...] = ()
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class Fold:
    """A pipeline in dataflow order, compiled into one tuple of callbacks per hook."""

    pipeline: Pipeline
    having: Mapping[str, Pipeline]
    early: Pipeline
    """Callbacks whose schedule is asked before the update is made."""
    needs: Mapping[str, frozenset[str]]


@dataclass(slots=True)
class _Turn:
    """The working memory of one snapshot's fold."""

    fold: Fold
    carry: Carry
    state: TrainState
    serve: Serve
    memories: dict[str, Any] = field(default_factory=dict)
    """Those that have changed in this tick."""
    schedules: dict[str, Any] = field(default_factory=dict)
    """Memories of schedules that have been stepped in this tick."""
    agenda: Agenda | None = None
    asking: list[int] = field(default_factory=list)
    """Positions of scheduled callbacks still to be asked, as a heap."""
    pending: dict[str, Any] = field(default_factory=dict)
    """Metrics logged but not yet read from the device."""
    sources: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    fired: set[str] = field(default_factory=set)


def compiled(pipeline: Pipeline) -> Fold:
    """The fold of a pipeline; raises ConfigurationError with all that is wrong with it."""
    ordered = order(pipeline)
    having = {name: tuple(c for c in ordered if getattr(c, name) is not None) for name in HOOKS}
    early = tuple(c for c in having["on_schedule"] if c.point != "tick")
    having["on_schedule"] = tuple(c for c in having["on_schedule"] if c.point == "tick")
    return Fold(ordered, having, early, {c.name: needed(c) for c in ordered})


def begin(fold: Fold, state: TrainState, carry: Carry) -> Outcome:
    """Memories for the callbacks that have none yet; memories of absent callbacks are dropped."""
    names = {callback.name for callback in fold.pipeline}
    known = {name: m for name, m in carry.memories.items() if name in names}
    schedules = _schedule_memories(fold, carry.schedules)
    turn = _turn(fold, state, replace(carry, memories=known, schedules=schedules), _serve_nothing)
    for callback in fold.pipeline:
        if callback.init is not None and callback.name not in known:
            memory = _guarded(turn, callback, "init", callback.init, state)
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


def tick(
    fold: Fold,
    state: TrainState,
    carry: Carry,
    serve: Serve,
    *,
    keep: bool = True,
    agenda: Agenda | None = None,
) -> Outcome:
    """Fold an opening, update or closing tick; with `keep` False no memory changes.

    An update's tick asks the schedules that the agenda finds due, without one all of them: the
    outcome is the same. A hook that raises does not stop the others; it is among the outcome's
    failures.
    """
    turn = _turn(fold, state, carry, serve)
    turn.agenda = agenda if state.event == "update" else None
    if state.event == "start":
        _run_all(turn, "before_training")
    elif state.event == "update":
        _run_all(turn, "after_update")
        if state.closes_epoch:
            _run_all(turn, "after_epoch")
    _run_scheduled(turn)
    if state.event == "end":
        _run_all(turn, "after_training")
    _read(turn)
    return _outcome(turn, keep=keep)


def due_early(agenda: Agenda, moment: Tick, carry: Carry) -> tuple[Pipeline, Carry]:
    """The callbacks of `early` that will fire within the update about to be made."""
    asked = [agenda.pipeline[position] for position in sorted(due(agenda, moment.now))]
    stepped: dict[str, Any] = {}
    firing = tuple(c for c in asked if _asked(c, moment, carry.schedules, stepped))
    return firing, replace(carry, schedules=_merged(carry.schedules, stepped))


def passage(fold: Fold, state: TrainState, carry: Carry, firing: Pipeline) -> Outcome:
    """Fold a snapshot taken within an update: a micro-batch, or the gradients before the step.

    `firing` are the callbacks of `early` whose schedule fires in this update.
    """
    point = "after_accumulation_step" if state.event == "accumulation_step" else "before_update"
    turn = _turn(fold, state, carry, _serve_nothing)
    _run_all(turn, point)
    for callback in firing:
        if callback.point == point:
            _run(turn, callback, "on_schedule")
    _read(turn)
    return _outcome(turn, keep=True)


def leave(fold: Fold, state: TrainState, carry: Carry, *hooks: str) -> Outcome:
    """Run the hooks of a way out that keeps no memory: `after_training`, `on_exception`."""
    turn = _turn(fold, state, carry, _serve_nothing)
    for hook in hooks:
        _run_all(turn, hook)
    _read(turn)
    return _outcome(turn, keep=False)


def hook_error(failure: Failure, state: TrainState) -> HookError:
    """The error that ends a run, naming callback, hook and progress."""
    now = state.now
    return HookError(
        f"callback {failure.callback.name!r}, {failure.hook}, at update {now.update} "
        f"(epoch {now.epoch}): {type(failure.error).__name__}: {failure.error}"
    )


def _turn(fold: Fold, state: TrainState, carry: Carry, serve: Serve) -> _Turn:
    state = replace(state, metrics=carry.metrics, memories=carry.memories)
    return _Turn(fold, carry, state, serve)


def _serve_nothing(data: DataPass) -> Mapping[str, Any]:
    raise RuntimeError(f"a pass over {data.dataset!r} is served at the end of a tick only")


def _outcome(turn: _Turn, *, keep: bool) -> Outcome:
    memories = _merged(turn.carry.memories, turn.memories if keep else {})
    schedules = _merged(turn.carry.schedules, turn.schedules if keep else {})
    # The opening tick of a resumed session leaves no trace in what follows.
    earlier = frozenset[str]() if turn.state.event == "update" else turn.carry.fired
    fired = earlier | turn.fired if keep else turn.carry.fired
    stops = tuple(r.effect.reason for r in turn.requests if isinstance(r.effect, Stop))
    metrics = turn.state.metrics if keep else turn.carry.metrics
    carry = Carry(memories, schedules, metrics, fired, turn.carry.stops + stops)
    state = replace(turn.state, memories=memories)
    return Outcome(carry, state, tuple(turn.requests), tuple(turn.failures))


def _merged(earlier: Mapping[str, Any], changes: Mapping[str, Any]) -> Mapping[str, Any]:
    # A tick in which nothing changes copies nothing, however much is remembered.
    return {**earlier, **changes} if changes else earlier


def _run_all(turn: _Turn, hook: str) -> None:
    for callback in turn.fold.having[hook]:
        _run(turn, callback, hook)


def _run_scheduled(turn: _Turn) -> None:
    scheduled = turn.fold.having["on_schedule"]
    if turn.agenda is None:
        turn.asking = list(range(len(scheduled)))
    else:
        turn.asking = due(turn.agenda, turn.state.now, turn.state.fresh | turn.pending.keys())
    last = -1
    while turn.asking:
        position = heappop(turn.asking)
        # What a metric wakes too late in the order is not asked, nor anything twice.
        if position > last:
            _ask(turn, scheduled[position])
        last = max(last, position)


def _ask(turn: _Turn, callback: Callback) -> None:
    """Run the callback if its schedule fires and has not fired at these counts already."""
    if turn.pending and _looks(turn, callback):
        _read(turn)
    question = (callback, turn.state, turn.carry.schedules, turn.schedules)
    if not _guarded(turn, callback, "schedule", _asked, *question):
        return
    if turn.state.event == "end" and callback.name in turn.carry.fired:
        return
    turn.fired.add(callback.name)
    _run(turn, callback, "on_schedule")


def _asked(
    callback: Callback, moment: Any, earlier: Mapping[str, Any], stepped: dict[str, Any]
) -> bool:
    """Whether the callback's schedule fires; one that remembers has its memory in `stepped`."""
    schedule = callback.schedule
    if schedule is None:
        return True
    if schedule.initial is None:
        return schedule.asks(moment)
    text, memory = earlier[callback.name]
    fires, memory = schedule.step(moment, memory)
    stepped[callback.name] = (text, memory)
    return fires


def _looks(turn: _Turn, callback: Callback) -> bool:
    """Whether the callback may look at a metric that is still on the device."""
    if callback.reads is None:
        return True
    wanted = (*turn.fold.needs[callback.name], *callback.reads_optional)
    return any(matches(metric, wanted) for metric in turn.pending)


UNCONDITIONAL = ("before_training", "after_training", "on_exception")


def _run(turn: _Turn, callback: Callback, hook: str) -> None:
    if turn.pending and _looks(turn, callback):
        _read(turn)
    known = turn.state.metrics.keys()
    if hook not in UNCONDITIONAL and not turn.fold.needs[callback.name] <= known:
        return
    before = len(turn.requests)
    answer = _guarded(turn, callback, hook, _call, turn, callback, hook)
    _guarded(turn, callback, hook, _accept, turn, callback, hook, answer)
    if hook == "on_schedule" and len(turn.requests) == before:
        turn.requests.append(Request(callback.name, hook, None))


def _call(turn: _Turn, callback: Callback, hook: str) -> Any:
    state = turn.state
    if callback.data is not None and hook in ("on_schedule", "at_evaluation"):
        state = replace(state, results=turn.serve(callback.data))
    function = getattr(callback, hook)
    with torch.no_grad():
        if callback.init is None:
            return effects_of(function(state))
        name = callback.name
        earlier = turn.memories if name in turn.memories else turn.carry.memories
        answer = function(state, earlier[name])
        pair = isinstance(answer, tuple) and len(answer) == 2
        if not pair or isinstance(answer[0], EFFECTS):
            raise TypeError(f"a stateful hook returns (memory, effects), not {answer!r}")
        turn.memories[name], effects = answer
        return effects_of(effects)


def _accept(turn: _Turn, callback: Callback, hook: str, answer: Any) -> None:
    for effect in answer or ():
        if isinstance(effect, Log):
            effect = _logged(turn, callback, effect)
        elif isinstance(effect, Write):
            effect = replace(effect, name=effect.name.replace("{I}", callback.label))
        turn.requests.append(Request(callback.name, hook, effect))


def effects_of(answer: Any) -> Iterable[Effect]:
    """The effects in what a hook returned: None, one effect, or an iterable of them."""
    if answer is None:
        return ()
    if isinstance(answer, EFFECTS):
        return (answer,)
    effects = tuple(answer) if isinstance(answer, Iterable) else (answer,)
    for effect in effects:
        if not isinstance(effect, EFFECTS):
            raise TypeError(f"a hook returns None, an effect or effects, not {effect!r}")
    return effects


def _logged(turn: _Turn, callback: Callback, log: Log) -> Log:
    metrics = {key.replace("{I}", callback.label): value for key, value in log.metrics.items()}
    for key, value in metrics.items():
        check_metric(key, value)
        if turn.sources.setdefault(key, callback.name) != callback.name:
            raise ValueError(f"{turn.sources[key]!r} wrote {key} already; a metric has one writer")
    turn.pending.update(metrics)
    if turn.agenda is not None:
        for position in woken(turn.agenda, metrics):
            heappush(turn.asking, position)
    return replace(log, metrics=metrics)


def _read(turn: _Turn) -> None:
    """Turn what was logged into plain numbers, with one transfer for all of them."""
    if turn.pending:
        fresh = turn.state.fresh | turn.pending.keys()
        metrics = {**turn.state.metrics, **numbers(turn.pending)}
        turn.state = replace(turn.state, metrics=metrics, fresh=fresh)
        turn.pending.clear()


def _guarded(turn: _Turn, callback: Callback, hook: str, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        turn.failures.append(Failure(callback, hook, error))
        return None
