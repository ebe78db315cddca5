"""One snapshot's turn: hooks called one after the other, their answers gathered."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from time import perf_counter
from typing import Any, get_args

from noether.agenda import Agenda, due, ripe, woken
from noether.callback import Callback, Pipeline
from noether.dataflow import matches, overlap, writes
from noether.effects import Effect, Export, Log, Write
from noether.errors import RankError
from noether.metrics import check_metric, numbers
from noether.state import TrainState

EFFECTS = get_args(Effect)
Combine = Callable[[Mapping[str, float], Mapping[str, str]], Mapping[str, float]]
"""Metrics made equal on all ranks, each by its `over_ranks`."""
Serve = Callable[[Pipeline, Mapping[str, Any]], Mapping[str, Any]]
"""The results of passes that read the same, by callback, an exception where one failed; told the
memories, for the weights that they hold."""


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
    closed: bool = False
    """Whether this is of a closing tick all of whose hooks have run."""
    loads: tuple[str, ...] = ()
    """Tags whose weights that tick puts into the model, after its checkpoint."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A pipeline in dataflow order, compiled into one tuple of callbacks per hook."""

    pipeline: Pipeline
    having: Mapping[str, Pipeline]
    early: Pipeline
    """Callbacks whose schedule is asked before the update is made."""
    needs: Mapping[str, frozenset[str]]


@dataclass(slots=True)
class Turn:
    """The working memory of one snapshot's fold."""

    fold: Fold
    carry: Carry
    state: TrainState
    serve: Serve
    memories: dict[str, Any] = field(default_factory=dict)
    """Those that have changed in this tick."""
    schedules: dict[str, Any] = field(default_factory=dict)
    """Memories of schedules that have been stepped in this tick."""
    combine: Combine | None = None
    """None: there is but one rank, or the others can't be asked any more."""
    agenda: Agenda | None = None
    asking: list[int] = field(default_factory=list)
    """Positions of scheduled callbacks still to be asked, as a heap."""
    answers: dict[str, bool] = field(default_factory=dict)
    """Whether the callbacks with a pass fire that counts foresee."""
    passes: list[Callback] = field(default_factory=list)
    """Those of them that do, while their pass has not been made."""
    results: dict[str, Any] = field(default_factory=dict)
    """Of the passes that have been made, by callback."""
    pending: dict[str, Any] = field(default_factory=dict)
    """Metrics logged but not yet read from the device."""
    over: dict[str, str] = field(default_factory=dict)
    """How they are combined over ranks."""
    writers: list[Callback] = field(default_factory=list)
    """Those that ran since the last reading and may have logged, here or on other ranks."""
    broken: bool = False
    """Whether the run ends on this rank, which asks the others nothing more."""
    sources: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    fired: set[str] = field(default_factory=set)
    spent: dict[str, float] | None = None
    """Seconds that each callback's hooks have taken so far, added to; None: nobody counts."""


def run_all(turn: Turn, hook: str) -> None:
    """Run one hook of every callback that has it."""
    for callback in turn.fold.having[hook]:
        run(turn, callback, hook)


def run_scheduled(turn: Turn) -> None:
    """Ask the schedules that may fire, in the fold's order, and run those hooks that do."""
    scheduled = turn.fold.having["on_schedule"]
    if turn.agenda is None:
        turn.asking = list(range(len(scheduled)))
    else:
        fresh, now = turn.state.fresh, turn.state.now
        if not (fresh or turn.pending or ripe(turn.agenda, now)):
            return
        turn.asking = due(turn.agenda, now, fresh | turn.pending.keys())
    _foresee(turn)
    last = -1
    while turn.asking:
        position = heappop(turn.asking)
        # What a metric wakes too late in the order is not asked, nor anything twice.
        if position > last:
            _ask(turn, scheduled[position])
        last = max(last, position)


def foreseen(callback: Callback) -> bool:
    """Whether counts alone say when the callback's pass is made."""
    if callback.data is None:
        return False
    return callback.schedule is None or callback.schedule.predicted


def _foresee(turn: Turn) -> None:
    """Ask those with a pass whose schedule looks at counts alone: which are made together?"""
    scheduled = turn.fold.having["on_schedule"]
    for position in sorted(set(turn.asking)):
        callback = scheduled[position]
        if foreseen(callback):
            turn.answers[callback.name] = _fires(turn, callback)
            turn.passes += [callback] if turn.answers[callback.name] else []


def _ask(turn: Turn, callback: Callback) -> None:
    """Run the callback if its schedule fires and has not fired at these counts already."""
    known = turn.answers.get(callback.name)
    if known if known is not None else _fires(turn, callback):
        run(turn, callback, "on_schedule")


def _fires(turn: Turn, callback: Callback) -> bool:
    if _looks(turn, callback):
        read(turn)
    question = (callback, turn.state, turn.carry.schedules, turn.schedules)
    if not guarded(turn, callback, "schedule", asked, *question):
        return False
    if turn.state.event == "end" and callback.name in turn.carry.fired:
        return False
    turn.fired.add(callback.name)
    return True


