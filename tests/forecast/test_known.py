"""What is surely and what is possibly fired encloses what is fired, whatever happens."""

from hypothesis import given
from hypothesis import strategies as st

from noether import Callback, Schedule, every, once_at_end
from noether.forecast.known import possibly, reporting, surely
from noether.schedules import always, each_session, never, parse
from tests import strategies as invent
from tests.strategies import Walk, answers


@given(schedule=invent.schedules, walk=invent.walks(), data=st.data())
def test_firings_lie_between_the_sure_and_the_possible_ones(
    schedule: Schedule, walk: Walk, data: st.DataObject
) -> None:
    # A metric may be produced wherever it was produced in this walk.
    known = data.draw(st.booleans())
    produced = {
        m: parse(
            " | ".join(
                ["never"] + [f"at(updates={t.now.update})" for t in walk.updates if m in t.fresh]
            )
        )
        for m in invent.METRICS
        if known
    }
    lower, upper = surely(schedule, produced), possibly(schedule, produced)
    assert lower.predicted
    assert upper.predicted
    rows = zip(
        answers(lower, walk.ticks),
        answers(schedule, walk.ticks),
        answers(upper, walk.ticks),
        strict=True,
    )
    assert all(sure <= fires <= may for sure, fires, may in rows)


@given(schedule=invent.schedules.filter(lambda schedule: schedule.predicted))
def test_what_is_known_is_left_as_it_is(schedule: Schedule) -> None:
    assert surely(schedule, {}) == schedule == possibly(schedule, {})


def test_a_callback_reports_when_its_hooks_run() -> None:
    def hook(state: object) -> None: ...

    assert reporting(Callback("a", on_schedule=hook)) == always
    assert reporting(Callback("a", on_schedule=hook, schedule=once_at_end)) == once_at_end
    assert reporting(Callback("a", after_update=hook)) == every(updates=1)
    assert reporting(Callback("a", before_update=hook)) == every(updates=1)
    assert reporting(Callback("a", after_epoch=hook)) == every(epochs=1)
    assert reporting(Callback("a", before_training=hook)) == each_session
    assert reporting(Callback("a", after_training=hook)) == never
