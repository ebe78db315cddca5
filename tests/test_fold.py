from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import (
    Callback,
    DataPass,
    Do,
    HookError,
    Log,
    Progress,
    Save,
    Say,
    Set,
    Stop,
    TrainState,
    Write,
    at,
    chain,
    each_session,
    every,
    hook,
    once_at_end,
    once_at_start,
    stateful,
    when,
)
from noether.agenda import agenda
from noether.callback import Pipeline
from noether.fold import Outcome, begin, compiled, due_early, leave, passage, tick
from noether.schedules import Tick
from noether.schedules.schedule import Pace
from noether.turn import Carry
from tests.strategies import net, samples, sgd, squared_error

START = TrainState("start", Progress(), Progress())


def update(n: int, *, per_epoch: int = 3) -> TrainState:
    """The snapshot of the n-th update."""
    before, now = (Progress(u // per_epoch, u, 4 * u, float(u)) for u in (n - 1, n))
    return TrainState("update", before, now)


def end(n: int) -> TrainState:
    return replace(update(n), event="end", before=update(n).now)


def nothing(callbacks: Pipeline, memories: Mapping[str, Any]) -> Mapping[str, Any]:
    return {callback.name: {} for callback in callbacks}


def folded(callbacks: Any, *states: TrainState) -> list[Outcome]:
    """The outcomes of these snapshots, from the beginning of a run."""
    fold = compiled(chain(*callbacks))
    outcomes = [begin(fold, START, Carry())]
    for state in states:
        outcomes.append(tick(fold, state, outcomes[-1].carry, nothing))
    return outcomes[1:]


def asked(outcome: Outcome) -> list[tuple[str, str]]:
    """Who asked for something, and in which hook."""
    return [(r.by, r.hook) for r in outcome.requests if r.effect is not None]


def said(outcome: Outcome) -> list[str]:
    return [r.effect.text for r in outcome.requests if isinstance(r.effect, Say)]


def speaker(name: str, *hooks: str, **fields: Any) -> Callback:
    """Says its name and hook wherever it runs."""

    def speak(text: str) -> Any:
        return lambda state: Say(text)

    return Callback(name, **{h: speak(f"{name} {h}") for h in hooks}, **fields)


EVERYWHERE = (
    *("before_training", "after_update", "after_epoch", "on_schedule", "after_training"),
    *("before_update", "after_accumulation_step", "at_evaluation", "on_exception"),
)

# ---------------------------------------------------------------- order


@pytest.mark.parametrize(
    ("state", "hooks"),
    [
        (START, ["before_training", "on_schedule"]),
        (update(2), ["after_update", "on_schedule"]),
        (update(3), ["after_update", "after_epoch", "on_schedule"]),
        (end(3), ["on_schedule", "after_training"]),
    ],
)
def test_a_tick_runs_each_kind_of_hook_of_all_callbacks_before_the_next(
    state: TrainState, hooks: list[str]
) -> None:
    pair = speaker("a", *EVERYWHERE), speaker("b", *EVERYWHERE)
    (outcome,) = folded(pair, state)
    assert said(outcome) == [f"{name} {h}" for h in hooks for name in "ab"]


def test_within_an_update_only_the_hooks_of_that_point_run() -> None:
    due = speaker("due", *EVERYWHERE, point="before_update", schedule=every(updates=2))
    fold = compiled((speaker("a", *EVERYWHERE), due))
    said_at = {}
    early = agenda(fold.early, START.now, Pace())
    for n in (1, 2):
        moment = Tick(update(n).before, update(n).now)
        firing, carry = due_early(early, moment, Carry())
        for event in ("accumulation_step", "before_update"):
            state = replace(update(n), event=event)
            said_at[n, event] = said(passage(fold, state, carry, firing))
    within = [f"{name} after_accumulation_step" for name in ("a", "due")]
    assert said_at[1, "accumulation_step"] == said_at[2, "accumulation_step"] == within
    before = [f"{name} before_update" for name in ("a", "due")]
    assert said_at[1, "before_update"] == before
    assert said_at[2, "before_update"] == [*before, "due on_schedule"]


def test_a_point_within_the_update_is_asked_about_the_counts_it_will_have_reached() -> None:
    seen: dict[str, list[int]] = {}

    def note(name: str) -> Any:
        return lambda state: seen.setdefault(name, []).append(state.now.update)

    points: Any = ("tick", "before_update", "after_accumulation_step")
    pipeline = [
        Callback(point, on_schedule=note(point), point=point, schedule=at(updates=[2, 5]))
        for point in points
    ]
    trained(pipeline, until={"updates": 6}, accumulate=2)
    assert seen["tick"] == seen["before_update"] == [2, 5]
    assert seen["after_accumulation_step"] == [1, 1, 4, 4]  # the counters have not moved yet


def test_a_callback_without_a_schedule_runs_on_every_tick() -> None:
    outcomes = folded([speaker("a", "on_schedule")], START, update(1), end(1))
    assert [said(outcome) for outcome in outcomes] == [["a on_schedule"]] * 2 + [[]]


def test_memories_begin_once_and_absent_callbacks_lose_theirs() -> None:
    kept = Callback("kept", init=lambda state: "new")
    fresh = Callback("fresh", init=lambda state: state.now.update)
    carry = Carry({"kept": "old", "gone": 3})
    begun = begin(compiled((kept, fresh)), update(7), carry)
    assert begun.carry.memories == {"kept": "old", "fresh": 7}


# ---------------------------------------------------------------- metrics


def writer(hook: str, **fields: Any) -> Callback:
    return Callback(
        "writer",
        writes=("m",),
        **({hook: lambda state: Log({"m": torch.tensor(float(state.now.update))})} | fields),
    )


def reader(hook: str, **fields: Any) -> Callback:
    def read(state: TrainState) -> Say:
        return Say(f"{state.metrics.get('m')} {'fresh' if 'm' in state.fresh else 'stale'}")

    return Callback("reader", **({hook: read} | fields))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("on_schedule", "on_schedule"),
        ("after_update", "on_schedule"),
        ("after_epoch", "on_schedule"),
        ("after_update", "after_update"),
        ("after_update", "after_epoch"),
        ("after_epoch", "after_epoch"),
    ],
)
@pytest.mark.parametrize("promise", [{"reads": ["m"]}, {"reads_optional": ["m"]}, {}])
def test_a_metric_is_seen_later_in_its_tick_as_a_plain_number(
    first: str, then: str, promise: dict[str, Any]
) -> None:
    (outcome,) = folded([writer(first), reader(then, **promise)], update(3))
    assert said(outcome) == ["3.0 fresh"]


