import pytest

from noether.schedules import cooldown, every, first, skip, until, when
from tests.strategies import fired, reports, steady


def test_first_and_skip_count_firings_not_progress() -> None:
    ticks = reports("loss", [9, 1, 9, None, 9, 9])
    high = when("loss", ">", 5)
    assert fired(first(2, high), ticks) == [1, 3]
    assert fired(skip(2, high), ticks) == [5, 6]
    assert fired(first(1, skip(2, high)), ticks) == [5]


def test_the_inner_schedule_goes_on_while_a_window_is_closed() -> None:
    assert fired(first(3, every(updates=2)) & ~until(updates=4), steady(20)) == [6]


def test_a_cooldown_keeps_firings_apart() -> None:
    assert fired(cooldown(every(updates=1), updates=4), steady(10)) == [1, 5, 9]
    assert fired(cooldown(every(updates=1), seconds=0.35), steady(10, seconds=0.1)) == [1, 5, 9]
    assert fired(cooldown(every(updates=1), epochs=2), steady(20)) == [1, 10, 20]


def test_a_schedule_that_remembers_fires_from_its_initial_memory() -> None:
    schedule = first(1, every(updates=1))
    for tick in steady(3):
        assert schedule.fires(tick.before, tick.now)


def test_traits_come_from_the_inner_schedule() -> None:
    assert first(2, every(updates=5)).predicted
    assert not first(2, when("loss")).predicted
    assert cooldown(every(updates=5), minutes=5).clocked
    assert skip(1, every(fraction=0.1)).needs_total
    assert first(1, when("loss")).reads == {"loss"}


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="True is no integer"):
        first(True, every(epochs=1))
    with pytest.raises(ValueError, match="0 is too small"):
        skip(0, every(epochs=1))
    with pytest.raises(TypeError, match="is no schedule"):
        first(2, "every(epochs=1)")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is no schedule"):
        cooldown(3, updates=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no distance"):
        cooldown(every(epochs=1), fraction=0.5)
    with pytest.raises(ValueError, match="takes one unit"):
        cooldown(every(epochs=1))
