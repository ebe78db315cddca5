import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import (
    Callback,
    ConfigurationError,
    Log,
    Progress,
    Stop,
    TrainState,
    after,
    at,
    every,
    hook,
    hooks,
    when,
)
from noether.fold import begin, compiled, tick
from noether.turn import Carry
from tests.strategies import net, samples, sgd, squared_error


def reporter(values: list[float | None]) -> Callback:
    """Reports a value of `score` in each update; None: none in this one."""

    def report(state: TrainState) -> Log | None:
        value = values[state.now.update - 1]
        return None if value is None else Log({"score": value})

    return Callback("reporter", after_update=report, writes=("score",))


def train(values: list[float | None], stopper: Callback, **options: Any) -> TrainState:
    given = {"loss": squared_error, "optimizer": sgd, "until": {"updates": len(values)}}
    given |= {"batch_size": 4, "defaults": False, "callbacks": [stopper, reporter(values)]}
    return noether.train(net(), samples(12), **{**given, **options})


def stopped(values: list[float | None], stopper: Callback) -> int | None:
    """The update at which a fold over these values asks to stop."""
    fold = compiled((reporter(values), stopper))
    start = TrainState("start", Progress(), Progress())
    carry = begin(fold, start, Carry()).carry
    for update in range(1, len(values) + 1):
        state = TrainState("update", Progress(update=update - 1), Progress(update=update))
        outcome = tick(fold, state, carry, lambda callbacks, memories: {})
        carry = outcome.carry
        assert not outcome.failures
        if any(isinstance(r.effect, Stop) for r in outcome.requests):
            return update
    return None


reports = st.lists(
    st.none() | st.integers(-5, 5).map(float) | st.sampled_from([math.nan, math.inf, -math.inf])
)


@given(values=reports, patience=st.integers(1, 4), mode=st.sampled_from(["min", "max"]))
def test_it_stops_when_the_first_best_is_patience_fresh_values_old(
    values: list[float | None], patience: int, mode: str
) -> None:
    expected = None
    for update in range(1, len(values) + 1):
        seen = [value for value in values[:update] if value is not None]
        finite = [value for value in seen if math.isfinite(value)]
        best = (min if mode == "min" else max)(finite, default=None)
        age = len(seen) if best is None else len(seen) - 1 - seen.index(best)
        if values[update - 1] is not None and age >= patience:
            expected = update
            break
    options: Any = {"metric": "score", "patience": patience, "mode": mode}
    assert stopped(values, hooks.early_stopping(**options, check_finite=False)) == expected
    bad = next((u for u, v in enumerate(values, 1) if v is not None and not math.isfinite(v)), None)
    first = min((update for update in (expected, bad) if update is not None), default=None)
    assert stopped(values, hooks.early_stopping(**options)) == first


@pytest.mark.parametrize(
    ("values", "min_delta", "update"),
    [
        ([4.0, 3.75, 3.5, 3.0], 0.5, 3),  # counted from 4.0, not from the value before
        ([4.0, 3.5, 2.5, 2.0, 2.0], 0.5, 5),
        ([4.0, 3.0, 2.0, 1.0], 0.5, None),
    ],
)
def test_an_improvement_is_by_more_than_min_delta_of_the_best(
    values: list[float | None], min_delta: float, update: int | None
) -> None:
    made = hooks.early_stopping(metric="score", patience=2, mode="min", min_delta=min_delta)
    assert stopped(values, made) == update


@pytest.mark.parametrize(
    ("options", "values", "update"),
    [
        # 4 has to fall below 2, and 1.5 below 0.75.
        ({"min_delta": 0.5, "threshold_mode": "rel"}, [4.0, 3.9, 1.5, 1.4, 1.3, 0.1], 5),
        ({"min_delta": 0.1, "threshold_mode": "rel"}, [4.0, 3.0, 2.5, 2.1, 1.5, 1.0], None),
        ({"baseline": 2.5}, [4.0, 3.0, 2.5, 2.1], 2),
        ({"start": after(updates=2)}, [1.0, 0.5, 4.0, 3.0, 2.0, 1.5], None),
    ],
)
def test_what_counts_as_better_can_be_said(
    options: dict[str, Any], values: list[float | None], update: int | None
) -> None:
    made = hooks.early_stopping(metric="score", patience=2, mode="min", **options)
    assert stopped(values, made) == update


def test_a_run_ends_after_the_whole_tick_with_the_reason() -> None:
    ran: list[int] = []
    last = Callback("last", on_schedule=lambda state: ran.append(state.now.update))
    made = hooks.early_stopping(metric="score", patience=2, mode="max")
    values: list[float | None] = [1.0, 2.0, 2.0, None, 0.0, 3.0]
    final = train(values, made, callbacks=[made, reporter(values), last])
    assert final.now.update == 5
    assert ran == [0, 1, 2, 3, 4, 5]
    assert final.reason is not None
    assert "score" in final.reason
    assert "2 at update 2" in final.reason


