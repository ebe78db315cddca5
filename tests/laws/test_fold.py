"""The laws of the fold: split over recorded snapshots, it is the same fold."""

import copy
import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from noether import Callback, Log, Say, Stop, TrainState, chain, every, hooks
from noether.callback import Pipeline
from noether.fold import Outcome, begin, compiled, tick
from noether.schedules import Schedule, Tick
from noether.turn import Carry, Fold
from tests import strategies as invent
from tests.strategies import Walk


def serve(callbacks: Pipeline, memories: Mapping[str, Any]) -> Mapping[str, Any]:
    return {callback.name: {} for callback in callbacks}


def reporter(values: dict[int, dict[str, float]]) -> Callback:
    """Reports the metrics of a recorded run, each at its update."""
    return Callback(
        "reporter",
        after_update=lambda state: Log(values.get(state.now.update, {})),
        writes=invent.METRICS,
    )


def counter(name: str, schedule: Schedule | None, reads: list[str] | None) -> Callback:
    """Remembers what it saw and when, and tells; a memory that is sensitive to any difference."""

    def step(kind: str) -> Any:
        def remember(state: TrainState, memory: Any) -> Any:
            # What was not declared may be there or not, as `strict` says.
            visible = state.metrics if reads is None else set(reads) & state.metrics.keys()
            seen = (kind, state.now.update, repr([(m, state.metrics[m]) for m in sorted(visible)]))
            memory = (*memory[-5:], seen)
            told = Log({f"count/{name}": len(memory)} if state.event != "start" else {})
            return memory, [Say(f"{kind} {memory}"), told]

        return remember

    points = ("before_training", "after_update", "after_epoch", "on_schedule", "after_training")
    return Callback(
        name,
        init=lambda state: (("init", state.now.update),),
        **{point: step(point) for point in points},
        schedule=schedule,
        reads=None if reads is None else tuple(reads),
        writes=(f"count/{name}",),
    )


def stopper(schedule: Schedule) -> Callback:
    return Callback(
        "stopper", on_schedule=lambda state: Stop(f"at {state.now.update}"), schedule=schedule
    )


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Callback, ...]:
    names = draw(st.lists(st.sampled_from("abc"), unique=True, min_size=1))
    reads = st.none() | st.lists(st.sampled_from(invent.METRICS), unique=True)
    counters = [counter(n, draw(st.none() | invent.schedules), draw(reads)) for n in names]
    built_in = draw(
        st.sets(
            st.sampled_from(
                [
                    hooks.early_stopping(metric="loss/val", patience=2),
                    hooks.best_checkpoint(metric="accuracy", keep_best=2),
                    every(epochs=1)(hooks.checkpoint()),
                ]
            )
        )
    )
    parts = [*counters, *built_in, stopper(draw(invent.plain))]
    return tuple(draw(st.permutations(parts)))


def recorded(walk: Walk) -> tuple[list[TrainState], dict[int, dict[str, float]]]:
    """The snapshots of a walk, without its restarts, and the metrics it reports by update."""
    ticks = [tick for tick in walk.ticks if tick.event == "update"]
    reports = {t.now.update: {n: t.metrics[n] for n in sorted(t.fresh)} for t in ticks}

    def snapshot(tick: Tick) -> TrainState:
        session_one = {f: replace(getattr(tick, f), session=1) for f in ("before", "now")}
        horizon = walk.ticks[-1].total
        assert horizon is not None
        return TrainState(tick.event, **session_one, total=horizon)

    return [snapshot(t) for t in (walk.ticks[0], *ticks, walk.ticks[-1])], reports


def run(fold: Fold, states: list[TrainState], carry: Carry) -> list[Outcome]:
    outcomes = []
    for state in states:
        outcomes.append(tick(fold, state, carry, serve))
        carry = outcomes[-1].carry
    return outcomes


def kept(carry: Carry) -> Any:
    """What must not depend on a split, NaN being equal to itself."""
    return repr(
        (
            sorted(carry.memories.items()),
            sorted(carry.schedules.items()),
            sorted(carry.metrics.items()),
            sorted(carry.fired),
            carry.stops,
        )
    )


def told(outcomes: list[Outcome]) -> list[str]:
    return [repr((o.requests, [str(f.error) for f in o.failures])) for o in outcomes]


