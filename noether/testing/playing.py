"""A callback folded over snapshots by the fold of training, as a run would do it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import torch

from noether import fold as folding
from noether.agenda import agenda
from noether.callback import HOOKS, Callback, Pipeline
from noether.checkpoint.encoding import decode, encode, memory_types
from noether.dataflow import matches, needed, writes
from noether.effects import Effect, Log
from noether.fold import Outcome
from noether.schedules import Tick
from noether.schedules.schedule import Pace
from noether.state import TrainState
from noether.testing.states import coming
from noether.turn import Carry, Fold

REPORTER = "reported elsewhere"
"""The callback that reports what the snapshots' metrics say."""


@dataclass(frozen=True, slots=True)
class Part:
    """One tick's snapshots, the tick's own the last; what a data pass gives there."""

    states: tuple[TrainState, ...]
    results: Mapping[str, Any]

    @property
    def tick(self) -> TrainState:
        """The opening, update or closing tick itself."""
        return self.states[-1]


def asked(
    callback: Callback, states: Sequence[TrainState], *, results: Mapping[str, Any] | None = None
) -> list[list[Effect]]:
    """What a callback asks for, tick by tick, folded over the snapshots of a run.

    `results` is what its data pass gives. Raises HookError where a hook raises.

    >>> from noether import Progress, Say, every
    >>> hello = every(updates=2)(lambda state: Say("hello"))
    >>> points = [Progress(update=n) for n in range(4)]
    >>> asked(hello, [TrainState("update", *pair) for pair in zip(points, points[1:])])
    [[], [Say(text='hello', routine=False)], []]
    """
    if not states:
        return []
    parts = parted(states, [results or {}] * len(states))
    fold = folded(callback, states)
    begun = folding.begin(fold, states[0], Carry())
    outcomes = played(fold, parts, begun.carry)
    return [_effects(callback, outcome) for outcome in (begun, *outcomes)][1:]


def _effects(callback: Callback, outcome: Outcome) -> list[Effect]:
    for failure in outcome.failures:
        raise folding.hook_error(failure, outcome.state) from failure.error
    return [r.effect for r in outcome.requests if r.by == callback.name and r.effect is not None]


def parted(states: Sequence[TrainState], results: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Snapshots by the tick they lead to, each with one of the results."""
    within: list[TrainState] = []
    parts: list[Part] = []
    for state in states:
        within.append(state)
        if state.event in ("start", "update", "end"):
            parts.append(Part(tuple(within), results[len(parts)]))
            within = []
    return parts


def folded(callback: Callback, states: Sequence[TrainState]) -> Fold:
    """The callback's fold, what the snapshots say of other metrics reported by one before it."""
    own = writes(callback)
    reports = {
        state.now.update: {m: state.metrics[m] for m in sorted(state.fresh) if not matches(m, own)}
        for state in states
        if state.event == "update"
    }

    def report(state: TrainState) -> Log:
        return Log(reports[state.now.update])

    others = needed(callback).union(*reports.values())
    written = tuple(sorted(metric for metric in others if not matches(metric, own)))
    return folding.compiled((Callback(REPORTER, after_update=report, writes=written), callback))


def played(fold: Fold, parts: Sequence[Part], carry: Carry) -> Iterator[Outcome]:
    """The outcome of each tick, with what was asked within its update."""
    for part in parts:
        firing, carry = _firing(fold, part.tick, carry)
        outcomes: list[Outcome] = []
        for state in part.states[:-1]:
            outcomes.append(folding.passage(fold, state, carry, firing))
            carry = outcomes[-1].carry
        fresh = frozenset[str]().union(*(outcome.state.fresh for outcome in outcomes))
        outcomes.append(_tick(fold, replace(part.tick, fresh=fresh), carry, part.results))
        carry = outcomes[-1].carry
        requests = tuple(request for each in outcomes for request in each.requests)
        failures = tuple(failure for each in outcomes for failure in each.failures)
        yield replace(outcomes[-1], requests=requests, failures=failures)


def _firing(fold: Fold, tick: TrainState, carry: Carry) -> tuple[Pipeline, Carry]:
    """Who fires within the update of a tick, asked once before it."""
    if tick.event != "update":
        return (), carry
    moment = Tick(tick.before, coming(tick), total=tick.total)
    ahead = agenda(fold.early, tick.before, Pace(tick.total))
    return folding.due_early(ahead, moment, carry)


def _tick(fold: Fold, state: TrainState, carry: Carry, results: Mapping[str, Any]) -> Outcome:
    def serve(callbacks: Pipeline, memories: Mapping[str, Any]) -> Mapping[str, Any]:
        return {callback.name: results for callback in callbacks}

    resumed = state.event == "start" and state.now.session > 1
    return folding.tick(fold, state, carry, serve, keep=not resumed)


def stored(carry: Carry) -> bytes:
    """What a checkpoint keeps of a carry; raises TypeError for a memory that it cannot hold."""
    memories = {name: encode(m, f"memory of {name!r}") for name, m in carry.memories.items()}
    rest = {
        "schedules": dict(carry.schedules),
        "metrics": dict(carry.metrics),
        "fired": sorted(carry.fired),
        "stops": carry.stops,
    }
    file = BytesIO()
    torch.save({"memories": memories, **encode(rest, "the carry")}, file)
    return file.getvalue()


def restored(callback: Callback, data: bytes) -> Carry:
    """The carry that `stored` made `data` of."""
    tree = torch.load(BytesIO(data), weights_only=True)
    memories = {name: decode(m, types_of(callback)) for name, m in tree["memories"].items()}
    rest = decode({key: value for key, value in tree.items() if key != "memories"}, {})
    return Carry(**{**rest, "memories": memories, "fired": frozenset(rest["fired"])})


def types_of(callback: Callback) -> dict[str, type]:
    """The dataclasses that its memory may be made of when it is read back."""
    hooks = [getattr(callback, name) for name in ("init", *HOOKS)]
    return memory_types([hook for hook in hooks if hook is not None])
