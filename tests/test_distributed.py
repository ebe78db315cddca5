"""What ranks make of their values, and what a launcher's restart means."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import Callback, Save, TrainState, every
from noether.distributed import _combined, ranks_here
from tests.strategies import net, samples, sgd, squared_error

numbers = st.lists(st.integers(-100, 100).map(float), min_size=1, max_size=5)


@given(numbers)
def test_values_are_combined_as_they_are_asked_to_be(values: list[float]) -> None:
    assert _combined(values, "sum") == sum(values)
    assert _combined(values, "min") == min(values)
    assert _combined(values, "max") == max(values)
    assert _combined(values, "none") == values[0]
    assert _combined(values, "mean") == pytest.approx(sum(values) / len(values))


@given(st.floats(allow_nan=False), st.integers(1, 7))
def test_the_mean_of_equals_is_that_very_number(value: float, ranks: int) -> None:
    assert _combined([value] * ranks, "mean") == value


@pytest.mark.parametrize("way", ["mean", "sum", "min", "max"])
def test_one_rank_that_has_no_number_is_not_hidden(way: str) -> None:
    assert math.isnan(_combined([1.0, math.nan, 2.0], way))


SAVES = Callback(
    "saves", on_schedule=lambda state: Save("last", keep_last=1), schedule=every(updates=1)
)


def trained(series: Path, updates: int, **options: Any) -> TrainState:
    return noether.train(
        net(),
        samples(8),
        loss=squared_error,
        optimizer=sgd,
        until={"updates": updates},
        batch_size=2,
        callbacks=SAVES,
        run_dir=series,
        defaults=False,
        **options,
    )


def broken_off(series: Path) -> None:
    calls: list[int] = []

    def loss(model: Any, batch: Any) -> Any:
        calls.append(0)
        if len(calls) == 3:
            raise OSError("the machine fails")
        return squared_error(model, batch)

    with pytest.raises(OSError, match="the machine fails"):
        noether.train(
            net(),
            samples(8),
            loss=loss,
            optimizer=sgd,
            until={"updates": 4},
            batch_size=2,
            callbacks=SAVES,
            run_dir=series,
            defaults=False,
        )


def test_a_group_that_is_started_again_goes_on_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    broken_off(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert trained(tmp_path, 4).now.session == 2
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("other", [None, "another"])
def test_the_run_of_another_launch_is_not_taken_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str | None
) -> None:
    if other is not None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", other)
    broken_off(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert trained(tmp_path, 4).now.session == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_process_alone_is_rank_0_of_1() -> None:
    assert (ranks_here().rank, ranks_here().size) == (0, 1)
