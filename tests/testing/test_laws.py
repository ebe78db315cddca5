import pytest
from hypothesis import strategies as st

from noether.testing.laws import BrokenLaw, examined


def refuse(case: int) -> None:
    if case > 10:
        raise BrokenLaw(f"{case} is above 10")


def test_the_least_example_is_told() -> None:
    with pytest.raises(AssertionError, match=r"^11 is above 10$") as error:
        examined(st.integers(), refuse, 100)
    assert type(error.value) is AssertionError
    assert not getattr(error.value, "__notes__", [])


def test_a_law_that_holds_is_silent_for_as_many_examples_as_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[int] = []
    examined(st.integers(), seen.append, 30)
    assert len(seen) == 30
    assert capsys.readouterr() == ("", "")


def test_a_law_that_is_broken_once_only_is_broken() -> None:
    spent: list[int] = []

    def once(case: int) -> None:
        if not spent:
            spent.append(case)
            raise BrokenLaw("once")

    with pytest.raises(AssertionError, match=r"^once$"):
        examined(st.integers(), once, 100)


def test_the_cause_stays_the_cause() -> None:
    def broken(case: int) -> None:
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError as error:
            raise BrokenLaw("divided") from error

    with pytest.raises(AssertionError) as error:
        examined(st.integers(), broken, 100)
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_what_is_no_law_is_raised_as_it_is() -> None:
    def fail(case: int) -> None:
        raise LookupError("not here")

    with pytest.raises(LookupError, match="not here"):
        examined(st.integers(), fail, 100)


@pytest.mark.usefixtures("unshrunk")
def test_a_profile_that_shrinks_nothing_is_minded() -> None:
    with pytest.raises(AssertionError, match="is above 10") as error:
        examined(st.integers(0, 10**9), refuse, 100)
    assert str(error.value) != "11 is above 10"
