"""Who is asked, and who sleeps; what a run does is the same either way."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import noether
from noether import (
    Callback,
    HookError,
    Log,
    Progress,
    Schedule,
    TrainState,
    after,
    at,
    every,
    first,
    hook,
    on_improvement,
    once_at_end,
    until,
    when,
    where,
)
from noether.agenda import agenda, due
from noether.checkpoint import newest
from noether.journal import read
from noether.schedules.schedule import Pace
from tests.strategies import Clock, net, samples, sgd, squared_error


def watched(schedule: Schedule, asked: list[int]) -> Schedule:
    """The same schedule, noting the updates at which it is asked."""

    def step(moment: Any, memory: Any) -> Any:
        if moment.event == "update":
            asked.append(moment.now.update)
        return schedule.step(moment, memory)

    return replace(schedule, asks=lambda moment: step(moment, schedule.initial)[0], step=step)


def train(*callbacks: Callback, **options: Any) -> TrainState:
    given: dict[str, Any] = {
        "until": {"updates": 12},
        "batch_size": 4,
        "defaults": False,
        **options,
    }
    return noether.train(
        net(), samples(16), loss=squared_error, optimizer=sgd, callbacks=callbacks, **given
    )


def report(state: TrainState) -> Log:
    return Log({"score": float(state.now.update)})


score: Callback = hook(report, writes=["score"]).named("score")


@pytest.mark.parametrize(
    ("schedule", "updates"),
    [
        (every(updates=5), [5, 10]),
        (every(epochs=1), [4, 8, 12]),
        (every(samples=20), [5, 10]),
        (at(updates=7), [7]),
        (at(fraction=0.5), [6]),
        (every(updates=2) & after(epochs=1), [8, 10, 12]),
        (until(updates=2), [1, 2]),
        (first(1, every(epochs=2)), [8]),
        (once_at_end, []),
        (when("score"), [3, 6, 9, 12]),
        (when("score") & after(epochs=1), [3, 6, 9, 12]),
        (on_improvement("score", mode="max") | once_at_end, [3, 6, 9, 12]),
        (every(hours=1), []),
        (~every(updates=2), [*range(1, 13)]),
    ],
    ids=str,
)
@pytest.mark.parametrize("point", ["tick", "before_update"])
def test_a_schedule_is_asked_only_when_it_may_fire(
    schedule: Schedule, updates: list[int], point: Any
) -> None:
    if point != "tick" and (schedule.reads or schedule.clocked):
        return
    asked: list[int] = []
    fired: list[int] = []

    def note(state: TrainState) -> None:
        fired.append(state.now.update)

    watching = replace(hook(note, point=point), schedule=watched(schedule, asked))
    # Before the opening tick it is asked whether it can ever fire.
    begin = Callback("begin", before_training=lambda state: asked.clear())
    train(begin, watching, every(updates=3)(score))
    assert asked == updates
    assert {u for u in fired if 0 < u < 12} <= set(updates)


def test_a_dormant_hook_within_updates_costs_no_snapshot() -> None:
    seen: list[tuple[str, int]] = []

    def note(state: TrainState) -> None:
        seen.append((state.event, state.before.update))

    both = [hook(note, point=point) for point in ("before_update", "after_accumulation_step")]
    named = [callback.named(str(n)) for n, callback in enumerate(both)]
    train(*(at(updates=3)(callback) for callback in named), accumulate=2)
    assert seen == [("accumulation_step", 2), ("accumulation_step", 2), ("before_update", 2)]


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_run_resumed_with_other_updates_misses_no_epoch(
    batch_size: int, stop: int, tmp_path: Path
) -> None:
    fired: list[tuple[int, int]] = []

    def note(state: TrainState) -> None:
        fired.append((state.now.epoch, state.now.update))

    closing = every(epochs=1)(hook(note))
    saving = noether.hooks.checkpoint(schedule=every(updates=1))
    train(closing, saving, run_dir=tmp_path, until={"updates": stop})
    found = newest(tmp_path / "1" / "checkpoints")
    assert found is not None
    train(
        *(closing, saving),
        run_dir=tmp_path,
        until={"epochs": 4},
        batch_size=batch_size,
        resume=found.directory,
    )
    assert [epoch for epoch, _ in fired] == [1, 2, 3, 4]
    rows = [row for row in read(tmp_path / "2" / "journal.jsonl") if row["tick"] == "update"]
    ends = [b["update"] for a, b in itertools.pairwise(rows) if b["epoch"] > a["epoch"]]
    assert set(ends) <= {update for _, update in fired}


def broken(moment: Any) -> bool:
    raise ValueError("boom")


@pytest.mark.parametrize("point", ["tick", "before_update"])
def test_a_predicate_that_raises_is_named_with_its_callback(point: Any) -> None:
    early = hook(lambda state: None, point=point).named("early")
    with pytest.raises(HookError, match=r"callback 'early', schedule, at update .*boom"):
        train(where(broken)(early))


# ---------------------------------------------------------------- the clock


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (every(seconds=4), [3, 6, 8, 11]),
        (at(seconds=[5, 12]), [4, 8]),
        (every(updates=5) | every(seconds=4), [3, 5, 6, 8, 10, 11]),
        (every(updates=5) | at(seconds=5) | once_at_end, [4, 5, 10]),
        (~every(seconds=4), list(range(1, 13))),
        (every(seconds=4) & until(updates=3), [1, 2, 3]),
    ],
)
def test_the_clock_alone_wakes_what_waits_for_it(schedule: Schedule, wanted: list[int]) -> None:
    asked: list[int] = []
    callback = Callback("a", on_schedule=lambda state: None, schedule=watched(schedule, asked))
    train(callback, clock=Clock())  # 1.5 seconds an update
    assert asked == wanted


@pytest.mark.parametrize("schedule", [every(seconds=10), every(updates=5) | every(seconds=10)])
def test_what_the_clock_wakes_has_one_entry_however_often_it_is_asked(schedule: Schedule) -> None:
    made = agenda((Callback("a", schedule=schedule),), Progress(), Pace())
    for update in range(1, 200):
        due(made, Progress(update=update, seconds=1.7 * update))
        assert len(made.timed) == 1
        assert len(made.coming) <= 1
