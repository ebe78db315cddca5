"""The laws of schedules, against oracles that enumerate marks instead of dividing."""

import copy
import itertools
import math
import operator
import pickle
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import noether.schedules
from noether.progress import Progress
from noether.schedules import (
    Schedule,
    Tick,
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
    parse,
    skip,
    until,
    when,
)
from tests import strategies as invent
from tests.strategies import Walk, answers, fired, steady

periods = st.integers(1, 12)
starts = st.sampled_from([None, 0]) | periods
updates = st.integers(0, 200)
counters = st.sampled_from(invent.COUNTERS)
points = st.lists(st.integers(1, 30), min_size=1, max_size=3)

regular = st.builds(lambda unit, n, k: every(start=k, **{unit: n}), counters, periods, starts)
listed = st.builds(lambda unit, marks: at(**{unit: marks}), counters, points)
marks = regular | listed | invent.marks
"""Marks on the time line, those that the feed counts more often than time and shares."""

deltas = st.sampled_from([0.0, 0.5, 1.0])
metrics = st.sampled_from(invent.METRICS)
remembering = st.one_of(
    st.builds(on_improvement, metrics, min_delta=deltas),
    st.builds(on_plateau, metrics, patience=st.integers(1, 3), min_delta=deltas),
    st.builds(first, st.integers(1, 4), regular),
    st.builds(skip, st.integers(1, 4), regular),
)
"""What remembers, by itself."""


def passes_a_mark(tick: Tick, unit: str, marks: list[int]) -> bool:
    return any(tick.before.count(unit) < mark <= tick.now.count(unit) for mark in marks)


def at_updates(now: int) -> Tick:
    return Tick(Progress(update=now - 1), Progress(update=now))


def elapsed(point: Progress) -> int:
    """Training time in milliseconds, of which walks are made."""
    return round(point.seconds * 1000)


def counted(point: Progress, unit: str) -> int:
    """The count in `unit`, seconds in milliseconds; what was never counted stands at 0."""
    return elapsed(point) if unit == "seconds" else point.count(unit) or 0


def amount(unit: str, n: int) -> float:
    """What an option of a schedule says for `n` of what `counted` counts."""
    return n / 1000 if unit == "seconds" else n


def places(said: list[bool]) -> list[int]:
    """The places of the ticks of which it was said."""
    return [place for place, fires in enumerate(said) if fires]


# ---------------------------------------------------------------- marks


@given(n=periods, update=st.integers(1, 500))
def test_every_on_a_unit_counter_is_divisibility(n: int, update: int) -> None:
    tick = at_updates(update)
    assert every(updates=n).fires(tick.before, tick.now) == (update % n == 0)


@given(n=periods, walk=invent.walks())
def test_every_of_samples_is_growth_of_the_quotient(n: int, walk: Walk) -> None:
    grows = [math.floor(t.now.sample / n) - math.floor(t.before.sample / n) > 0 for t in walk.ticks]
    assert answers(every(samples=n), walk.ticks) == grows


@given(unit=counters, n=periods, start=periods, walk=invent.walks())
def test_every_fires_where_a_multiple_is_passed(unit: str, n: int, start: int, walk: Walk) -> None:
    counts = [(counted(tick.before, unit), counted(tick.now, unit)) for tick in walk.ticks]
    for option, mark in [(None, n), (0, 0), (start, start)]:
        marks = [m for m in range(mark, counts[-1][1] + 1, n) if m > 0]
        passed = [any(before < m <= now for m in marks) for before, now in counts]
        assert answers(every(start=option, **{unit: n}), walk.ticks) == passed


@given(ms=st.integers(1, 5000), steps=st.lists(st.integers(0, 2500), max_size=30))
@example(ms=100, steps=[100] * 30)
def test_every_of_seconds_neither_drifts_nor_bursts(ms: int, steps: list[int]) -> None:
    sums = itertools.accumulate((step / 1000 for step in steps), initial=0.0)
    ticks = [
        Tick(Progress(seconds=before), Progress(seconds=now))
        for before, now in itertools.pairwise(sums)
    ]
    exact, marks = itertools.accumulate(steps, initial=0), range(ms, sum(steps) + 1, ms)
    passed = [
        any(before < mark <= now for mark in marks) for before, now in itertools.pairwise(exact)
    ]
    assert answers(every(seconds=ms / 1000), ticks) == passed


