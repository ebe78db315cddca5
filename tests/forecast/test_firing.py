"""Firings jumped to are those of a walk over every tick, for every schedule and every feed."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether import Progress, Schedule
from noether.feed import Feed, feed, horizon
from noether.forecast import Firings, Line, Stretch, firings, line
from noether.schedules import Tick, parse
from tests import strategies as invent


def served(length: int, batch_size: int, *, drop_last: bool = False) -> Feed:
    options: dict[str, Any] = {"accumulate": 1, "seed": 0, "shuffle": False, "collate": None}
    return feed(range(length), batch_size=batch_size, drop_last=drop_last, **options)


feeds = st.builds(
    lambda length, batch, drop: served(max(length, batch), batch, drop_last=drop),
    *(st.integers(1, 30), st.integers(1, 9), st.booleans()),
)


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """Time lines of fresh and of resumed sessions, ended by any limit."""
    data = draw(feeds)
    limits = draw(
        st.dictionaries(
            st.sampled_from(["epochs", "updates", "samples"]), st.integers(0, 60), min_size=1
        )
    )
    total = horizon(data, limits)
    start = draw(st.just(0) | st.integers(0, total.update))
    return line(data, total, start=start, session=1 + (start > 0))


def walked(schedule: Schedule, along: Line) -> tuple[bool, list[int], bool]:
    """The answers of a schedule that is asked on every tick, counted up one by one."""
    per_epoch = along.feed.samples_per_epoch

    def moved(now: Progress) -> Progress:
        left = per_epoch - now.sample % per_epoch
        sample = min(along.feed.batch_size, left)
        closes = sample == left
        return replace(
            now, epoch=now.epoch + closes, update=now.update + 1, sample=now.sample + sample
        )

    now = Progress()
    opening, memory = schedule.step(Tick(now, now, "start", along.total), schedule.initial)
    last = opening
    for _ in range(along.start):
        before, now = now, moved(now)
        last, memory = schedule.step(Tick(before, now, "update", along.total), memory)
    if along.session > 1:
        now = replace(now, session=along.session)
        opening, _ = schedule.step(Tick(now, now, "start", along.total), memory)
    fired = []
    while now.update < along.total.update:
        before, now = now, moved(now)
        last, memory = schedule.step(Tick(before, now, "update", along.total), memory)
        fired += [now.update] if last else []
    closing, _ = schedule.step(Tick(now, now, "end", along.total), memory)
    return opening, fired, closing and not last


def is_predicted(schedule: Schedule) -> bool:
    return schedule.predicted


@given(schedule=invent.schedules.filter(is_predicted), along=lines())
def test_firings_are_those_of_a_walk_over_every_tick(schedule: Schedule, along: Line) -> None:
    found = firings(schedule, along)
    assert (found.opening, list(found), found.closing) == walked(schedule, along)


@given(schedule=invent.schedules.filter(is_predicted), along=lines(), data=st.data())
def test_counts_are_those_of_the_list(schedule: Schedule, along: Line, data: st.DataObject) -> None:
    found = replace(firings(schedule, along), since=data.draw(st.integers(0, 20)))
    first, last = sorted(data.draw(st.integers(0, along.stop + 2)) for _ in range(2))
    inside = [u for u in found if first <= u <= last]
    assert found.within(first, last) == len(inside)
    assert len(found) == len(list(found))
    assert found.count == len(list(found)) + found.opening + found.closing
    assert all(update >= found.since for update in found)


@given(schedule=invent.schedules.filter(is_predicted), along=lines())
def test_within_updates_the_opening_and_the_closing_tick_are_not_asked(
    schedule: Schedule, along: Line
) -> None:
    found = firings(schedule, along, boundaries=False)
    assert not found.opening
    assert not found.closing


MANY = 10_000_000


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("every(updates=1)", MANY),
        ("every(epochs=1) | once_at_end", MANY // 45 + 1),
        ("every(updates=100) & after(epochs=2)", MANY // 100 - 1),
        ("~every(updates=1_000)", MANY - MANY // 1000 + 2),
        ("every(samples=1_000) & until(updates=45_000)", 1_437),
        ("every(fraction=1/1_000) | at(updates=[3, 5_000_000])", 1_001),
        ("at(epochs=[1, 200_000]) | once_at_start", 3),
        ("first(3, every(updates=1_000_000))", 3),
        ("every(updates=10) & at(updates=3)", 0),
    ],
)
def test_ten_million_updates_are_not_walked(text: str, count: int) -> None:
    data = served(1437, 32)
    schedule, asked = parse(text), []

    def step(moment: Any, memory: Any) -> Any:
        asked.append(moment.now.update)
        return schedule.step(moment, memory)

    along = line(data, horizon(data, {"updates": MANY}))
    assert firings(replace(schedule, step=step), along).count == count
    assert len(asked) < 5_000


def test_an_empty_run_has_an_opening_and_a_closing_tick() -> None:
    data = served(4, 2)
    found = firings(parse("always"), line(data, horizon(data, {"updates": 0})))
    assert found == Firings((), opening=True, closing=False, last=True)
    assert firings(parse("once_at_end"), line(data, horizon(data, {"updates": 0}))).closing


def test_a_stretch_repeats_its_pattern_up_to_its_stop() -> None:
    stretch = Stretch(start=10, stop=20, period=4, pattern=(2, 3))
    assert list(stretch) == [12, 13, 16, 17, 20]
    assert [stretch.upto(u) for u in (0, 11, 12, 15, 16, 19, 20, 99)] == [0, 0, 1, 2, 3, 4, 5, 5]
