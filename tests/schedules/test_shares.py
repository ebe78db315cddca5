import re
from fractions import Fraction

import pytest

from noether.progress import Progress
from noether.schedules import at, every
from tests.strategies import fired, steady


def test_several_shares_of_the_run() -> None:
    assert fired(at(fraction=[0.5, 1, 0.01]), steady(10, total=10)) == [1, 5, 10]


def test_shares_go_on_to_the_end_only() -> None:
    assert fired(every(fraction=0.4), steady(30, total=10)) == [4, 8]


def test_a_float_means_the_ratio_it_came_from() -> None:
    assert every(fraction=1 / 3) == every(fraction=Fraction(1, 3))
    assert str(every(fraction=1 / 3)) == "every(fraction=1/3)"
    assert str(every(fraction=0.1)) == "every(fraction=0.1)"
    assert fired(every(fraction=1 / 49), steady(49, total=49)) == list(range(1, 50))


def test_a_changed_horizon_affects_only_the_future() -> None:
    schedule = every(fraction=0.5)
    before, now = Progress(update=7), Progress(update=8)
    assert not schedule.fires(before, now, total=Progress(update=10))
    assert schedule.fires(before, now, total=Progress(update=16))


@pytest.mark.parametrize("total", [None, Progress(update=None), Progress(update=0)])
def test_without_a_horizon_nothing_fires(total: Progress | None) -> None:
    assert not every(fraction=0.1).fires(Progress(), Progress(update=5), total=total)


@pytest.mark.parametrize("value", [0, -0.1, 1.5, float("nan")])
def test_a_share_is_above_0_and_at_most_1(value: float) -> None:
    for term in (every, at):
        with pytest.raises(ValueError, match=re.escape("(fraction=")):
            term(fraction=value)


def test_a_share_takes_no_start() -> None:
    with pytest.raises(ValueError, match="takes no start"):
        every(fraction=0.1, start=3)