@given(unit=counters, k=st.integers(1, 60), walk=invent.walks())
def test_at_fires_exactly_once_when_its_point_is_reached(unit: str, k: int, walk: Walk) -> None:
    reached = counted(walk.ticks[-1].now, unit) >= k
    assert sum(answers(at(**{unit: k}), walk.ticks)) == reached


@given(points=st.lists(st.integers(1, 60), min_size=1), walk=invent.walks())
def test_at_fires_in_the_ticks_that_pass_its_points(points: list[int], walk: Walk) -> None:
    passed = [passes_a_mark(tick, "samples", points) for tick in walk.ticks]
    assert answers(at(samples=points), walk.ticks) == passed


@given(schedules=st.tuples(regular, marks), walk=invent.walks(sessions=False))
def test_marks_are_additive(schedules: tuple[Schedule, ...], walk: Walk) -> None:
    points = [tick.before for tick in walk.updates] + [walk.ticks[-1].now]
    for schedule in schedules:
        said = answers(schedule, walk.updates)
        for a, b in itertools.combinations(range(len(points)), 2):
            whole = schedule.fires(points[a], points[b], total=walk.ticks[-1].total)
            assert whole == any(said[a:b])


def test_periods_do_not_combine_to_their_least_common_multiple() -> None:
    walk = steady(12, samples=4)
    assert fired(every(samples=3) & every(samples=2), walk) != fired(every(samples=6), walk)


# ---------------------------------------------------------------- fractions


@given(m=st.integers(1, 100), extra=st.integers(0, 300))
def test_a_share_of_one_mth_fires_m_times_and_last_at_the_end(m: int, extra: int) -> None:
    total = m + extra
    updates = fired(every(fraction=1 / m), steady(total, total=total))
    assert len(updates) == m
    assert updates[-1] == total


@given(share=invent.fractions, total=st.integers(1, 60))
def test_shares_are_exact_ratios(share: float, total: int) -> None:
    exact = Fraction(share).limit_denominator(1000)
    assume(float(exact) == share)
    marks = {math.ceil(j * exact * total) for j in range(1, 200) if j * exact <= 1}
    assert fired(every(fraction=share), steady(total + 9, total=total)) == sorted(marks)
    assert fired(at(fraction=share), steady(total, total=total)) == [math.ceil(exact * total)]


# ---------------------------------------------------------------- windows

pairs = st.tuples(st.integers(0, 20), st.integers(0, 30)).map(lambda p: (p[0], p[0] + p[1]))
times = pairs.map(lambda p: (250 * p[0], 250 * p[1]))
edges = st.dictionaries(counters, pairs, min_size=1, max_size=3) | (
    st.fixed_dictionaries({"seconds": times}, optional={"updates": pairs})
)


@given(n=periods, a=st.integers(0, 60), width=st.integers(0, 60))
def test_a_window_never_shifts_the_phase(n: int, a: int, width: int) -> None:
    walk, b = steady(120), a + width
    marks = range(n, 121, n)
    assert fired(every(updates=n) & after(updates=a), walk) == [u for u in marks if u > a]
    assert fired(every(updates=n) & until(updates=a), walk) == [u for u in marks if u <= a]
    inside = fired(every(updates=n) & between(updates=(a, b)), walk)
    assert inside == [u for u in marks if a <= u <= b]


@given(marks=marks, window=invent.windows(), walk=invent.walks())
def test_windows_only_drop_marks(marks: Schedule, window: Schedule, walk: Walk) -> None:
    assert set(fired(marks & window, walk.ticks)) <= set(fired(marks, walk.ticks))


@given(unit=counters, k=st.integers(0, 60), walk=invent.walks())
def test_until_is_what_after_is_not(unit: str, k: int, walk: Walk) -> None:
    above = [counted(tick.now, unit) > k for tick in walk.ticks]
    assert answers(after(**{unit: k}), walk.ticks) == above
    assert answers(until(**{unit: k}), walk.ticks) == [not fires for fires in above]


@given(edges=edges, walk=invent.walks())
def test_a_window_holds_where_all_its_counts_are_inside(
    edges: dict[str, tuple[int, int]], walk: Walk
) -> None:
    window = between(**{u: (amount(u, a), amount(u, b)) for u, (a, b) in edges.items()})
    inside = [
        all(a <= counted(tick.now, unit) <= b for unit, (a, b) in edges.items())
        for tick in walk.ticks
    ]
    assert answers(window, walk.ticks) == inside


# ---------------------------------------------------------------- algebra


