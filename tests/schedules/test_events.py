import pytest

from noether.progress import Progress
from noether.schedules import (
    Schedule,
    Tick,
    always,
    each_session,
    never,
    once_at_end,
    once_at_start,
)

FRESH, RESUMED = Progress(session=1), Progress(update=7, session=2)
OPENING = Tick(FRESH, FRESH, "start")
REOPENING = Tick(RESUMED, RESUMED, "start")
UPDATE = Tick(FRESH, Progress(update=1))
CLOSING = Tick(RESUMED, RESUMED, "end")


@pytest.mark.parametrize(
    ("schedule", "ticks"),
    [
        (once_at_start, [OPENING]),
        (each_session, [OPENING, REOPENING]),
        (each_session & ~once_at_start, [REOPENING]),
        (once_at_end, [CLOSING]),
        (always, [OPENING, REOPENING, UPDATE, CLOSING]),
        (never, []),
    ],
)
def test_each_fires_on_its_ticks(schedule: Schedule, ticks: list[Tick]) -> None:
    assert [t for t in (OPENING, REOPENING, UPDATE, CLOSING) if schedule.asks(t)] == ticks


@pytest.mark.parametrize("schedule", [once_at_start, each_session, once_at_end, never])
def test_events_are_never_due_on_an_update(schedule: Schedule) -> None:
    assert schedule.next_update(Progress(update=5)) is None
    assert always.next_update(Progress(update=5)) == 6
