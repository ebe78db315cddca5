"""Ends at counts, thresholds and times; ends of runs that get worse."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import Callback, Log, TrainState, after, every, hooks, once_at_end
from tests.group import Group
from tests.hooks.test_stopping import reports, stopped
from tests.strategies import Clock, net, samples, sgd, squared_error


def train(*callbacks: Any, **options: Any) -> TrainState:
    """A run of three updates an epoch."""
    given = {"loss": squared_error, "optimizer": sgd, "until": {"epochs": 4}, "batch_size": 4}
    given |= {"defaults": False, "callbacks": callbacks}
    return noether.train(net(), samples(12), **{**given, **options})


# ---------------------------------------------------------------- stop_at


@pytest.mark.parametrize(
    ("options", "update"),
    [
        ({"epoch": 2}, 6),
        ({"update": 5}, 5),
        ({"sample": 17}, 5),
        ({"sample": 16}, 4),
        ({"epoch": 9}, 12),
    ],
)
def test_it_stops_in_the_first_tick_that_reaches_the_count(
    options: dict[str, int], update: int
) -> None:
    assert train(hooks.stop_at(**options)).now.update == update


def test_the_last_epoch_has_its_evaluation(tmp_path: Path) -> None:
    ran: list[int] = []

    def note(state: TrainState) -> None:
        ran.append(state.now.epoch)

    final = train(hooks.stop_at(epoch=1), every(epochs=1)(note), once_at_end(note).named("end"))
    assert ran == [1, 1]
    assert final.reason == "reached epoch 1"


def test_a_session_that_begins_at_the_count_makes_no_update(tmp_path: Path) -> None:
    saving = hooks.checkpoint(schedule=every(updates=1), keep_last=None)
    train(saving, run_dir=tmp_path, until={"updates": 5})
    begun = tmp_path / "1" / "checkpoints" / "step-4"
    again = train(hooks.stop_at(update=4), run_dir=tmp_path / "more", resume=begun)
    assert again.now.update == 4
    assert again.reason == "reached update 4"


def test_the_horizon_stays_that_of_the_run() -> None:
    assert train(hooks.stop_at(update=2)).total.update == 12


@pytest.mark.parametrize("options", [{}, {"epoch": 1, "update": 2}, {"epoch": 0}, {"sample": -1}])
def test_one_positive_count_is_expected(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected one of epoch, update, sample"):
        hooks.stop_at(**options)


# ---------------------------------------------------------------- threshold_stop


@given(values=reports, limit=st.integers(-5, 5), side=st.sampled_from(["above", "below"]))
def test_it_stops_at_the_first_fresh_value_beyond_the_limit(
    values: list[float | None], limit: int, side: str
) -> None:
    def out(value: float | None) -> bool:
        return value is not None and (value > limit if side == "above" else value < limit)

    expected = next((update for update, value in enumerate(values, 1) if out(value)), None)
    given: Any = {side: float(limit)}
    made = hooks.threshold_stop(metric="score", **given)
    assert stopped(values, made) == expected


@pytest.mark.parametrize("options", [{}, {"above": 1.0, "below": 0.0}, {"above": math.nan}])
def test_one_limit_is_expected(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="threshold_stop"):
        hooks.threshold_stop(metric="score", **options)


# ---------------------------------------------------------------- divergence_stop


@given(values=reports, mode=st.sampled_from(["min", "max"]))
def test_it_stops_where_a_value_is_so_many_times_worse_than_the_best(
    values: list[float | None], mode: Any
) -> None:
    positive = [None if value is None else abs(value) + 1 for value in values]
    expected, best = None, None
    for update, value in enumerate(positive, 1):
        if value is None:
            continue
        if not math.isfinite(value):
            expected = update
            break
        if best is None or (value < best if mode == "min" else value > best):
            best = value
        elif value > 3 * best if mode == "min" else value < best / 3:
            expected = update
            break
    made = hooks.divergence_stop(metric="score", factor=3, mode=mode)
    assert stopped(positive, made) == expected


@pytest.mark.parametrize(
    ("options", "update"),
    [
        ({"above": 3.5}, 4),
        ({"below": 1.5}, 2),
        ({"below": 1.5, "start": after(updates=2)}, 5),
    ],
)
def test_it_stops_out_of_bounds(options: dict[str, Any], update: int) -> None:
    values: list[float | None] = [2.0, 1.0, 3.0, 4.0, math.nan]
    assert stopped(values, hooks.divergence_stop(metric="score", **options)) == update


@pytest.mark.parametrize(
    "options", [{}, {"factor": 1.0}, {"factor": 2.0, "above": 1.0}, {"above": 1.0, "below": 0.0}]
)
def test_one_bound_is_expected(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="divergence_stop"):
        hooks.divergence_stop(metric="loss", **options)


# ---------------------------------------------------------------- time


def test_a_time_limit_counts_all_sessions(tmp_path: Path) -> None:
    def timed(**options: Any) -> TrainState:
        limit = hooks.time_limit(minutes=0.5, seconds=10, margin=10)
        saving = hooks.checkpoint(schedule=every(updates=1))
        return train(limit, saving, clock=Clock(), run_dir=tmp_path, **options)

    whole = timed(until={"updates": 1000})
    assert whole.reason is not None
    assert "of 40 s are used, 10 s kept" in whole.reason
    assert 30 <= whole.now.seconds < 33

    half = train(
        hooks.checkpoint(schedule=every(updates=1)),
        hooks.stop_at(update=whole.now.update // 2),
        clock=Clock(),
        run_dir=tmp_path / "half",
        until={"updates": 1000},
    )
    begun = tmp_path / "half" / "1" / "checkpoints" / f"step-{half.now.update}"
    again = timed(until={"updates": 1000}, resume=begun)
    assert again.now.update > half.now.update
    assert 30 <= again.now.seconds < 33


def test_without_a_margin_twice_the_longest_pause_is_kept(monkeypatch: Any) -> None:
    clock = Clock()
    monkeypatch.setattr("noether.loop.perf_counter", clock)

    def slow(state: TrainState) -> None:
        clock.now += 5.0 if state.now.update == 2 else 0.0

    def process(model: Any, batch: Any) -> dict[str, Any]:
        clock.now += 4.0
        return {"x": batch[0]}

    passing = Callback(
        "passing",
        on_schedule=slow,
        data=noether.DataPass("val", process),
        schedule=every(updates=3),
    )
    final = train(
        passing,
        hooks.time_limit(seconds=60),
        clock=clock,
        until={"updates": 1000},
        datasets={"val": samples(4, seed=2)},
    )
    assert final.reason is not None
    kept = float(final.reason.split(", ")[1].split()[0])
    assert 8.0 <= kept <= 10.0
    assert 60 - kept - 6 <= final.now.seconds <= 60


def test_a_deadline_ends_a_run_before_it_comes() -> None:
    def moment(seconds: float) -> str:
        return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()

    assert train(hooks.deadline(at=moment(3600))).now.update == 12
    assert train(hooks.deadline(at=moment(3600), margin=7200)).now.update == 0
    gone = train(hooks.deadline(at=moment(-1)))
    assert gone.now.update == 0
    assert gone.reason is not None
    assert "is near" in gone.reason


def test_a_deadline_that_comes_during_the_run_ends_it(monkeypatch: Any) -> None:
    """By a margin that grows with a pause: no clock of the machine's is waited for."""
    clock = Clock()
    monkeypatch.setattr("noether.loop.perf_counter", clock)

    def process(model: Any, batch: Any) -> dict[str, Any]:
        clock.now += 4000.0
        return {"x": batch[0]}

    data = noether.DataPass("val", process)
    passing = Callback("passing", on_schedule=ignore, data=data, schedule=every(updates=3))
    soon = (datetime.now(UTC) + timedelta(seconds=3600)).isoformat()
    made = hooks.deadline(at=soon)
    final = train(passing, made, clock=clock, datasets={"val": samples(4, seed=2)})
    assert final.now.update == 4  # the first update after the pause
    assert final.memories["deadline"].longest >= 4000.0


