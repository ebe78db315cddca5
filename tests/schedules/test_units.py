from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.progress import Progress
from noether.schedules.units import exact, nanoseconds


@given(m=st.integers(1, 10**9))
def test_the_float_of_one_over_m_means_one_over_m(m: int) -> None:
    assert exact(1 / m) == Fraction(1, m)


@given(digits=st.integers(1, 10**7))
def test_a_decimal_means_itself(digits: int) -> None:
    assert exact(digits / 10**6) == Fraction(digits, 10**6)


@given(value=st.floats(0, 1e12))
def test_the_ratio_is_the_same_float(value: float) -> None:
    assert float(exact(value)) == value


@given(value=st.integers(0, 2**63))
def test_integers_are_kept(value: int) -> None:
    assert exact(value) == value


@given(a=st.floats(0, 1e9), b=st.floats(0, 1e9))
def test_the_clock_never_runs_backwards(a: float, b: float) -> None:
    early, late = sorted((a, b))
    assert nanoseconds(Progress(seconds=early)) <= nanoseconds(Progress(seconds=late))


@pytest.mark.parametrize(("seconds", "count"), [(0.1 + 0.2, 300_000_000), (3, 3_000_000_000)])
def test_time_is_told_to_the_nanosecond(seconds: float, count: int) -> None:
    assert nanoseconds(Progress(seconds=seconds)) == count
