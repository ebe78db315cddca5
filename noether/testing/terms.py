"""Invented schedules: every term there is, and combinations of them."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from hypothesis import strategies as st

from noether.schedules import (
    Schedule,
    after,
    always,
    at,
    between,
    cooldown,
    each_session,
    every,
    first,
    never,
    on_improvement,
    on_plateau,
    once_at_end,
    once_at_start,
    skip,
    until,
    when,
    where,
)
from noether.schedules.metrics import COMPARISONS, EXPLICIT, direction
from noether.testing.walks import METRICS, names

Strategy = st.SearchStrategy[Schedule]

COUNTERS = ("epochs", "updates", "samples", "tokens")
CLOCKS = ("seconds", "minutes", "hours")

milliseconds = st.integers(1, 4000).map(lambda ms: ms / 1000)
known_quantities = st.tuples(
    st.sampled_from([unit for unit in COUNTERS if unit != "tokens"]), st.integers(1, 12)
)
quantities = st.one_of(
    st.tuples(st.sampled_from(COUNTERS), st.integers(1, 12)),
    st.tuples(st.just("seconds"), milliseconds),
    st.tuples(st.sampled_from(CLOCKS), st.floats(1e-4, 0.1)),
)
fractions = st.one_of(
    st.integers(1, 12).map(lambda m: 1 / m),
    st.floats(0.05, 1),
    st.sampled_from([0.1, 0.3, 2 / 3, 0.75]),
)
constants = st.sampled_from([always, never, once_at_start, each_session, once_at_end])


def _quantities(*, predicted: bool) -> st.SearchStrategy[tuple[str, Any]]:
    return known_quantities if predicted else quantities


def schedules(
    *,
    memoryless: bool = False,
    predicted: bool = False,
    metrics: Collection[str] = METRICS,
    predicates: Sequence[Callable[[Any], object]] = (),
) -> Strategy:
    """Invented schedules of every term, joined; `where` among them where `predicates` are given.

    `memoryless` leaves out what remembers, `predicted` what isn't known before the run: terms
    about metrics, the clock and counters of the feed.

    >>> from hypothesis import given
    >>> @given(schedules(predicted=True))
    ... def nothing_waits_for_a_metric(schedule):
    ...     assert schedule.predicted and not schedule.reads
    >>> nothing_waits_for_a_metric()
    """
    if predicted and predicates:
        raise ValueError("predicates with predicted=True: no where(...) is; leave one of them out")
    leaves = [marks(predicted=predicted), windows(predicted=predicted), constants]
    if predicates:
        leaves.append(st.sampled_from([where(predicate) for predicate in predicates]))
    known = () if predicted else names(metrics)
    leaves += [conditions(known)] if known else []
    plain = st.recursive(st.one_of(leaves), combined, max_leaves=5)
    if memoryless:
        return plain
    leaves += [improvements(known), plateaus(known)] if known else []
    amounts = _quantities(predicted=predicted)
    return plain | st.recursive(
        st.one_of(leaves), lambda parts: remembered(parts, amounts), max_leaves=5
    )


def marks(*, predicted: bool = False) -> Strategy:
    """Marks on the time line: `every`, `at`, and unions of them.

    >>> from hypothesis import given
    >>> @given(marks(predicted=True))
    ... def marks_look_at_counts_alone(schedule):
    ...     assert not schedule.clocked and schedule.initial is None
    >>> marks_look_at_counts_alone()
    """
    plain = everies(predicted=predicted) | ats(predicted=predicted) | shares
    return st.recursive(plain, _unions, max_leaves=3)


@st.composite
def windows(draw: st.DrawFn, *, predicted: bool = False) -> Schedule:
    """`after`, `until` and `between`, of one unit or two.

    >>> from hypothesis import given
    >>> @given(windows())
    ... def windows_remember_nothing(schedule):
    ...     assert schedule.initial is None
    >>> windows_remember_nothing()
    """
    amounts = _quantities(predicted=predicted)
    chosen = dict(draw(st.lists(amounts, min_size=1, max_size=2)))
    if draw(st.booleans()):
        edge: Callable[..., Schedule] = draw(st.sampled_from([after, until]))
        return edge(**chosen)
    widths = {unit: draw(st.integers(0, 10)) for unit in chosen}
    return between(**{unit: (k, k + widths[unit]) for unit, k in chosen.items()})


@st.composite
def everies(draw: st.DrawFn, *, predicted: bool = False) -> Schedule:
    """`every` of any unit but a fraction, with a start or without."""
    unit, n = draw(_quantities(predicted=predicted))
    start = draw(st.none() | st.integers(0, 15))
    return every(start=start, **{unit: n})


@st.composite
def ats(draw: st.DrawFn, *, predicted: bool = False) -> Schedule:
    """`at` of one to three points in any unit but a fraction."""
    unit, _ = draw(_quantities(predicted=predicted))
    points = st.integers(1, 30) if unit in COUNTERS else milliseconds
    chosen = draw(st.lists(points, min_size=1, max_size=3))
    return at(**{unit: chosen})


shares = st.one_of(
    fractions.map(lambda f: every(fraction=f)),
    st.lists(fractions, min_size=1, max_size=3).map(lambda points: at(fraction=points)),
)
"""Marks at fractions of the run."""


def conditions(metrics: Collection[str]) -> Strategy:
    """`when`, with a comparison or without."""
    chosen = st.sampled_from(sorted(metrics))
    limits = st.integers(-2, 2) | st.floats(-2, 2)
    compared = st.builds(when, chosen, st.sampled_from(sorted(COMPARISONS)), limits)
    return chosen.map(when) | compared


def improvements(metrics: Collection[str]) -> Strategy:
    """`on_improvement`, up or down."""
    deltas = st.sampled_from([0.0, 0.5])
    return st.builds(
        lambda judged, delta: on_improvement(judged[0], mode=judged[1], min_delta=delta),
        st.sampled_from(_judged(metrics)),
        deltas,
    )


def plateaus(metrics: Collection[str]) -> Strategy:
    """`on_plateau`, up or down."""
    return st.builds(
        lambda judged, patience: on_plateau(judged[0], mode=judged[1], patience=patience),
        st.sampled_from(_judged(metrics)),
        st.integers(1, 3),
    )


def _judged(metrics: Collection[str]) -> list[tuple[str, Any]]:
    """Metrics with the modes they can be judged by: `auto` where the name tells."""
    return [(m, mode) for m in sorted(metrics) for mode in (*EXPLICIT, *_told(m))]


def _told(metric: str) -> tuple[str, ...]:
    try:
        direction(metric)
    except ValueError:
        return ()
    return ("auto",)


def _unions(parts: Strategy) -> Strategy:
    return st.tuples(parts, parts).map(lambda pair: pair[0] | pair[1])


def combined(parts: Strategy) -> Strategy:
    """What the operators make of schedules."""
    return st.one_of(
        st.tuples(parts, parts).map(lambda pair: pair[0] & pair[1]),
        _unions(parts),
        parts.map(lambda part: ~part),
    )


def remembered(parts: Strategy, amounts: st.SearchStrategy[tuple[str, Any]]) -> Strategy:
    """What the operators make of schedules, and what counts their firings."""
    counts = st.integers(1, 4)
    return st.one_of(
        combined(parts),
        st.builds(first, counts, parts),
        st.builds(skip, counts, parts),
        st.tuples(parts, amounts).map(lambda pair: cooldown(pair[0], **dict([pair[1]]))),
    )
