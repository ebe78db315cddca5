from collections.abc import Iterator

import pytest
from hypothesis import Phase, find, given, settings

from noether import Schedule, where
from noether.schedules import Tick
from noether.schedules.terms import CONSTANTS, FACTORIES, OPERATORS
from noether.testing import marks, schedules, windows

ANY = settings(database=None, max_examples=5000, phases=(Phase.generate,))


def odd(tick: Tick) -> bool:
    return bool(tick.now.update % 2)


def terms(schedule: Schedule) -> Iterator[str]:
    """The names of all terms in a schedule."""
    yield schedule.term
    for part in schedule.expression.arguments:
        if isinstance(part, Schedule):
            yield from terms(part)


@pytest.mark.parametrize("term", sorted({*CONSTANTS, *FACTORIES, *OPERATORS}))
def test_every_term_is_among_the_schedules(term: str) -> None:
    invented = schedules(predicates=[odd])
    found = find(invented, lambda s: term in terms(s), settings=ANY)
    assert term in terms(found)


@given(schedule=schedules(memoryless=True))
def test_memoryless_schedules_have_no_memory(schedule: Schedule) -> None:
    assert schedule.initial is None


@given(schedule=schedules(predicted=True, memoryless=True))
def test_predicted_schedules_look_at_counts_alone(schedule: Schedule) -> None:
    assert schedule.predicted
    assert not schedule.clocked
    assert not schedule.reads


@given(schedule=schedules(metrics=["norm", "loss/test"]))
def test_terms_are_about_the_metrics_given(schedule: Schedule) -> None:
    assert schedule.reads <= {"norm", "loss/test"}


@given(schedule=schedules(metrics=()))
def test_without_metrics_no_term_is_about_one(schedule: Schedule) -> None:
    assert not schedule.reads


@given(schedule=marks())
def test_marks_are_every_and_at_and_their_unions(schedule: Schedule) -> None:
    assert set(terms(schedule)) <= {"every", "at", "|"}


@given(schedule=windows())
def test_windows_are_one_term(schedule: Schedule) -> None:
    assert list(terms(schedule)) in (["after"], ["until"], ["between"])


def test_a_predicate_is_never_predicted() -> None:
    assert not where(odd).predicted
    with pytest.raises(ValueError, match="leave one of them out"):
        schedules(predicted=True, predicates=[odd])


def test_metrics_are_a_list_of_names() -> None:
    with pytest.raises(TypeError, match="give a list"):
        schedules(metrics="loss")
