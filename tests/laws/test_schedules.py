"""The laws of schedules, against oracles that enumerate marks instead of dividing."""

import copy
import itertools
import math
import pickle
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from noether.progress import Progress
from noether.schedules import (
    Schedule,
    Tick,
    after,
    at,
    between,
    every,
    once_at_end,
    parse,
    until,
)
from tests import strategies as invent
from tests.strategies import Walk, answers, fired, steady

periods = st.integers(1, 12)
updates = st.integers(0, 200)


def passes_a_mark(tick: Tick, unit: str, marks: list[int]) -> bool:
    return any(tick.before.count(unit) < mark <= tick.now.count(unit) for mark in marks)


def at_updates(now: int) -> Tick:
    return Tick(Progress(update=now - 1), Progress(update=now))


# ---------------------------------------------------------------- marks


@given(n=periods, update=st.integers(1, 500))
def test_every_on_a_unit_counter_is_divisibility(n: int, update: int) -> None:
    tick = at_updates(update)
    assert every(updates=n).fires(tick.before, tick.now) == (update % n == 0)


@given(n=periods, walk=invent.walks())
def test_every_of_samples_is_growth_of_the_quotient(n: int, walk: Walk) -> None:
    grows = [math.floor(t.now.sample / n) - math.floor(t.before.sample / n) > 0 for t in walk.ticks]
    assert answers(every(samples=n), walk.ticks) == grows


@given(
    unit=st.sampled_from(invent.COUNTERS),
    n=periods,
    start=st.none() | st.integers(0, 20),
    walk=invent.walks(),
)
def test_every_fires_where_a_multiple_is_passed(
    unit: str, n: int, start: int | None, walk: Walk
) -> None:
    marks = [m for m in range(n if start is None else start, 2000, n) if m > 0]
    passed = [
        any((t.before.count(unit) or 0) < m <= (t.now.count(unit) or 0) for m in marks)
        for t in walk.ticks
    ]
    assert answers(every(start=start, **{unit: n}), walk.ticks) == passed


@given(ms=st.integers(50, 5000), walk=invent.walks())
@example(ms=100, walk=Walk(steady(30, seconds=0.1), 1, 5))
def test_every_of_seconds_neither_drifts_nor_bursts(ms: int, walk: Walk) -> None:
    def elapsed(point: Progress) -> int:
        return round(point.seconds * 1000)

    marks = range(ms, 100_000, ms)
    passed = [any(elapsed(t.before) < m <= elapsed(t.now) for m in marks) for t in walk.ticks]
    assert answers(every(seconds=ms / 1000), walk.ticks) == passed


@given(unit=st.sampled_from(invent.COUNTERS), k=st.integers(1, 60), walk=invent.walks())
def test_at_fires_exactly_once_when_its_point_is_reached(unit: str, k: int, walk: Walk) -> None:
    reached = (walk.ticks[-1].now.count(unit) or 0) >= k
    assert sum(answers(at(**{unit: k}), walk.ticks)) == reached


@given(points=st.lists(st.integers(1, 60), min_size=1), walk=invent.walks())
def test_at_fires_in_the_ticks_that_pass_its_points(points: list[int], walk: Walk) -> None:
    passed = [passes_a_mark(tick, "samples", points) for tick in walk.ticks]
    assert answers(at(samples=points), walk.ticks) == passed


@given(schedule=invent.marks, walk=invent.walks(sessions=False), data=st.data())
def test_marks_are_additive(schedule: Schedule, walk: Walk, data: st.DataObject) -> None:
    points = [tick.now for tick in walk.ticks]
    a, b, c = sorted(data.draw(st.integers(0, len(points) - 1)) for _ in range(3))
    total = walk.ticks[-1].total

    def fires(before: int, now: int) -> bool:
        return schedule.fires(points[before], points[now], total=total)

    assert fires(a, c) == (fires(a, b) or fires(b, c))


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


@given(n=periods, a=st.integers(0, 60), width=st.integers(0, 60))
def test_a_window_never_shifts_the_phase(n: int, a: int, width: int) -> None:
    walk, b = steady(120), a + width
    marks = range(n, 121, n)
    assert fired(every(updates=n) & after(updates=a), walk) == [u for u in marks if u > a]
    assert fired(every(updates=n) & until(updates=a), walk) == [u for u in marks if u <= a]
    inside = fired(every(updates=n) & between(updates=(a, b)), walk)
    assert inside == [u for u in marks if a <= u <= b]