def ignore(state: TrainState) -> None:
    """Acts upon nothing."""


@pytest.mark.parametrize("margin", [math.nan, math.inf, -1.0])
def test_a_margin_is_a_number_of_seconds(margin: float) -> None:
    with pytest.raises(ValueError, match="deadline: margin is"):
        hooks.deadline(at="2999-12-24T18:00:00+00:00", margin=margin)
    with pytest.raises(ValueError, match="time_limit"):
        hooks.time_limit(hours=1, margin=margin)


def test_a_session_whose_time_is_used_up_makes_no_update(tmp_path: Path) -> None:
    saving = hooks.checkpoint(schedule=every(updates=1))
    half = train(saving, clock=Clock(), run_dir=tmp_path, until={"updates": 4})
    begun = tmp_path / "1" / "checkpoints" / "step-4"
    limit = hooks.time_limit(seconds=half.now.seconds, margin=0)
    again = train(limit, clock=Clock(), run_dir=tmp_path / "more", resume=begun)
    assert again.now.update == 4
    assert again.reason is not None
    assert "are used" in again.reason


@pytest.mark.parametrize("at", ["2026-12-24T18:00:00", "tomorrow", "", "2026-13-01T00:00:00+00:00"])
def test_a_deadline_is_a_time_with_a_zone(at: str) -> None:
    with pytest.raises(ValueError, match="expected a time with its zone"):
        hooks.deadline(at=at)


