import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings

from noether import (
    Callback,
    DataPass,
    HookError,
    Log,
    Progress,
    Say,
    TrainState,
    every,
    hook,
    hooks,
    on_improvement,
    once_at_end,
    stateful,
)
from noether.effects import Effect
from noether.fold import begin
from noether.testing import asked, snapshots
from noether.testing.playing import folded, parted, played, restored, stored
from noether.testing.traces import trace
from noether.turn import Carry

FEW = settings(max_examples=20)
States = tuple[TrainState, ...]


def updates(n: int, **fields: Any) -> list[TrainState]:
    """The snapshots of `n` updates, three an epoch."""
    points = [Progress(u // 3, u, 4 * u, float(u)) for u in range(n + 1)]
    pairs = itertools.pairwise(points)
    return [TrainState("update", before, now, **fields) for before, now in pairs]


def said(effects: Sequence[Sequence[Effect]]) -> list[list[str]]:
    return [[e.text for e in tick if isinstance(e, Say)] for tick in effects]


def test_effects_are_told_tick_by_tick() -> None:
    @stateful(init=lambda state: 0)
    def count(state: TrainState, n: int) -> tuple[int, Say]:
        return n + 1, Say(f"{n + 1}")

    assert said(asked(every(updates=2)(count), updates(5))) == [[], ["1"], [], ["2"], []]


def test_what_the_snapshots_report_is_seen_and_fresh() -> None:
    reported = updates(2, metrics={"loss/val": 0.5}, fresh=frozenset({"loss/val"}))
    saving = asked(hooks.best_checkpoint(metric="loss/val"), reported)
    assert [len(effects) for effects in saving] == [2, 0]


def test_a_pass_gives_the_results() -> None:
    callback = every(updates=2)(hooks.accuracy(dataset="val"))
    assert asked(callback, updates(2), results={"correct": 0.5}) == [
        [],
        [Log({"accuracy/val": 0.5})],
    ]
    assert asked(callback, updates(2)) == [[], []]


def test_a_hook_that_raises_ends_it() -> None:
    def fail(state: TrainState) -> None:
        raise ArithmeticError("too much")

    with pytest.raises(HookError, match=r"'fail', on_schedule, at update 1 .*: too much"):
        asked(every(updates=1)(fail), updates(3))


def test_a_memory_that_cannot_begin_ends_it() -> None:
    def fail(state: TrainState) -> int:
        raise ArithmeticError("no memory")

    with pytest.raises(HookError, match="init"):
        asked(Callback("mine", init=fail), updates(1))


@FEW
@given(states=snapshots(within=True))
def test_hooks_within_an_update_ask_with_its_tick(states: States) -> None:
    def say(state: TrainState) -> Say:
        return Say(f"before {state.now.update}")

    before = every(updates=2)(hook(point="before_update")(say))
    ticks = [state for state in states if state.event in ("start", "update", "end")]
    expected = [
        [f"before {s.now.update}"]
        if s.event == "update" and s.performed and s.now.update % 2 == 0
        else []
        for s in ticks
    ]
    assert said(asked(before, states)) == expected


@FEW
@given(states=snapshots(within=True))
def test_every_micro_batch_is_seen(states: States) -> None:
    counting = Callback(
        "micro",
        init=lambda state: 0,
        after_accumulation_step=lambda state, n: (n + 1, None),
        after_training=lambda state, n: (n, Say(f"{n}")),
    )
    steps = sum(state.event == "accumulation_step" for state in states)
    assert said(asked(counting, states))[-1] == [f"{steps}"]


@FEW
@given(states=snapshots())
def test_a_resumed_opening_tick_keeps_no_memory(states: States) -> None:
    counting = Callback(
        "opened",
        init=lambda state: 0,
        before_training=lambda state, n: (n + 1, None),
        after_training=lambda state, n: (n, Say(f"{n}")),
    )
    assert said(asked(counting, states))[-1] == ["1"]


@FEW
@given(states=snapshots())
def test_a_carry_is_read_back_as_it_was_stored(states: States) -> None:
    schedule = on_improvement("loss/val") | once_at_end
    callback = every(updates=2)(hooks.online_loss())
    parts = parted(states, [{}] * len(states))
    for each in (callback, hooks.early_stopping(metric="loss/val", patience=1, schedule=schedule)):
        fold = folded(each, states)
        carry = begin(fold, states[0], Carry()).carry
        for outcome in played(fold, parts, carry):
            assert trace(restored(each, stored(outcome.carry))) == trace(outcome.carry)


def test_what_a_callback_writes_itself_is_not_reported_for_it() -> None:
    states = updates(1, metrics={"own": 3.0, "other": 4.0}, fresh=frozenset({"own", "other"}))
    seen: list[Any] = []

    def note(state: TrainState) -> Log:
        seen.append(dict(state.metrics))
        return Log({"own": 1.0})

    callback = Callback("mine", after_update=note, writes=("own",), data=None)
    assert asked(callback, states) == [[Log({"own": 1.0})]]
    assert seen == [{"other": 4.0}]


def test_a_pass_is_served_at_the_tick_alone() -> None:
    data = DataPass("val", lambda model, batch: {})
    callback = Callback("mine", on_schedule=lambda state: Say(str(state.results)), data=data)
    effects = asked(callback, updates(1), results={"n": 1})
    assert said(effects) == [["{'n': 1}"]]


def test_nothing_is_asked_where_there_are_no_snapshots() -> None:
    assert asked(Callback("a", after_update=lambda state: None), []) == []