def test_what_is_logged_in_the_closing_tick_is_seen_after_training() -> None:
    pair = writer("on_schedule", schedule=once_at_end), reader("after_training", reads=["m"])
    (outcome,) = folded(pair, end(3))
    assert said(outcome) == ["3.0 fresh"]


def test_a_declared_reader_runs_after_its_writer_though_declared_first() -> None:
    (outcome,) = folded([reader("on_schedule", reads=["m"]), writer("on_schedule")], update(2))
    assert said(outcome) == ["2.0 fresh"]


def test_a_metric_stays_known_and_is_no_longer_fresh() -> None:
    pair = writer("on_schedule", schedule=at(updates=1)), reader("on_schedule", reads=["m"])
    outcomes = folded(pair, update(1), update(2))
    assert [said(outcome) for outcome in outcomes] == [["1.0 fresh"], ["1.0 stale"]]
    assert outcomes[1].carry.metrics == {"m": 1.0}


@pytest.mark.parametrize("hook", ["after_update", "after_epoch", "on_schedule"])
def test_a_hook_whose_read_was_never_written_is_not_run(hook: str) -> None:
    pair = writer("on_schedule", schedule=at(updates=4)), reader(hook, reads=["m"])
    outcomes = folded(pair, *map(update, range(1, 7)))
    ran = [n for n, outcome in enumerate(outcomes, start=1) if said(outcome)]
    expected = {"after_update": [5, 6], "after_epoch": [6], "on_schedule": [4, 5, 6]}
    assert ran == expected[hook]


def test_a_metric_in_a_schedule_counts_as_a_read() -> None:
    late = Callback("late", on_schedule=lambda s: Say("late"), schedule=when("m", ">", 1))
    outcomes = folded([late, writer("after_update")], update(1), update(2))
    assert [said(outcome) for outcome in outcomes] == [[], ["late"]]