@pytest.mark.parametrize(
    "options", [{}, {"hours": -1, "minutes": 90}, {"seconds": 1, "margin": -1}]
)
def test_a_time_limit_is_positive(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="time_limit"):
        hooks.time_limit(**options)


# ---------------------------------------------------------------- ranks


def patient() -> int:
    """The update at which early stopping ends a run on this rank, each rank seeing other values."""

    def report(state: TrainState) -> Log:
        return Log({"score": float(state.now.update // 3 * (1 + state.rank))})

    reporting = Callback("reporter", after_update=report, writes=("score",))
    final = train(reporting, hooks.early_stopping(metric="score", patience=2, mode="min"))
    return final.now.update


def delayed() -> tuple[int, str | None]:
    """Where a time limit ends a run of which one rank alone has seen a long pause."""
    clock = Clock()

    def process(model: Any, batch: Any) -> dict[str, Any]:
        clock.now += 900.0 if dist.is_initialized() and dist.get_rank() == 1 else 0.0
        return {"x": batch[0]}

    data = noether.DataPass("val", process)
    passing = Callback("passing", on_schedule=ignore, data=data, schedule=every(updates=3))
    options: dict[str, Any] = {"clock": clock, "datasets": {"val": samples(4, seed=2)}}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("noether.loop.perf_counter", clock)
        final = train(passing, hooks.time_limit(seconds=1000), **options)
    return final.now.update, final.reason


def near() -> tuple[int, str | None]:
    """Where a deadline ends a run before which one rank alone would stop."""
    soon = (datetime.now(UTC) + timedelta(seconds=3600)).isoformat()
    final = train(hooks.deadline(at=soon, margin=7200.0 * dist.get_rank()))
    return final.now.update, final.reason


@pytest.mark.timeout(200)
def test_two_ranks_stop_together(tmp_path: Path) -> None:
    alone = patient()
    assert delayed() == (12, "reached 4 epochs")
    group = Group(2, tmp_path / "log")
    try:
        assert group.call(patient) == [alone, alone]
        (here, there), (update, reason) = group.call(delayed)
        assert (here, there) == (update, reason)
        assert update == 5  # rank 1 asks after the fourth; the other hears of it a tick later
        assert reason is not None
        assert "of 1000 s are used" in reason
        first, second = group.call(near)
        assert first == second
        assert first[0] == 0
        assert first[1] is not None
        assert "is near, 7200 s kept" in first[1]
    finally:
        group.close()
