"""The laws of the agenda: asking only who is due is the same fold, whatever is known ahead."""

from functools import reduce
from operator import or_
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from noether import Callback, at, chain, every, first, skip
from noether.agenda import agenda
from noether.fold import begin, compiled, tick
from noether.schedules import Schedule
from noether.schedules.schedule import Pace
from noether.schedules.units import nanoseconds
from noether.turn import Carry
from tests import strategies as invent
from tests.laws.test_fold import kept, pipelines, recorded, reporter, serve, told
from tests.strategies import Walk

about_metrics = st.one_of(invent.metric_conditions, invent.improvements, invent.plateaus)
about_both = st.tuples(about_metrics, invent.plain).flatmap(
    lambda pair: st.sampled_from(
        [
            *(pair[0] & pair[1], pair[1] & pair[0], pair[0] | pair[1], pair[1] | pair[0]),
            *(first(2, pair[0]) & pair[1], pair[1] & skip(1, pair[0]), ~pair[0]),
        ]
    )
)
with_another = st.tuples(about_metrics, invent.plain).map(lambda pair: pair[0] | pair[1])
with_memory = st.tuples(invent.metric_conditions, invent.improvements | invent.plateaus).map(
    lambda pair: pair[0] & pair[1]
)
awaiting = [invent.schedules, about_both, *[with_another] * 3, *[with_memory] * 10]


@given(
    schedule=st.sampled_from(awaiting).flatmap(lambda made: made),
    walk=invent.walks(),
)
def test_what_awaits_metrics_sleeps_through_the_updates_that_produce_none(
    schedule: Schedule, walk: Walk
) -> None:
    memory = schedule.initial
    for moment in walk.ticks:
        fires, stepped = schedule.step(moment, memory)
        awaits = schedule.awaits
        if moment.event == "update" and awaits is not None and not awaits & moment.fresh:
            assert not fires
            assert stepped == memory
        memory = stepped


clocked = st.one_of(
    invent.milliseconds.map(lambda seconds: every(seconds=seconds)),
    st.lists(invent.milliseconds, min_size=1).map(lambda points: at(seconds=points)),
)
counted = st.one_of(
    st.integers(1, 20).map(lambda updates: every(updates=updates)),
    st.integers(1, 20).map(lambda updates: at(updates=updates)),
)


@given(
    parts=st.lists(st.one_of(clocked, counted), min_size=1, max_size=4),
    walk=invent.walks(sessions=False),
    known=st.booleans(),
)
def test_what_waits_for_the_clock_rests_no_longer_than_till_it_fires(
    parts: list[Schedule],
    walk: Walk,
    known: bool,  # noqa: FBT001
) -> None:
    schedule = reduce(or_, parts)
    total = walk.ticks[-1].total
    pace = Pace(total, walk.samples_per_update, walk.updates_per_epoch) if known else Pace(total)
    update, moment = schedule.rests(walk.ticks[0].now, pace) if schedule.rests else (1, None)
    for each in walk.ticks[1:]:
        if each.event != "update":
            continue
        asked = (update is not None and each.now.update >= update) or (
            moment is not None and nanoseconds(each.now) >= moment
        )
        assert asked or not schedule.step(each, None)[0]
        if asked and schedule.rests:
            update, moment = schedule.rests(each.now, pace)
        elif asked:
            update = each.now.update + 1


@given(
    walk=invent.walks(sessions=False), pipeline=pipelines(), begun=st.integers(0), data=st.data()
)
def test_a_fold_with_an_agenda_is_the_fold_without(
    walk: Walk, pipeline: tuple[Callback, ...], begun: int, data: st.DataObject
) -> None:
    states, reports = recorded(walk)
    fold = compiled(chain(reporter(reports), pipeline))
    total = walk.ticks[-1].total
    known = Pace(total, walk.samples_per_update, walk.updates_per_epoch)
    pace = data.draw(st.sampled_from([known, Pace(total)]))
    resumed = begun % len(states)
    carry = begin(fold, states[0], Carry()).carry
    outcomes: list[Any] = []
    ahead = None
    for position, state in enumerate(states):
        if position >= resumed and ahead is None and state.event == "update":
            ahead = agenda(fold.having["on_schedule"], state.before, pace)
        all_asked = tick(fold, state, carry, serve)
        outcomes.append(tick(fold, state, carry, serve, agenda=ahead))
        assert told(outcomes[-1:]) == told([all_asked])
        assert kept(outcomes[-1].carry) == kept(all_asked.carry)
        carry = all_asked.carry