def test_two_callbacks_that_log_one_metric_are_told_so() -> None:
    undeclared = Callback("other", on_schedule=lambda state: Log({"m": 0.0}))
    (outcome,) = folded([writer("on_schedule"), undeclared], update(1))
    ((failure),) = outcome.failures
    assert failure.callback.name == "other"
    assert "'writer'" in str(failure.error)
    assert outcome.carry.metrics == {"m": 1.0}


@pytest.mark.parametrize("value", ["high", None, torch.zeros(2), [1.0]])
def test_a_metric_that_is_no_number_is_an_error_that_names_it(value: Any) -> None:
    (outcome,) = folded([Callback("a", on_schedule=lambda s: Log({"m/x": value}))], update(1))
    (failure,) = outcome.failures
    assert "m/x" in str(failure.error)
    assert outcome.carry.metrics == {}


@pytest.mark.parametrize(
    ("schedule", "key"),
    [
        (every(updates=2), "m/U2"),
        (every(epochs=1), "m/E1"),
        (every(samples=8), "m/S8"),
        (every(seconds=2), "m/T2s"),
        (every(updates=2) | once_at_end, "m/labelled"),
    ],
)
def test_the_interval_label_is_filled_into_metrics_and_outputs(schedule: Any, key: str) -> None:
    def report(state: TrainState) -> list[Any]:
        return [Log({"m/{I}": 1.0}), Write("m/{I}", 2)]

    labelled = Callback("labelled", on_schedule=report, writes=("m/{I}",), schedule=schedule)
    outcomes = folded([labelled], *map(update, range(1, 4)))
    effects = [r.effect for outcome in outcomes for r in outcome.requests]
    assert {name for e in effects if isinstance(e, Log) for name in e.metrics} == {key}
    assert {e.name for e in effects if isinstance(e, Write)} == {key}
    assert outcomes[-1].carry.metrics == {key: 1.0}


# ---------------------------------------------------------------- what hooks return

EFFECTS = [Say("a"), Log({"m": 1.0}), Save("s"), Set("lr", 1.0), Stop("s"), Do("x"), Write("w", 1)]


@given(effects=st.lists(st.sampled_from(EFFECTS), max_size=4), kind=st.sampled_from("tlg"))
def test_any_iterable_of_effects_adds_up_in_its_order(effects: list[Any], kind: str) -> None:
    def ask(state: TrainState) -> Any:
        return tuple(effects) if kind == "t" else list(effects) if kind == "l" else iter(effects)

    (outcome,) = folded([Callback("a", after_update=ask)], update(1))
    assert [r.effect for r in outcome.requests] == effects
    assert not outcome.failures


@pytest.mark.parametrize("answer", [None, Say("one"), (), [], (Say("one"), Say("two"))])
def test_a_stateful_hook_returns_its_memory_and_the_same_kinds_of_effects(answer: Any) -> None:
    made = stateful(init=lambda state: 0)(lambda state, n: (n + 1, answer)).named("a")
    outcome = folded([made], update(1), update(2))[-1]
    assert outcome.carry.memories == {"a": 2}
    assert not outcome.failures


@pytest.mark.parametrize("answer", [3, "text", [3], (Say("a"), "text"), {"m": 1.0}, 1.5])
def test_what_is_no_effect_is_an_error_that_shows_it(answer: Any) -> None:
    (outcome,) = folded([Callback("a", after_update=lambda state: answer)], update(1))
    (failure,) = outcome.failures
    assert isinstance(failure.error, TypeError)
    assert (failure.callback.name, failure.hook) == ("a", "after_update")


@pytest.mark.parametrize("answer", [None, 3, (1,), (1, None, None), Say("a"), [1, None]])
def test_a_stateful_hook_that_returns_no_pair_fails_and_keeps_its_memory(answer: Any) -> None:
    made = stateful(init=lambda state: "before")(lambda state, memory: answer)
    (outcome,) = folded([made.named("a")], update(1))
    assert len(outcome.failures) == 1
    assert "(memory, effects)" in str(outcome.failures[0].error)
    assert outcome.carry.memories == {"a": "before"}