@given(a=invent.schedules, b=invent.schedules, walk=invent.walks())
def test_operators_are_pointwise(a: Schedule, b: Schedule, walk: Walk) -> None:
    pairs = list(zip(answers(a, walk.ticks), answers(b, walk.ticks), strict=True))
    assert answers(a & b, walk.ticks) == [x and y for x, y in pairs]
    assert answers(a | b, walk.ticks) == [x or y for x, y in pairs]
    assert answers(~a, walk.ticks) == [not x for x, _ in pairs]


@given(a=regular | invent.schedules, b=regular, n=st.integers(1, 4), walk=invent.walks())
def test_what_remembers_is_stepped_whatever_the_others_say(
    a: Schedule, b: Schedule, n: int, walk: Walk
) -> None:
    said = answers(a, walk.ticks)
    for counting in (first(n, b), skip(n, b)):
        counts = answers(counting, walk.ticks)
        assert answers(a & counting, walk.ticks) == list(map(operator.and_, said, counts))
        assert answers(a | counting, walk.ticks) == list(map(operator.or_, said, counts))


@given(a=invent.schedules, b=invent.schedules, c=invent.schedules, walk=invent.walks())
def test_boolean_algebra(a: Schedule, b: Schedule, c: Schedule, walk: Walk) -> None:
    for one, other in [
        (~(a & b), ~a | ~b),
        (~~a, a),
        (a & (b | c), (a & b) | (a & c)),
        (a | (a & b), a),
        (a & b, b & a),
    ]:
        assert answers(one, walk.ticks) == answers(other, walk.ticks)


@given(a=invent.schedules, b=invent.schedules, c=invent.schedules)
def test_joining_is_associative(a: Schedule, b: Schedule, c: Schedule) -> None:
    assert (a & b) & c == a & (b & c)
    assert (a | b) | c == a | (b | c)


@given(schedule=marks | invent.memoryless_schedules, walk=invent.walks())
def test_what_remembers_nothing_answers_from_the_tick_alone(schedule: Schedule, walk: Walk) -> None:
    assert schedule.initial is None
    alone = [
        schedule.fires(
            t.before, t.now, event=t.event, total=t.total, metrics=t.metrics, fresh=t.fresh
        )
        for t in walk.ticks
    ]
    assert alone == answers(schedule, walk.ticks)


# ---------------------------------------------------------------- events

TICKS_OF_EVENTS = {
    always: ["start", "update", "end"],
    never: [],
    each_session: ["start"],
    once_at_end: ["end"],
}


@given(walk=invent.walks())
def test_events_name_their_ticks(walk: Walk) -> None:
    for schedule, events in TICKS_OF_EVENTS.items():
        assert answers(schedule, walk.ticks) == [tick.event in events for tick in walk.ticks]
    assert places(answers(once_at_start, walk.ticks)) == [0]


# ---------------------------------------------------------------- firings remembered


@given(n=st.integers(1, 5), schedule=invent.schedules, walk=invent.walks())
def test_first_and_skip_part_the_firings_at_the_nth(n: int, schedule: Schedule, walk: Walk) -> None:
    firings = places(answers(schedule, walk.ticks))
    assert places(answers(first(n, schedule), walk.ticks)) == firings[:n]
    assert places(answers(skip(n, schedule), walk.ticks)) == firings[n:]


@given(
    schedule=st.just(always) | invent.schedules,
    unit=st.sampled_from((*invent.COUNTERS, "seconds")),
    n=periods,
    walk=invent.walks(),
)
def test_a_cooldown_takes_each_firing_that_is_far_from_those_taken(
    schedule: Schedule, unit: str, n: int, walk: Walk
) -> None:
    distance = 250 * n if unit == "seconds" else n
    counts = [counted(tick.now, unit) for tick in walk.ticks]
    taken: list[int] = []
    for place in places(answers(schedule, walk.ticks)):
        if all(counts[place] - counts[other] >= distance for other in taken):
            taken.append(place)
    rested = cooldown(schedule, **{unit: amount(unit, distance)})
    assert places(answers(rested, walk.ticks)) == taken


# ---------------------------------------------------------------- metrics

BETTER: dict[str, Any] = {"loss/val": "min", "accuracy": "max"}

values = st.lists(st.none() | invent.metric_values, max_size=20)
"""What a metric comes to at each update; None where it wasn't produced."""


