"""Extremes, last and best values of metrics."""

from hypothesis import given
from hypothesis import strategies as st

from noether.trackers import Summary
from noether.trackers.summary import summed


@given(st.lists(st.floats(allow_nan=True), min_size=1))
def test_a_summary_holds_extremes_the_last_value_and_the_best(values: list[float]) -> None:
    known: dict[str, Summary] = {}
    for value in values:
        known = summed(known, {"accuracy": value, "size": value, "optim/lr": value})
    finite = [value for value in values if value - value == 0]
    assert known.keys() == {"accuracy", "size"}
    found = known["accuracy"]
    assert str(found.last) == str(values[-1])
    if finite:
        assert (found.min, found.max, found.best) == (min(finite), max(finite), max(finite))
        assert known["size"].best is None
