import math
import re

import pytest

from noether.progress import Progress
from noether.schedules import every, on_improvement, on_plateau, when
from noether.schedules.metrics import direction, improves
from tests.strategies import fired, reports

LOSS = "loss/val"


def test_a_stale_value_never_fires() -> None:
    ticks = reports(LOSS, [5, None, None, 5])
    assert fired(when(LOSS), ticks) == [1, 4]
    assert fired(when(LOSS, ">", 3), ticks) == [1, 4]


@pytest.mark.parametrize(
    ("comparison", "updates"),
    [("<", [1]), ("<=", [1, 2]), (">", [3]), (">=", [2, 3]), ("==", [2]), ("!=", [1, 3])],
)
def test_comparisons(comparison: str, updates: list[int]) -> None:
    assert fired(when(LOSS, comparison, 2.0), reports(LOSS, [1, 2, 3])) == updates


def test_improvement_is_strict_and_the_first_value_is_one() -> None:
    ticks = reports(LOSS, [3, 3, 2, None, 2.5, 1])
    assert fired(on_improvement(LOSS, mode="min"), ticks) == [1, 3, 6]
    assert fired(on_improvement(LOSS, mode="max"), ticks) == [1]
    assert fired(on_improvement(LOSS, mode="min", min_delta=1), ticks) == [1, 6]


def test_what_is_not_finite_never_improves() -> None:
    ticks = reports(LOSS, [math.nan, -math.inf, 3, math.nan, -math.inf, 2])
    assert fired(on_improvement(LOSS, mode="min"), ticks) == [3, 6]


def test_a_plateau_counts_fresh_values_and_begins_anew() -> None:
    ticks = reports(LOSS, [3, 3, None, 4, 5, math.nan, 1, 2, 2])
    assert fired(on_plateau(LOSS, patience=2, mode="min"), ticks) == [4, 6, 9]
    assert fired(on_plateau(LOSS, patience=1, mode="min"), ticks) == [2, 4, 5, 6, 8, 9]


def test_metrics_are_reads() -> None:
    schedule = on_improvement(LOSS) & every(epochs=1) | ~when("accuracy", ">", 0.5)
    assert schedule.reads == {LOSS, "accuracy"}
    assert not schedule.predicted
    assert schedule.next_update(Progress(update=3)) == 4


def test_the_direction_is_written_out() -> None:
    assert str(on_improvement(LOSS)) == 'on_improvement("loss/val", mode="min")'
    assert on_improvement(LOSS, min_delta=0) == on_improvement(LOSS, mode="min")
    plateau = on_plateau(LOSS, patience=3, min_delta=0.1)
    assert str(plateau) == 'on_plateau("loss/val", patience=3, mode="min", min_delta=0.1)'


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("loss/val", "min"), ("Error_rate", "min"), ("val/top1_ACCURACY", "max")],
)
def test_auto_goes_by_the_name(metric: str, expected: str) -> None:
    assert direction(metric) == expected


@pytest.mark.parametrize("metric", ["rmse", "mae", "accuracy_loss"])
def test_auto_never_guesses(metric: str) -> None:
    assert direction(metric, "max") == "max"
    with pytest.raises(ValueError, match=f"can't tell whether less or more of {metric}"):
        direction(metric, "auto")


def test_improves_is_by_more_than_the_delta() -> None:
    assert improves(1.0, None, "max", 5.0)
    assert not improves(1.5, 1.0, "max", 0.5)
    assert improves(1.6, 1.0, "max", 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: when(""), "the name is empty"),
        (lambda: when(LOSS, "=>", 1), "Give one of < <= > >= == !="),
        (lambda: when(LOSS, value=1), "found no comparison"),
        (lambda: when(LOSS, ">", math.nan), "Give a finite number"),
        (lambda: on_improvement(LOSS, mode="least"), "mode='least' is unknown"),  # type: ignore[arg-type]
        (lambda: on_improvement(LOSS, min_delta=-1), "-1 is too small"),
        (lambda: on_plateau(LOSS, patience=0), "0 is too small"),
    ],
)
def test_bad_values_are_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: when(3), "3 is no name"),  # type: ignore[arg-type]
        (lambda: when(LOSS, ">"), "None is no number"),
        (lambda: when(LOSS, ">", True), "True is no number"),
        (lambda: on_plateau(LOSS, patience=True), "True is no integer"),
    ],
)
def test_bad_types_are_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(TypeError, match=re.escape(message)):
        call()