def new_bests(metric: str, values: list[float | None], delta: float) -> list[int]:
    """The places of the finite values that are better than all new bests before, by the delta."""
    sign = {"min": -1, "max": 1}[BETTER[metric]]
    bests: dict[int, float] = {}
    for place, value in enumerate(values):
        if value is None or not math.isfinite(value):
            continue
        if all(sign * value - sign * best > delta for best in bests.values()):
            bests[place] = value
    return list(bests)


@given(metric=metrics, walk=invent.walks())
def test_when_alone_fires_where_its_metric_is_produced(metric: str, walk: Walk) -> None:
    assert answers(when(metric), walk.ticks) == [metric in tick.fresh for tick in walk.ticks]


@given(values=values, limit=st.integers(-2, 2))
def test_when_compares_the_values_produced(values: list[float | None], limit: int) -> None:
    ticks = invent.reports("loss/val", values)
    produced = {place: value for place, value in enumerate(values) if value is not None}
    below = [place for place, value in produced.items() if value < limit]
    equal = [place for place, value in produced.items() if value == limit]
    above = [place for place, value in produced.items() if value > limit]
    for comparison, expected in {
        "<": below,
        "<=": below + equal,
        ">": above,
        ">=": above + equal,
        "==": equal,
        "!=": set(produced) - set(equal),
    }.items():
        schedule = when("loss/val", comparison, limit)
        assert places(answers(schedule, ticks)) == sorted(expected)


@given(metric=metrics, values=values, delta=deltas)
def test_an_improvement_is_a_new_best(
    metric: str, values: list[float | None], delta: float
) -> None:
    ticks, bests = invent.reports(metric, values), new_bests(metric, values, delta)
    for mode in ("auto", BETTER[metric]):
        schedule = on_improvement(metric, mode=mode, min_delta=delta)
        assert places(answers(schedule, ticks)) == bests


@given(metric=metrics, values=values, patience=st.integers(1, 4), delta=deltas)
def test_a_plateau_is_each_nth_value_since_the_last_best(
    metric: str, values: list[float | None], patience: int, delta: float
) -> None:
    bounds = [-1, *new_bests(metric, values, delta), len(values)]
    expected: list[int] = []
    for best, following in itertools.pairwise(bounds):
        stale = [place for place in range(best + 1, following) if values[place] is not None]
        expected += stale[patience - 1 :: patience]
    schedule = on_plateau(metric, patience=patience, min_delta=delta)
    assert places(answers(schedule, invent.reports(metric, values))) == expected


# ---------------------------------------------------------------- splitting a run


@given(schedule=remembering | invent.schedules, walk=invent.walks(), data=st.data())
def test_a_split_run_fires_as_the_unbroken_one(
    schedule: Schedule, walk: Walk, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(walk.ticks)))
    memory = schedule.initial
    said = []
    for tick in walk.ticks[:cut]:
        fires, memory = schedule.step(tick, memory)
        said.append(fires)
    resumed = parse(str(schedule))
    said += answers(resumed, walk.ticks[cut:], pickle.loads(pickle.dumps(memory)))
    assert said == answers(schedule, walk.ticks)


@given(mark=marks, window=invent.windows(), walk=invent.walks())
def test_a_restart_changes_no_firing(mark: Schedule, window: Schedule, walk: Walk) -> None:
    def during(tick: Tick, session: int) -> Tick:
        before, now = (replace(point, session=session) for point in (tick.before, tick.now))
        return replace(tick, before=before, now=now)

    unbroken = [during(tick, 1) for tick in walk.updates]
    restarted = [during(tick, session) for session, tick in enumerate(walk.updates, start=1)]
    for schedule in (mark, window, every(updates=1) & window):
        assert answers(schedule, restarted) == answers(schedule, unbroken)


def storable(memory: Any) -> bool:
    if isinstance(memory, tuple):
        return all(map(storable, memory))
    return memory is None or type(memory) in (bool, int, float, str)


@given(schedule=remembering | invent.schedules, walk=invent.walks())
def test_memory_is_made_of_plain_values(schedule: Schedule, walk: Walk) -> None:
    memory = schedule.initial
    for tick in walk.ticks:
        assert storable(memory)
        _, memory = schedule.step(tick, memory)
        assert (memory is None) == (schedule.initial is None)
    assert storable(memory)


# ---------------------------------------------------------------- looking ahead

