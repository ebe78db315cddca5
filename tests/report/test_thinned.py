"""A thinned series has the outline of the whole one."""

from hypothesis import given
from hypothesis import strategies as st

from noether.report.thinned import Moments, Thinned

series = st.lists(
    st.tuples(st.integers(0, 5000), st.floats(-1e6, 1e6)), unique_by=lambda p: p[0], min_size=1
).map(sorted)
few = st.integers(2, 20)


def thinned(points: list[tuple[int, float]], most: int) -> Thinned:
    made = Thinned(most)
    for update, value in points:
        made.add(update, value)
    return made


@given(series, few)
def test_what_is_kept_is_part_of_the_whole_in_its_order(
    points: list[tuple[int, float]], most: int
) -> None:
    kept = thinned(points, most).points()
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)
    assert len(kept) <= 4 * most


@given(series, few)
def test_first_last_lowest_and_highest_are_kept(points: list[tuple[int, float]], most: int) -> None:
    made = thinned(points, most)
    kept = made.points()
    values = [value for _, value in points]
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert {min(values), max(values)} <= {value for _, value in kept}
    assert made.count == len(points)


@given(series, few)
def test_so_they_are_of_every_stretch(points: list[tuple[int, float]], most: int) -> None:
    made = thinned(points, most)
    kept = set(made.points())
    stretches: dict[int, list[tuple[int, float]]] = {}
    for point in points:
        stretches.setdefault(point[0] // made.width, []).append(point)
    assert len(stretches) <= most
    for stretch in stretches.values():
        values = {value for _, value in stretch}
        seen = {value for update, value in kept if (update, value) in stretch}
        assert {min(values), max(values)} <= seen
        assert {stretch[0], stretch[-1]} <= kept


@given(series)
def test_a_short_series_is_kept_whole(points: list[tuple[int, float]]) -> None:
    assert thinned(points, 6000).points() == points


@given(st.lists(st.integers(0, 10_000), min_size=1).map(sorted), few)
def test_no_stretch_in_which_something_happened_is_left_out(updates: list[int], most: int) -> None:
    made = Moments(most)
    for update in updates:
        made.add(update)
    kept = list(made)
    assert made.count == len(updates)
    assert len(kept) <= most
    assert set(kept) <= set(updates)
    assert kept[0] == updates[0]
    assert {at // made.width for at in kept} == {at // made.width for at in updates}
