import pytest

from noether.progress import Progress
from noether.schedules import after, between, every, until
from tests.strategies import fired, steady


def test_edges() -> None:
    walk = steady(6)
    assert fired(after(updates=4), walk) == [5, 6]
    assert fired(until(updates=4), walk) == [1, 2, 3, 4]
    assert fired(between(updates=(2, 4)), walk) == [2, 3, 4]
    assert fired(between(updates=(3, 3)), walk) == [3]


def test_several_units_must_all_hold() -> None:
    walk = steady(20, updates_per_epoch=5)
    assert fired(after(epochs=1, updates=12), walk) == list(range(13, 21))
    assert fired(between(epochs=(2, 3), updates=(0, 17)), walk) == list(range(10, 18))


def test_a_window_of_time_is_exact() -> None:
    tenths = steady(10, seconds=0.1)
    assert fired(after(seconds=0.3), tenths) == [4, 5, 6, 7, 8, 9, 10]
    assert fired(until(seconds=0.3), tenths) == [1, 2, 3]


def test_what_isnt_counted_stands_at_zero() -> None:
    assert fired(after(tokens=5), steady(3)) == []
    assert fired(until(tokens=5), steady(3)) == [1, 2, 3]


def test_the_order_of_units_makes_no_difference() -> None:
    assert after(updates=3, epochs=1) == after(epochs=1, updates=3)
    assert str(after(tokens=9, updates=3, epochs=1)) == "after(epochs=1, updates=3, tokens=9)"
    assert between(updates=[1, 2]) == between(updates=(1, 2))  # type: ignore[arg-type]


def test_lookahead_waits_for_the_window_and_ends_with_it() -> None:
    now = Progress(update=10)
    assert after(updates=50).next_update(now) == 51
    assert until(updates=50).next_update(now) == 11
    assert until(updates=10).next_update(now) is None
    assert between(updates=(20, 30)).next_update(now) == 20
    assert until(epochs=2).next_update(Progress(epoch=2, update=10)) == 11
    assert until(epochs=2).next_update(Progress(epoch=3, update=10)) is None
    assert between(updates=(2, 3)).next_update(now) is None
    assert (every(updates=7) & after(updates=50)).next_update(now) == 51
    assert (every(updates=7) & until(updates=10)).next_update(now) is None


def test_bad_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="found none"):
        after()
    with pytest.raises(ValueError, match="5 comes after 2"):
        between(updates=(5, 2))
    with pytest.raises(TypeError, match="this is no pair"):
        between(updates=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="True is no integer"):
        until(epochs=True)
    with pytest.raises(ValueError, match="-1 is too small"):
        after(updates=-1)
    with pytest.raises(ValueError, match="no unit of a window"):
        after(fraction=0.5)
    with pytest.raises(ValueError, match="Did you mean epochs"):
        until(epoch=3)