opened = st.builds(lambda unit, k: after(**{unit: k}), counters, periods)
shares = st.builds(lambda share: every(fraction=share), invent.fractions) | st.builds(
    lambda points: at(fraction=points), st.lists(invent.fractions, min_size=1, max_size=3)
)
foreseen = regular | listed | opened
"""Schedules that often know how far ahead of a point they fire next."""


def paces(walk: Walk) -> tuple[dict[str, Any], ...]:
    """What may be known about the ticks to come, from nothing to all."""
    total = {"total": walk.ticks[-1].total}
    per_update, per_epoch = walk.samples_per_update, walk.updates_per_epoch
    known = {"samples_per_update": per_update, "updates_per_epoch": per_epoch}
    return {}, total, total | known


def moves(schedule: Schedule, ticks: tuple[Tick, ...]) -> list[bool]:
    """Whether the schedule fires or its memory changes, tick by tick."""
    memory, moved = schedule.initial, []
    for tick in ticks:
        fires, kept = schedule.step(tick, memory)
        moved.append(fires or kept != memory)
        memory = kept
    return moved


def assert_skips_nothing(schedule: Schedule, walk: Walk) -> None:
    """From no point of the run does the schedule look ahead beyond a tick in which it moves."""
    ticks = [walk.ticks[place] for place in places(moves(schedule, walk.ticks))]
    moved = [tick.now.update for tick in ticks if tick.event == "update"]
    for tick, pace in itertools.product(walk.ticks, paces(walk)):
        bound = schedule.next_update(tick.now, **pace)
        assert bound is None or bound > tick.now.update
        following = [update for update in moved if update > tick.now.update]
        assert not following or (bound is not None and bound <= following[0])


@given(schedule=remembering | invent.schedules, walk=invent.walks())
def test_next_update_skips_no_firing_and_no_change_of_memory(
    schedule: Schedule, walk: Walk
) -> None:
    assert_skips_nothing(schedule, walk)


@given(schedules=st.tuples(regular, listed, opened, shares, invent.windows()), walk=invent.walks())
def test_next_update_skips_no_mark_and_no_entrance(
    schedules: tuple[Schedule, ...], walk: Walk
) -> None:
    for schedule in schedules:
        assert_skips_nothing(schedule, walk)


@given(a=foreseen, b=foreseen, n=st.integers(1, 4), walk=invent.walks())
def test_next_update_looks_into_every_part(a: Schedule, b: Schedule, n: int, walk: Walk) -> None:
    for schedule in (a | b, ~a, first(n, a) & b, first(n, a) | b, cooldown(a | b, updates=n)):
        assert_skips_nothing(schedule, walk)


@given(n=periods, start=st.none() | st.integers(0, 40), now=updates)
def test_next_update_is_exact_for_every(n: int, start: int | None, now: int) -> None:
    schedule = every(updates=n, start=start)
    firing = next(
        u
        for u in itertools.count(now + 1)
        if schedule.fires(Progress(update=u - 1), Progress(update=u))
    )
    assert schedule.next_update(Progress(update=now)) == firing


@given(points=st.lists(st.integers(1, 60), min_size=1), now=updates)
def test_next_update_is_exact_for_at(points: list[int], now: int) -> None:
    expected = min((point for point in points if point > now), default=None)
    assert at(updates=points).next_update(Progress(update=now)) == expected