def test_the_start_may_wait_for_another_metric() -> None:
    def report(state: TrainState) -> Log:
        return Log({"gate": float(state.now.update)})

    gate = Callback("gate", after_update=report, writes=("gate",))
    made = hooks.early_stopping(
        metric="score", patience=1, mode="min", start=when("gate", ">", 2.0)
    )
    values: list[float | None] = [0.0, 0.0, 5.0, 4.0, 6.0, 6.0]
    assert made.reads == ("score", "gate")
    final = train(values, made, callbacks=[made, reporter(values), gate], strict=True)
    assert final.now.update == 5
    with pytest.raises(ConfigurationError, match="gate"):
        train(values, made)


def test_it_says_what_improved_and_how_long_nothing_did(capsys: Any) -> None:
    made = hooks.early_stopping(metric="score", patience=3, mode="min")
    train([3.0, 2.5, 2.5, 4.0], made)
    said = "".join(capsys.readouterr())
    for line in (
        "score improved to 3",
        "score improved to 2.5",
        "no better, 1/3",
        "4 is no better, 2/3",
    ):
        assert line in said


def test_without_a_stop_the_run_reaches_its_limit() -> None:
    made = hooks.early_stopping(metric="score", patience=2, mode="max")
    final = train([1.0, 2.0, 2.0, 3.0], made)
    assert final.now.update == 4
    assert final.memories[made.name].count == 0
    assert final.memories[made.name].best == 3.0


def test_only_the_values_on_its_schedule_are_counted() -> None:
    made = hooks.early_stopping(metric="score", patience=1, mode="min", schedule=every(updates=3))
    values: list[float | None] = [1.0, 9.0, 5.0, 9.0, 9.0, 4.0, 1.0, 1.0, 4.0, 0.0]
    assert stopped(values, made) == 9


def test_the_count_goes_on_after_a_resume_under_the_new_patience(tmp_path: Path) -> None:
    values: list[float | None] = [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]

    def interrupt(state: TrainState) -> None:
        raise KeyboardInterrupt

    def run(patience: int, *more: Callback) -> TrainState:
        made = hooks.early_stopping(metric="score", patience=patience, mode="min")
        saver = hooks.checkpoint(schedule=every(updates=3))
        callbacks = [made, reporter(values), saver, *more]
        return train(values, made, callbacks=callbacks, run_dir=tmp_path, resume="auto")

    with pytest.raises(KeyboardInterrupt):
        run(6, at(updates=5)(hook(point="before_update")(interrupt)))
    assert run(4).now.update == 5  # two misses before the checkpoint, two after it


def test_the_count_goes_on_after_a_limit_is_moved(tmp_path: Path) -> None:
    values: list[float | None] = [1.0, 2.0, 2.0, 2.0, 2.0, 0.5]

    def run(updates: int) -> TrainState:
        made = hooks.early_stopping(metric="score", patience=4, mode="min")
        callbacks = [made, reporter(values), hooks.checkpoint(schedule=every(updates=1))]
        options: Any = {"run_dir": tmp_path, "until": {"updates": updates}}
        return train(values, made, callbacks=callbacks, **options)

    half = run(3)
    assert half.memories["early_stopping/score"].count == 2
    begun = tmp_path / "1" / "checkpoints" / "step-3"
    made = hooks.early_stopping(metric="score", patience=4, mode="min")
    options: Any = {"run_dir": tmp_path / "more", "resume": begun}
    final = train(values, made, **options)
    assert final.now.update == 5
    assert final.memories["early_stopping/score"].update == 1


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "score", "patience": 3},
        {"metric": "score", "patience": 3, "mode": "less"},
        {"metric": "loss", "patience": 0},
        {"metric": "loss", "patience": 3, "min_delta": -1.0},
        {"metric": "loss", "patience": 3, "min_delta": math.nan},
        {"metric": "loss", "patience": 3, "baseline": math.nan},
    ],
)
def test_a_bad_option_is_refused_when_it_is_given(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"mode|patience|min_delta|baseline"):
        hooks.early_stopping(**options)


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [("loss/val/total", 1.0, 2.0), ("Error", 1.0, 2.0), ("accuracy/val", 2.0, 1.0)],
)
def test_auto_knows_losses_errors_and_accuracies(metric: str, better: float, worse: float) -> None:
    made = hooks.early_stopping(metric=metric, patience=1)
    step: Any = made.on_schedule

    def seen(value: float, memory: Any) -> Any:
        metrics, fresh = {metric: value}, frozenset({metric})
        now = Progress(update=1)
        return step(TrainState("update", now, now, metrics=metrics, fresh=fresh), memory)

    assert made.init is not None
    memory, _ = seen(worse, made.init(TrainState("start", Progress(), Progress())))
    assert not any(isinstance(effect, Stop) for effect in seen(better, memory)[1])
    assert any(isinstance(effect, Stop) for effect in seen(worse, memory)[1])


def test_a_metric_that_nobody_writes_is_refused_before_training() -> None:
    made = hooks.early_stopping(metric="scope", patience=1, mode="min")
    with pytest.raises(ConfigurationError, match=r"Did you mean score\?"):
        train([1.0], made)