@given(marks=invent.marks, window=invent.windows(), walk=invent.walks())
def test_windows_only_drop_marks(marks: Schedule, window: Schedule, walk: Walk) -> None:
    assert set(fired(marks & window, walk.ticks)) <= set(fired(marks, walk.ticks))


@given(unit=st.sampled_from(invent.COUNTERS), k=st.integers(0, 60), walk=invent.walks())
def test_until_is_what_after_is_not(unit: str, k: int, walk: Walk) -> None:
    above = [(tick.now.count(unit) or 0) > k for tick in walk.ticks]
    assert answers(after(**{unit: k}), walk.ticks) == above
    assert answers(until(**{unit: k}), walk.ticks) == [not fires for fires in above]


# ---------------------------------------------------------------- algebra


@given(a=invent.schedules, b=invent.schedules, walk=invent.walks())
def test_operators_are_pointwise(a: Schedule, b: Schedule, walk: Walk) -> None:
    pairs = list(zip(answers(a, walk.ticks), answers(b, walk.ticks), strict=True))
    assert answers(a & b, walk.ticks) == [x and y for x, y in pairs]
    assert answers(a | b, walk.ticks) == [x or y for x, y in pairs]
    assert answers(~a, walk.ticks) == [not x for x, _ in pairs]


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


@given(schedule=invent.memoryless_schedules, walk=invent.walks())
def test_what_remembers_nothing_answers_from_the_tick_alone(schedule: Schedule, walk: Walk) -> None:
    assert schedule.initial is None
    alone = [
        schedule.fires(
            t.before, t.now, event=t.event, total=t.total, metrics=t.metrics, fresh=t.fresh
        )
        for t in walk.ticks
    ]
    assert alone == answers(schedule, walk.ticks)


# ---------------------------------------------------------------- splitting a run


@given(schedule=invent.schedules, walk=invent.walks(), data=st.data())
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


@given(schedule=invent.marks | invent.windows(), walk=invent.walks())
def test_a_restart_changes_no_firing(schedule: Schedule, walk: Walk) -> None:
    unbroken = [
        schedule.fires(
            Progress(b.epoch, b.update, b.sample, b.seconds, 1, b.counters),
            Progress(n.epoch, n.update, n.sample, n.seconds, 1, n.counters),
            total=tick.total,
        )
        for tick in walk.updates
        for b, n in [(tick.before, tick.now)]
    ]
    assert unbroken == answers(schedule, walk.updates)


def storable(memory: Any) -> bool:
    if isinstance(memory, tuple):
        return all(map(storable, memory))
    return memory is None or type(memory) in (bool, int, float, str)


@given(schedule=invent.schedules, walk=invent.walks())
def test_memory_is_made_of_plain_values(schedule: Schedule, walk: Walk) -> None:
    memory = schedule.initial
    for tick in walk.ticks:
        assert storable(memory)
        _, memory = schedule.step(tick, memory)
        assert (memory is None) == (schedule.initial is None)
    assert storable(memory)


# ---------------------------------------------------------------- looking ahead


@given(schedule=invent.plain | invent.schedules, walk=invent.walks(), data=st.data())
def test_next_update_skips_no_firing_and_no_change_of_memory(
    schedule: Schedule, walk: Walk, data: st.DataObject
) -> None:
    pace: dict[str, Any] = {"total": walk.ticks[-1].total}
    if data.draw(st.booleans()):
        pace["samples_per_update"] = walk.samples_per_update
        pace["updates_per_epoch"] = walk.updates_per_epoch
    memory, bound = schedule.initial, schedule.next_update(walk.ticks[0].now, **pace)
    for tick in walk.ticks:
        fires, after_tick = schedule.step(tick, memory)
        if tick.event == "update" and (bound is None or tick.now.update < bound):
            assert not fires
            assert after_tick == memory
        else:
            # Asked here, so looked ahead from here; elsewhere the bound must hold on.
            bound = schedule.next_update(tick.now, **pace)
            assert bound is None or bound > tick.now.update
        memory = after_tick


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


# ---------------------------------------------------------------- text and values


@given(schedule=invent.schedules)
def test_text_round_trip(schedule: Schedule) -> None:
    again = parse(str(schedule))
    assert again == schedule
    assert str(again) == str(schedule)
    assert hash(again) == hash(schedule)


@given(schedule=invent.schedules, walk=invent.walks())
def test_copies_are_equal_and_answer_alike(schedule: Schedule, walk: Walk) -> None:
    for again in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert again == schedule
        assert answers(again, walk.ticks) == answers(schedule, walk.ticks)


@given(text=st.text(max_size=60) | st.text("()[]~&|,=\"'\\.019_-+/ eval(ytfirsn)", max_size=60))
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