def test_all_hooks_of_a_callback_share_one_memory() -> None:
    def step(text: str) -> Any:
        return lambda state, seen: ((*seen, text), None)

    hooks = ("before_training", "after_update", "after_epoch", "on_schedule", "after_training")
    made = Callback(
        "a", init=lambda state: (), **{h: step(h) for h in hooks}, schedule=at(epochs=1)
    )
    outcome = folded([made], START, update(3), end(3))[-1]
    assert outcome.carry.memories == {"a": hooks}


def test_hooks_run_without_gradients() -> None:
    def note(state: TrainState) -> Say:
        return Say(str(torch.is_grad_enabled()))

    (outcome,) = folded([Callback("a", after_update=note, on_schedule=note)], update(1))
    assert said(outcome) == ["False", "False"]


# ---------------------------------------------------------------- errors


def failing(state: TrainState) -> None:
    raise ArithmeticError("too much")


@pytest.mark.parametrize("broken", ["after_update", "after_epoch", "on_schedule"])
def test_a_failing_hook_stops_no_other(broken: str) -> None:
    hooks = ("after_update", "after_epoch", "on_schedule")
    failing_at: dict[str, Any] = {broken: failing}
    pipeline = speaker("a", *hooks), Callback("bad", **failing_at), speaker("b", *hooks)
    (outcome,) = folded(pipeline, update(3))
    assert said(outcome) == [f"{name} {h}" for h in hooks for name in "ab"]
    ((failure),) = outcome.failures
    assert (failure.callback.name, failure.hook) == ("bad", broken)


def test_every_failure_of_a_tick_is_told_in_order() -> None:
    pipeline = [Callback(name, after_update=failing) for name in "abc"]
    (outcome,) = folded(pipeline, update(1))
    assert [failure.callback.name for failure in outcome.failures] == ["a", "b", "c"]


def test_a_failing_stateful_hook_keeps_its_memory() -> None:
    def fail_at_two(state: TrainState, n: int) -> tuple[int, None]:
        return n + 1 // (2 - state.now.update), None

    made = Callback("a", init=lambda state: 0, after_update=fail_at_two)
    outcomes = folded([made], update(1), update(2))
    assert [o.carry.memories["a"] for o in outcomes] == [1, 1]
    assert [len(o.failures) for o in outcomes] == [0, 1]


def trained(callbacks: Any, **options: Any) -> TrainState:
    given = {"until": {"updates": 4}, "batch_size": 4, "optimizer": sgd, "loss": squared_error}
    given |= {"defaults": False, **options}
    return noether.train(net(), samples(12), callbacks=callbacks, **given)  # type: ignore[arg-type]


def test_an_error_names_callback_hook_and_progress_and_keeps_its_cause() -> None:
    with pytest.raises(HookError, match=r"'bad', on_schedule, at update 2") as caught:
        trained([at(updates=2)(Callback("bad", on_schedule=failing))])
    assert isinstance(caught.value.__cause__, ArithmeticError)


def test_an_observer_that_fails_is_reported_once_and_the_run_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran = []
    bad = Callback("bad", after_update=failing, on_error="warn")
    final = trained([bad, Callback("good", after_update=lambda s: ran.append(s.now.update))])
    assert final.now.update == 4
    assert ran == [1, 2, 3, 4]
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("ArithmeticError: too much") == 1


def test_an_observer_whose_memory_cannot_begin_does_not_end_the_run() -> None:
    def no_memory(state: TrainState) -> int:
        raise ArithmeticError("no memory")

    made = Callback(
        "bad", init=no_memory, after_update=lambda state, n: (n + 1, None), on_error="warn"
    )
    assert trained([made]).now.update == 4


def test_the_closing_hooks_of_a_way_out_keep_no_memory() -> None:
    made = Callback(
        "a",
        init=lambda state: 0,
        after_training=lambda state, n: (n + 1, Say(f"closing {n}")),
        on_exception=lambda state, n: (n + 1, Say(f"{state.exception} {n}")),
    )
    fold = compiled((made,))
    state = replace(end(3), exception="ValueError: x")
    outcome = leave(fold, state, Carry({"a": 5}), "on_exception", "after_training")
    assert said(outcome) == ["ValueError: x 5", "closing 6"]
    assert outcome.carry.memories == {"a": 5}