@given(e=periods, now=st.integers(0, 30), length=st.integers(1, 9))
def test_next_update_is_exact_for_epochs_of_one_length(e: int, now: int, length: int) -> None:
    progress = Progress(epoch=now // length, update=now)
    bound = every(epochs=e).next_update(progress, updates_per_epoch=length)
    assert bound == next(u for u in range(now + 1, 400) if u % (e * length) == 0)


@given(
    a=foreseen | invent.memoryless_schedules,
    b=foreseen | invent.memoryless_schedules,
    walk=invent.walks(),
)
def test_a_conjunction_is_asked_no_sooner_than_any_of_its_parts(
    a: Schedule, b: Schedule, walk: Walk
) -> None:
    for tick, pace in itertools.product(walk.ticks, paces(walk)):
        both = (a & b).next_update(tick.now, **pace)
        for part in (a, b):
            alone = part.next_update(tick.now, **pace)
            assert both is None or (alone is not None and both >= alone)


# ---------------------------------------------------------------- text and values


@given(schedule=regular | invent.schedules)
def test_text_round_trip(schedule: Schedule) -> None:
    again = parse(str(schedule))
    assert again == schedule
    assert str(again) == str(schedule)
    assert hash(again) == hash(schedule)


@given(schedule=regular | invent.schedules)
def test_text_is_the_python_that_builds_the_schedule(schedule: Schedule) -> None:
    assert eval(str(schedule), vars(noether.schedules).copy()) == schedule


@given(a=invent.schedules, b=invent.schedules, c=invent.schedules)
def test_operators_bind_in_text_as_in_python(a: Schedule, b: Schedule, c: Schedule) -> None:
    assert parse(f"({a}) | ({b}) & ~({c}) & ({a}) | ({b})") == a | b & ~c & a | b


@given(schedule=invent.schedules, walk=invent.walks())
def test_copies_are_equal_and_answer_alike(schedule: Schedule, walk: Walk) -> None:
    for again in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert again == schedule
        assert answers(again, walk.ticks) == answers(schedule, walk.ticks)


SIGNS = "()[]~&|,=\"'\\.019_-+/ eval(ytfirsn)"

numerals = st.text("0123456789e._-/", max_size=9) | st.sampled_from(["1/3", "1/0", "1e400"])
values_in_text = numerals | st.sampled_from(["[]", "[1, 2]", "(1, 2)", "None", "'a'", "never"])
calls = st.builds(
    "{}({}={})".format,
    st.sampled_from(["every", "at", "after", "between", "first", "when", "cooldown", "always"]),
    st.sampled_from(["updates", "samples", "minutes", "fraction", "tokens", "n", "start"]),
    values_in_text,
)
"""Calls with an argument that may suit or not."""


@st.composite
def misspelt(draw: st.DrawFn) -> str:
    """The text of a schedule, a stretch of it replaced."""
    text = str(draw(invent.schedules))
    start, end = sorted(draw(st.integers(0, len(text))) for _ in range(2))
    return text[:start] + draw(st.text(SIGNS, max_size=9)) + text[end:]


@example(text="every(seconds=1/0)")
@example(text="every(updates=" + "9" * 5000 + ")")
@example(text="always & when('a' ")
@given(text=st.text(max_size=60) | st.text(SIGNS, max_size=60) | calls | misspelt())
def test_any_text_is_a_schedule_or_a_value_error(text: str) -> None:
    try:
        schedule = parse(text)
    except ValueError:
        return
    assert parse(str(schedule)) == schedule


# ---------------------------------------------------------------- the table of boundaries


@pytest.mark.parametrize(
    ("text", "updates"),
    [
        ("every(updates=5, start=8)", [8, 13, 18]),
        ("every(updates=5) & after(updates=8)", [10, 15, 20]),
        ("every(updates=5) & after(updates=0)", [5, 10, 15, 20]),
        ("every(updates=5) & until(updates=20)", [5, 10, 15, 20]),
        ("every(seconds=3)", [3, 6, 9, 12, 15, 18]),
        ("every(minutes=0.1)", [6, 12, 18]),
        ("every(epochs=3)", [15]),
        ("at(updates=99)", []),
        ("at(epochs=[1, 4])", [5, 20]),
        ("at(updates=10) | every(updates=10)", [10, 20]),
        ("every(updates=7) & ~at(updates=14)", [7]),
        ("first(2, every(updates=4))", [4, 8]),
        ("skip(2, every(updates=4))", [12, 16, 20]),
        ("cooldown(every(updates=2), updates=5)", [2, 8, 14, 20]),
        ("every(updates=5) | once_at_end", [5, 10, 15, 20]),
        ("every(fraction=1/4)", [5, 10, 15, 20]),
    ],
)
def test_boundaries(text: str, updates: list[int]) -> None:
    assert fired(parse(text), steady(20, total=20)) == updates


def test_boundaries_of_samples_and_shares() -> None:
    assert [2 * u for u in fired(every(samples=3), steady(6, samples=2))] == [4, 6, 10, 12]
    assert fired(every(samples=3), steady(3, samples=10)) == [1, 2, 3]
    tenths = [2, 3, 5, 6, 8, 9, 11, 12, 14, 15]
    assert fired(every(fraction=1 / 10), steady(15, total=15)) == tenths
    assert fired(every(fraction=1 / 10), steady(4, total=4)) == [1, 2, 3, 4]
    assert fired(every(fraction=1 / 10), steady(15)) == []


def test_the_end_is_one_tick() -> None:
    last = Progress(update=20)
    assert once_at_end.fires(last, last, event="end")
    assert not every(updates=5).fires(last, last, event="end")
