import re

import pytest

from noether.progress import Progress
from noether.schedules import at, every
from tests.strategies import fired, steady


def tokens(count: int) -> Progress:
    return Progress(counters={"tokens": count})


def test_nothing_periodic_fires_at_zero() -> None:
    start = Progress()
    assert not every(updates=1).fires(start, start, event="start")
    assert fired(every(updates=4, start=0), steady(9)) == [4, 8]


def test_many_marks_in_one_tick_fire_once() -> None:
    assert fired(every(samples=3), steady(2, samples=100)) == [1, 2]


def test_start_is_inclusive_and_anchors() -> None:
    assert fired(every(updates=5, start=2), steady(13)) == [2, 7, 12]


def test_the_feeds_counters_are_units() -> None:
    assert every(tokens=1000).fires(tokens(999), tokens(1001))
    assert not every(tokens=1000).fires(tokens(1001), tokens(1999))
    assert at(tokens=5).fires(Progress(), tokens(5))


def test_an_unknown_counter_never_fires() -> None:
    assert fired(every(tokens=1) | at(tokens=1), steady(9)) == []


def test_decimal_seconds_are_exact() -> None:
    tenths = steady(1000, seconds=0.1)
    assert fired(every(seconds=0.1), tenths) == list(range(1, 1001))
    assert fired(every(seconds=0.3), tenths) == list(range(3, 1001, 3))


def test_minutes_and_hours_are_training_time() -> None:
    half_minutes = steady(240, seconds=30.0)
    assert fired(every(hours=1), half_minutes) == [120, 240]
    assert fired(every(minutes=45), half_minutes) == [90, 180]
    assert fired(at(minutes=1), half_minutes) == [2]


def test_points_are_sorted_and_told_once() -> None:
    assert at(epochs=[20, 1, 5, 1]) == at(epochs=(1, 5, 20))
    assert str(at(epochs=[20, 1, 5, 1])) == "at(epochs=[1, 5, 20])"
    assert str(at(updates=[3])) == "at(updates=3)"


def test_what_a_schedule_is_about_is_known() -> None:
    seconds, tokens = every(seconds=3), every(tokens=3)
    assert (seconds.clocked, seconds.predicted) == (True, False)
    assert (tokens.clocked, tokens.predicted) == (False, False)
    assert (every(epochs=1).clocked, every(epochs=1).predicted) == (False, True)
    assert every(fraction=0.5).needs_total
    assert not every(updates=5).needs_total


def test_lookahead_uses_what_is_promised() -> None:
    now = Progress(epoch=1, update=10, sample=100)
    assert every(samples=1000).next_update(now) == 11
    assert every(samples=1000).next_update(now, samples_per_update=10) == 100
    assert every(epochs=4).next_update(now, updates_per_epoch=10) == 40
    assert every(fraction=0.5).next_update(now, total=Progress(update=50)) == 25
    assert every(fraction=0.5).next_update(now) == 11
    assert at(updates=10).next_update(now) is None


def test_lookahead_survives_a_broken_promise_about_past_epochs() -> None:
    now = Progress(epoch=3, update=15)
    assert every(epochs=4).next_update(now, updates_per_epoch=10) == 16


@pytest.mark.parametrize("value", [True, False, None, 1.7, 5.0, "3", [3]])
def test_what_is_no_integer_is_refused(value: object) -> None:
    unit: dict[str, object] = {"updates": value}
    with pytest.raises(TypeError, match="is no integer"):
        every(**unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, 2**63])
def test_integers_out_of_range_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match=rf"every\(updates={value}\): {value} is too"):
        every(updates=value)
    with pytest.raises(ValueError, match="is too"):
        at(updates=[1, value])


@pytest.mark.parametrize("value", [0, -0.5, float("nan"), float("inf")])
def test_time_is_positive_and_finite(value: float) -> None:
    with pytest.raises(ValueError, match="Give a"):
        every(seconds=value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: every(), "takes one unit, and found none"),
        (lambda: every(start=3), "takes one unit, and found none"),
        (lambda: every(epochs=1, updates=2), "found epochs and updates"),
        (lambda: every(epoch=1), "epoch is no unit. Did you mean epochs?"),
        (lambda: at(Updates=1), "Updates is no unit. Did you mean updates?"),
        (lambda: every(steps=1), "steps is no unit. Did you mean updates?"),
        (lambda: at(updates=3, start=5), "found updates and start"),
        (lambda: at(start=5), "can't name a counter"),
        (lambda: every(**{"two words": 5}), "can't name a counter"),
        (lambda: at(updates=[]), "there is no point"),
        (lambda: every(updates=5, start=-1), "-1 is too small"),
    ],
)
def test_a_wrong_unit_is_refused_with_the_way_out(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_equal_arguments_make_equal_schedules() -> None:
    assert every(updates=5) == every(updates=5)
    assert len({every(updates=5), every(updates=5), every(epochs=5)}) == 2
    text: object = "every(updates=5)"
    assert every(updates=5) != text