def asked(
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


def _looks(turn: Turn, callback: Callback) -> bool:
    """Whether the callback may look at a metric that has not been read yet.

    On several ranks what ran decides, which is the same on all of them, and not what was logged.
    """
    fresh = turn.pending if turn.combine is None else turn.writers
    if not fresh or callback.reads is None:
        return bool(fresh)
    wanted = (*turn.fold.needs[callback.name], *callback.reads_optional)
    if not wanted:
        return False
    if turn.combine is None:
        return any(matches(metric, wanted) for metric in turn.pending)
    return any(
        each.writes is None or any(overlap(key, one) for key in writes(each) for one in wanted)
        for each in turn.writers
    )


UNCONDITIONAL = ("before_training", "after_training", "on_exception")


def run(turn: Turn, callback: Callback, hook: str) -> None:
    """Run a callback's hook, if the metrics that it needs have been written."""
    if _looks(turn, callback):
        read(turn)
    needs = turn.fold.needs[callback.name]
    if needs and hook not in UNCONDITIONAL and not needs <= turn.state.metrics.keys():
        return
    before, begun = len(turn.requests), perf_counter()
    if turn.combine is not None and callback.writes != ():
        turn.writers.append(callback)
    answer = guarded(turn, callback, hook, _call, turn, callback, hook)
    if answer:
        guarded(turn, callback, hook, _accept, turn, callback, hook, answer)
    if hook == "on_schedule" and len(turn.requests) == before:
        turn.requests.append(Request(callback.name, hook, None))
    if turn.spent is not None:
        turn.spent[callback.name] += perf_counter() - begun


def _call(turn: Turn, callback: Callback, hook: str) -> Any:
    state = turn.state
    if callback.data is not None and hook in ("on_schedule", "at_evaluation"):
        state = replace(state, results=_results(turn, callback), label=callback.label)
    function = getattr(callback, hook)
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


def _results(turn: Turn, callback: Callback) -> Any:
    """What the callback's pass gave; one that others read with it is made for all of them."""
    if turn.broken:
        raise RankError("its pass is not made: the run ends on this rank")
    if callback.name not in turn.results:
        known = any(callback is each for each in turn.passes)
        together = [c for c in turn.passes if _together(c, callback)] if known else [callback]
        turn.passes = [c for c in turn.passes if c not in together]
        turn.results |= turn.serve(tuple(together), {**turn.carry.memories, **turn.memories})
    found = turn.results[callback.name]
    if isinstance(found, Exception):
        raise found
    return found


def _together(one: Callback, other: Callback) -> bool:
    return one.data is not None and other.data is not None and one.data.source == other.data.source


def _accept(turn: Turn, callback: Callback, hook: str, answer: Any) -> None:
    for effect in answer:
        if isinstance(effect, Log):
            effect = _logged(turn, callback, effect)
        elif isinstance(effect, Write | Export):
            named = effect.name.replace("{I}", callback.label).replace("{name}", callback.name)
            effect = replace(effect, name=named)
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


def _logged(turn: Turn, callback: Callback, log: Log) -> Log:
    label = callback.label
    metrics = {key.replace("{I}", label): value for key, value in log.metrics.items()}
    for key, value in metrics.items():
        check_metric(key, value)
        if turn.sources.setdefault(key, callback.name) != callback.name:
            raise ValueError(f"{turn.sources[key]!r} wrote {key} already; a metric has one writer")
    turn.pending.update(metrics)
    turn.over |= dict.fromkeys(metrics, log.over_ranks)
    if turn.combine is not None and callback not in turn.writers:
        turn.writers.append(callback)
    if turn.agenda is not None:
        for position in woken(turn.agenda, metrics):
            heappush(turn.asking, position)
    return replace(log, metrics=metrics)


def read(turn: Turn) -> None:
    """Turn what was logged into plain numbers, with one transfer for all of them."""
    if not (turn.pending if turn.combine is None else turn.writers):
        return
    found: Mapping[str, float] = numbers(turn.pending)
    if turn.combine is not None:
        found = turn.combine(found, turn.over)
    fresh = turn.state.fresh | found.keys()
    turn.state = replace(turn.state, metrics={**turn.state.metrics, **found}, fresh=fresh)
    turn.pending.clear()
    turn.over.clear()
    turn.writers.clear()


def guarded(turn: Turn, callback: Callback, hook: str, function: Any, *args: Any) -> Any:
    """What the function gives; None where it raises, which is then one of the turn's failures."""
    try:
        return function(*args)
    except Exception as error:
        if isinstance(error, RankError) and not turn.broken:
            raise
        turn.failures.append(Failure(callback, hook, error))
        if fatal(callback) and turn.combine is not None:
            turn.combine, turn.broken = None, True
        return None


def fatal(callback: Callback) -> bool:
    """Whether an error of the callback ends the run."""
    return callback.critical or callback.on_error == "raise"
