"""Long runs are foreseen as if each tick were asked, by few questions."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noether import (
    Callback,
    Schedule,
    after,
    always,
    at,
    cooldown,
    every,
    first,
    once_at_end,
    skip,
)
from noether.plan import plan
from noether.progress import Progress
from noether.schedules import Tick
from noether.testing import terms
from tests.strategies import answers


def ticks(samples: int, batch_size: int, last: int, *, drop_last: bool) -> list[Tick]:
    """A run counted by hand, one update after another."""
    now, left = Progress(), samples
    points = [now]
    for update in range(1, last + 1):
        taken = min(batch_size, left)
        left -= taken
        closes = left < (batch_size if drop_last else 1)
        left = samples if closes else left
        now = Progress(now.epoch + closes, update, now.sample + taken)
        points.append(now)
    middle = [Tick(*pair, "update", points[-1]) for pair in itertools.pairwise(points)]
    opening, closing = Tick(points[0], points[0], "start", now), Tick(now, now, "end", now)
    return [opening, *middle, closing]


amounts = st.tuples(st.sampled_from(["epochs", "updates", "samples"]), st.integers(1, 400))
rare = st.one_of(
    st.tuples(amounts, st.none() | st.integers(0, 300)).map(
        lambda drawn: every(start=drawn[1], **dict([drawn[0]]))
    ),
    amounts.map(lambda drawn: at(**{drawn[0]: [drawn[1], 3 * drawn[1]]})),
    amounts.map(lambda drawn: after(**dict([drawn]))),
)
long_schedules = terms.schedules(predicted=True) | st.recursive(
    rare | terms.schedules(predicted=True), lambda parts: terms.remembered(parts, amounts)
)


@settings(max_examples=2 * settings.default.max_examples)  # type: ignore[union-attr]
@given(
    schedule=long_schedules,
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 12),
    last=st.integers(0, 900),
    drop_last=st.booleans(),
)
def test_a_long_run_is_planned_as_if_each_tick_were_asked(
    schedule: Schedule, samples: int, batch_size: int, last: int, *, drop_last: bool
) -> None:
    samples += batch_size if drop_last else 0
    run = ticks(samples, batch_size, last, drop_last=drop_last)
    opening, *middle, closing = answers(schedule, run)
    (forecast,) = plan(
        Callback("a", on_schedule=print, schedule=schedule),
        samples=samples,
        batch_size=batch_size,
        until={"updates": last},
        drop_last=drop_last,
    ).forecasts
    expected = [update for update, fires in enumerate(middle, 1) if fires]
    closing = closing and not (middle or [opening])[-1]
    assert list(forecast.sure) == expected == list(forecast.possible)
    assert (forecast.sure.opening, forecast.sure.closing) == (opening, closing)
    assert forecast.count == len(expected) + opening + closing


@given(
    schedule=st.one_of(
        st.integers(1, 12).map(lambda k: every(samples=16 * k)),
        st.integers(1, 12).map(lambda k: every(samples=48, start=k) | every(epochs=3)),
        st.integers(1, 900).map(lambda k: every(samples=80) & after(samples=16 * k)),
        st.integers(1, 900).map(lambda k: cooldown(every(samples=48), samples=k)),
        st.integers(1, 5).map(lambda k: cooldown(every(samples=32), epochs=k)),
        st.integers(1, 30).map(lambda k: skip(k, every(samples=160)) | at(samples=40 * k)),
    ),
    samples=st.sampled_from([1009, 1000, 997, 1024]),
    last=st.integers(0, 900),
    drop_last=st.booleans(),
)
def test_epochs_that_have_little_in_common_with_a_period_are_planned_one_by_one(
    schedule: Schedule, samples: int, last: int, *, drop_last: bool
) -> None:
    run = ticks(samples, 16, last, drop_last=drop_last)
    expected = [
        tick.now.update for tick, fires in zip(run, answers(schedule, run), strict=True) if fires
    ]
    found = (
        plan(
            Callback("a", on_schedule=print, schedule=schedule),
            samples=samples,
            batch_size=16,
            until={"updates": last},
            drop_last=drop_last,
        )
        .forecasts[0]
        .sure
    )
    assert list(found) == [update for update in expected if update > 0]


@dataclass(slots=True)
class Asked:
    """How often schedules were asked; about five hundred thousand answers take a second."""

    times: int = 0

    def counting(self, schedule: Schedule) -> Schedule:
        return replace(
            schedule,
            asks=self.noted(schedule.asks),
            step=self.noted(schedule.step),
            ahead=self.noted(schedule.ahead),
        )

    def noted(self, function: Any) -> Any:
        def noting(*arguments: Any) -> Any:
            self.times += 1
            assert self.times < 250_000, "it asks on and on"
            return function(*arguments)

        return noting


def long_run(part: Callable[[Schedule], Schedule]) -> Iterator[tuple[Schedule, int]]:
    """Schedules and how often they fire in ten million updates of 1003 samples, 101 an epoch."""
    yield part(every(updates=7)), 1_428_571
    yield part(every(samples=5000)), 19_861
    yield part(every(epochs=3)), 33_003
    yield part(every(updates=100)) & part(after(epochs=1000)), 98_989
    yield part(every(updates=9)) & part(every(epochs=2)), 5_500
    yield ~part(every(updates=5)) & part(every(epochs=1)), 79_208
    yield part(always), 10_000_001
    yield part(at(updates=[3, 9_999_999])) | part(once_at_end), 3
    yield part(every(fraction=1 / 1000)), 1_000
    yield first(5, part(every(updates=1000))), 5
    yield skip(5, part(every(updates=1000))), 9_995
    yield cooldown(part(every(epochs=1)), updates=250), 33_003
    yield first(5, part(every(updates=1))), 5
    yield skip(5, part(every(updates=1))), 9_999_995
    yield cooldown(part(every(updates=1)), updates=100), 100_000
    yield cooldown(part(every(updates=1)), epochs=1), 99_010
    yield first(3, cooldown(part(every(updates=3)), samples=2_000)), 3
    yield cooldown(part(at(updates=7)), updates=100), 1


@pytest.mark.parametrize("which", range(18))
def test_ten_million_updates_are_planned_by_few_questions(which: int) -> None:
    asked = Asked()
    schedule, count = list(long_run(asked.counting))[which]
    (forecast,) = plan(
        Callback("a", on_schedule=print, schedule=schedule),
        samples=1003,
        batch_size=10,
        until={"updates": 10_000_000},
    ).forecasts
    assert forecast.count == count, schedule
    assert asked.times > 0