@given(walk=invent.walks(sessions=False), pipeline=pipelines(), data=st.data())
def test_a_fold_split_anywhere_goes_on_from_its_carry(
    walk: Walk, pipeline: tuple[Callback, ...], data: st.DataObject
) -> None:
    states, reports = recorded(walk)
    whole = chain(reporter(reports), pipeline)
    fold = compiled(whole)
    straight = run(fold, states, begin(fold, states[0], Carry()).carry)

    cut = data.draw(st.integers(0, len(states)))
    first = run(fold, states[:cut], begin(fold, states[0], Carry()).carry)
    carry = first[-1].carry if first else begin(fold, states[0], Carry()).carry
    stored = pickle.loads(pickle.dumps(carry))
    again = compiled(whole)
    second = run(again, states[cut:], begin(again, states[0], stored).carry)

    assert told(first + second) == told(straight)
    last = (second or first)[-1].carry
    assert kept(last) == kept(straight[-1].carry)


@given(walk=invent.walks(sessions=False), pipeline=pipelines(), data=st.data())
def test_a_resumed_opening_tick_leaves_no_trace_in_what_follows(
    walk: Walk, pipeline: tuple[Callback, ...], data: st.DataObject
) -> None:
    states, reports = recorded(walk)
    fold = compiled(chain(reporter(reports), pipeline))
    straight = run(fold, states, begin(fold, states[0], Carry()).carry)

    cut = data.draw(st.integers(1, len(states) - 1))
    now = replace(states[cut - 1].now, session=2)
    opening = replace(states[cut], event="start", before=now, now=now)
    begun = begin(fold, opening, straight[cut - 1].carry)
    opened = tick(fold, opening, begun.carry, serve, keep=False)
    rest = [
        replace(s, before=replace(s.before, session=2), now=replace(s.now, session=2))
        for s in states[cut:]
    ]
    resumed = run(fold, rest, opened.carry)

    assert opened.carry.memories == straight[cut - 1].carry.memories
    assert told(resumed) == told(straight[cut:])
    assert repr(resumed[-1].carry.memories) == repr(straight[-1].carry.memories)


def test_what_a_resumed_opening_tick_reports_shifts_nothing_that_later_hooks_see() -> None:
    def step(state: TrainState, n: int) -> tuple[int, Log]:
        return n + 1, Log({"ticks": n + 1})

    def watch(state: TrainState, seen: Any) -> Any:
        return (*seen, state.metrics["ticks"]), None

    ticks = Callback("ticks", init=lambda state: 0, on_schedule=step, writes=("ticks",), reads=())
    watcher = Callback("watcher", init=lambda state: (), after_update=watch, reads=("ticks",))
    fold = compiled((ticks, watcher))
    steady = [TrainState(t.event, t.before, t.now) for t in invent.steady(4)]
    opening = TrainState("start", steady[0].before, steady[0].before)
    straight = run(fold, [opening, *steady], begin(fold, opening, Carry()).carry)

    again = TrainState("start", steady[1].now, steady[1].now)
    opened = tick(fold, again, straight[2].carry, serve, keep=False)
    resumed = run(fold, steady[2:], opened.carry)
    assert resumed[-1].carry.memories == straight[-1].carry.memories


@given(walk=invent.walks(sessions=False), pipeline=pipelines())
def test_a_tick_changes_nothing_of_what_it_was_given(
    walk: Walk, pipeline: tuple[Callback, ...]
) -> None:
    states, reports = recorded(walk)
    fold = compiled(chain(reporter(reports), pipeline))
    carry = begin(fold, states[0], Carry()).carry
    for state in states:
        before, seen = kept(carry), copy.deepcopy(state)
        outcome = tick(fold, state, carry, serve)
        assert kept(carry) == before
        assert state == seen
        assert told([tick(fold, state, carry, serve)]) == told([outcome])
        carry = outcome.carry


@given(walk=invent.walks(sessions=False), pipeline=pipelines(), extra=pipelines())
def test_a_silent_callback_more_changes_nothing_for_the_others(
    walk: Walk, pipeline: tuple[Callback, ...], extra: tuple[Callback, ...]
) -> None:
    states, reports = recorded(walk)
    silent = Callback(
        "silent",
        init=lambda state: 0,
        on_schedule=lambda state, n: (n + 1, None),
        schedule=extra[0].schedule,
    )
    fold = compiled(chain(reporter(reports), pipeline))
    more = compiled(chain(reporter(reports), silent, pipeline))
    one = run(fold, states, begin(fold, states[0], Carry()).carry)
    other = run(more, states, begin(more, states[0], Carry()).carry)
    asked = [tuple(r for r in o.requests if r.by != "silent") for o in other]
    assert [repr(o.requests) for o in one] == [repr(requests) for requests in asked]
