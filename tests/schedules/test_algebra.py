import operator

import pytest

from noether.progress import Progress
from noether.schedules import always, at, every, first, never, on_improvement, until
from tests.strategies import answers, fired, reports, steady


@pytest.mark.parametrize("other", [3, None, "every(epochs=1)", True, lambda tick: True])
@pytest.mark.parametrize("join", [operator.and_, operator.or_])
def test_only_schedules_are_joined(join: object, other: object) -> None:
    assert callable(join)
    for pair in ((every(epochs=1), other), (other, every(epochs=1))):
        with pytest.raises(TypeError, match=r"every\(epochs=1\) .* not a schedule"):
            join(*pair)


def test_a_schedule_is_neither_true_nor_false() -> None:
    with pytest.raises(TypeError, match="Join schedules with &"):
        every(epochs=1) and until(epochs=3)


def test_joining_leaves_the_operands_as_they_were() -> None:
    one, other = every(updates=10), at(updates=10)
    assert fired(one | other, steady(20)) == [10, 20]
    assert (str(one), str(other)) == ("every(updates=10)", "at(updates=10)")


def test_what_remembers_is_stepped_behind_a_closed_window() -> None:
    ticks = reports("loss", [5, 1, 3, 0.5])
    best = on_improvement("loss")
    assert fired(best & ~until(updates=2), ticks) == [4]
    assert fired(always & best, ticks) == [1, 2, 4]
    assert answers(never & best, ticks) == [False] * 4


def test_memories_lie_side_by_side() -> None:
    schedule = first(2, every(updates=1)) | every(updates=9) | on_improvement("loss")
    assert schedule.initial == ((0, None), None, (None,))
    assert (every(updates=1) & ~until(epochs=1) | always).initial is None


def test_lookahead_of_a_conjunction_heeds_memory() -> None:
    schedule = first(2, every(updates=3)) & every(updates=100)
    assert schedule.next_update(Progress()) == 3
    assert (every(updates=3) & every(updates=100)).next_update(Progress()) == 100
    assert (every(updates=3) | every(updates=100)).next_update(Progress()) == 3
    assert (never | never).next_update(Progress()) is None


def test_a_thousand_operands_are_no_deeper_than_two() -> None:
    terms = [every(updates=n) for n in range(1001, 2001)]
    schedule = terms[0]
    for term in terms[1:]:
        schedule = schedule | term
    assert schedule.fires(Progress(update=1999), Progress(update=2000))
    assert len(str(schedule)) > 10_000
