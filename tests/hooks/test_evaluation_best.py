import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import Callback, ConfigurationError, Log, Progress, TrainState, at, every, hook, hooks
from noether.fold import begin, compiled, tick
from noether.journal import read
from noether.turn import Carry
from tests.strategies import net, samples, sgd, squared_error

Row = Mapping[str, float]
"""What is reported in an update."""


def reporter(rows: list[Row], writes: tuple[str, ...] = ("score", "a", "b")) -> Callback:
    def report(state: TrainState) -> Log:
        return Log(rows[state.now.update - 1])

    return Callback("reporter", after_update=report, writes=writes)


def followed(rows: list[Row], best: Callback) -> list[dict[str, float]]:
    """What the callback logs in each update."""
    fold = compiled((reporter(rows), best))
    start = TrainState("start", Progress(), Progress())
    carry = begin(fold, start, Carry()).carry
    logged: list[dict[str, float]] = []
    for update in range(1, len(rows) + 1):
        state = TrainState("update", Progress(update=update - 1), Progress(update=update))
        outcome = tick(fold, state, carry, lambda callbacks, memories: {})
        carry = outcome.carry
        assert not outcome.failures
        names = [name for name in outcome.state.fresh if "/at_best/" in name]
        logged.append({name: outcome.state.metrics[name] for name in names})
    return logged


numbers = st.integers(-4, 4).map(float) | st.sampled_from([math.nan, math.inf, -math.inf])
rows = st.lists(
    st.fixed_dictionaries({}, optional={"score": numbers, "a": numbers, "b": numbers}), max_size=12
)


def expected(reports: list[Row], mode: str, min_delta: float) -> list[dict[str, float]]:
    """The same by hand: `a` is required, `b` is not."""
    known: dict[str, float] = {}
    best: float | None = None
    kept: dict[str, float] = {}
    logged: list[dict[str, float]] = []
    for row in reports:
        known |= row
        if "score" not in row or "a" not in known:
            logged.append({})
            continue
        score = row["score"] if mode == "max" else -row["score"]
        if math.isfinite(score) and (best is None or score - best > min_delta):
            best = score
            kept = {f"{t}/at_best/score": known[t] for t in ("a", "b") if t in known}
        logged.append(dict(kept))
    return logged


@given(
    reports=rows, mode=st.sampled_from(["min", "max"]), min_delta=st.sampled_from([0.0, 1.0, 2.5])
)
def test_targets_are_logged_as_they_were_at_the_best_whenever_the_source_is_fresh(
    reports: list[Row], mode: str, min_delta: float
) -> None:
    made = hooks.best_metric(
        source="score", targets=["a"], optional_targets=["b"], mode=mode, min_delta=min_delta
    )
    found = followed(reports, made)
    for one, other in zip(found, expected(reports, mode, min_delta), strict=True):
        assert one == pytest.approx(other, nan_ok=True)


def test_an_optional_target_that_nobody_writes_is_left_out_and_a_required_one_refused() -> None:
    row: list[Row] = [{"score": 1.0}, {"score": 2.0}]
    made = hooks.best_metric(source="score", optional_targets=["nobody"], mode="min")
    assert followed(row, made) == [{}, {}]
    made = hooks.best_metric(source="score", targets=["aa"], mode="min")
    with pytest.raises(ConfigurationError, match="reads aa, which nothing writes"):
        compiled((reporter(row), made))


def test_a_target_may_be_one_of_those_that_its_writer_promises_by_a_glob() -> None:
    sets = {"val": samples(3, seed=2), "test": samples(4, seed=3)}
    final = noether.train(
        net(),
        samples(4),
        loss=squared_error,
        optimizer=sgd,
        until={"epochs": 2},
        batch_size=4,
        callbacks=[
            hooks.best_metric(source="loss/val/total", targets=["loss/test/total"]),
            *(every(epochs=1)(hooks.offline_loss(dataset=name)) for name in sets),
        ],
        datasets=sets,
        defaults=False,
    )
    assert "loss/test/total/at_best/loss/val/total" in final.metrics


def test_two_that_log_the_same_are_refused() -> None:
    made = hooks.best_metric(source="score", targets=["a"], mode="min")
    other = hooks.best_metric(source="score", targets=["b", "a"], mode="max").named("other")
    with pytest.raises(ConfigurationError, match="both write"):
        compiled((reporter([]), made, other))


def test_it_acts_on_its_schedule_where_it_has_one() -> None:
    made = hooks.best_metric(source="score", targets=["a"], mode="max", schedule=every(updates=2))
    values = [9.0, 1.0, 5.0, 2.0]
    rows: list[Row] = [{"score": value, "a": -value} for value in values]
    name = "a/at_best/score"
    assert followed(rows, made) == [{}, {name: -1.0}, {}, {name: -2.0}]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "targets"),
        ({"targets": [], "optional_targets": []}, "targets"),
        ({"targets": ["a"], "optional_targets": ["a"]}, "twice"),
        ({"targets": "abc"}, "targets"),
        ({"targets": ["a"], "min_delta": -1.0}, "min_delta"),
        ({"targets": ["a"], "mode": "least"}, "mode"),
        ({"targets": ["a"], "mode": "auto"}, "mode"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        hooks.best_metric(**{"source": "score", "mode": "min", **options})


def test_the_best_survives_a_resume(tmp_path: Path) -> None:
    values = [5.0, 3.0, 4.0, 4.5, 2.0, 6.0]
    reports: list[Row] = [{"score": value, "a": 10 * value} for value in values]

    def interrupt(state: TrainState) -> None:
        raise KeyboardInterrupt

    def run(folder: Path, *more: Callback) -> list[float]:
        noether.train(
            net(),
            samples(4),
            loss=squared_error,
            optimizer=sgd,
            until={"updates": 6},
            batch_size=4,
            callbacks=[
                hooks.best_metric(source="score", targets=["a"], mode="min"),
                reporter(reports),
                hooks.checkpoint(schedule=every(updates=3)),
                *more,
            ],
            defaults=False,
            run_dir=folder,
            resume="auto",
        )
        journal = read(folder / "1" / "journal.jsonl")
        found = [row["metrics"].get("a/at_best/score") for row in journal]
        return [value for value in found if value is not None]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", at(updates=5)(hook(point="before_update")(interrupt)))
    assert run(tmp_path / "broken") == run(tmp_path / "whole") == [50, 30, 30, 30, 20, 20]