# ---------------------------------------------------------------- opening and closing


@pytest.mark.parametrize("last", [4, 5, 6])
def test_the_closing_tick_does_not_repeat_what_fired_at_the_same_counts(last: int) -> None:
    saver = speaker("saver", "on_schedule", schedule=every(updates=3) | once_at_end)
    outcomes = folded([saver], START, *map(update, range(1, last + 1)), end(last))
    fired = [outcome.state.now.update for outcome in outcomes if said(outcome)]
    assert fired == sorted({3, *range(3, last + 1, 3), last})
    assert len(fired) == len(set(fired))


def test_what_fired_before_a_resume_is_not_repeated_by_the_closing_tick_after_it() -> None:
    fold = compiled((speaker("saver", "on_schedule", schedule=every(updates=3) | once_at_end),))
    stored = tick(fold, update(3), begin(fold, START, Carry()).carry, nothing).carry
    again = replace(update(3), event="start", before=update(3).now)
    opened = tick(fold, again, begin(fold, again, stored).carry, nothing, keep=False)
    closed = tick(fold, end(3), opened.carry, nothing)
    assert said(opened) == said(closed) == []


def test_the_opening_ticks_of_run_and_session_are_told_apart() -> None:
    pair = (
        speaker("run", "on_schedule", schedule=once_at_start),
        speaker("session", "on_schedule", schedule=each_session),
    )
    first, second = update(3).now, replace(update(3).now, session=2)
    assert said(folded(pair, START)[0]) == ["run on_schedule", "session on_schedule"]
    resumed = TrainState("start", second, second)
    assert said(folded(pair, resumed)[0]) == ["session on_schedule"]
    assert first.session == 1


def test_a_resumed_opening_tick_changes_no_memory_but_its_effects_count() -> None:
    made = Callback(
        "a",
        init=lambda state: 0,
        before_training=lambda state, n: (n + 1, Say(f"hello {n}")),
        on_schedule=lambda state, n: (n + 10, Say(f"again {n}")),
        schedule=each_session,
    )
    fold = compiled((made,))
    stored = Carry({"a": 7})
    outcome = tick(fold, replace(START, now=Progress(session=2)), stored, nothing, keep=False)
    assert said(outcome) == ["hello 7", "again 8"]
    assert outcome.carry.memories == {"a": 7}


def test_a_stop_is_carried_with_its_reason() -> None:
    pair = [Callback(n, after_update=lambda state, n=n: Stop(f"{n} said so")) for n in "ab"]
    (outcome,) = folded(pair, update(1))
    assert outcome.carry.stops == ("a said so", "b said so")


# ---------------------------------------------------------------- data


def test_a_data_pass_is_served_only_when_its_schedule_fires_and_to_its_owner_alone() -> None:
    served: list[str] = []

    def serve(callbacks: Pipeline, memories: Mapping[str, Any]) -> Mapping[str, Any]:
        served.extend(callback.name for callback in callbacks)
        return {callback.name: {"n": len(served)} for callback in callbacks}

    def tell(state: TrainState) -> Say:
        return Say(str(dict(state.results)))

    owner = Callback(
        "owner",
        on_schedule=tell,
        after_update=tell,
        data=DataPass("val", lambda model, batch: {}),
        schedule=every(updates=2),
    )
    fold = compiled((owner, Callback("other", on_schedule=tell)))
    carry, heard = begin(fold, START, Carry()).carry, []
    for n in range(1, 5):
        outcome = tick(fold, update(n), carry, serve)
        carry = outcome.carry
        heard.append(said(outcome))
    assert served == ["owner", "owner"]
    assert heard == [
        ["{}", "{}"],
        ["{}", "{'n': 1}", "{}"],
        ["{}", "{}"],
        ["{}", "{'n': 2}", "{}"],
    ]


def test_hooks_with_a_point_ask_in_the_update_they_belong_to() -> None:
    seen: list[int] = []

    def gradients(state: TrainState) -> None:
        assert state.model.gradients
        seen.append(state.now.update)

    made = every(updates=2)(hook(point="before_update")(gradients))
    trained([made])
    assert seen == [2, 4]
