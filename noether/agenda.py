"""The agenda: which scheduled callbacks a tick has to ask. The dormant ones cost nothing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from noether.callback import Pipeline
from noether.progress import Progress
from noether.schedules.schedule import Pace


@dataclass(slots=True)
class Agenda:
    """The scheduled callbacks of a fold by when they must be asked next."""

    pipeline: Pipeline
    pace: Pace
    coming: list[tuple[int, int]]
    """Updates and positions in the pipeline, the nearest first."""
    waiting: Mapping[str, list[int]]
    """By metric, the positions to ask in a tick that produced it."""


def agenda(pipeline: Pipeline, now: Progress, pace: Pace) -> Agenda:
    """The agenda of a session that goes on from `now`.

    >>> from noether import every, when
    >>> from noether.callback import Callback
    >>> a, b = Callback("a", schedule=every(updates=5)), Callback("b", schedule=when("loss"))
    >>> made = agenda((a, b), Progress(update=7), Pace())
    >>> made.coming, made.waiting
    ([(10, 0)], {'loss': [1]})
    """
    waiting: dict[str, list[int]] = {}
    made = Agenda(pipeline, pace, [], waiting)
    for position, callback in enumerate(pipeline):
        awaits = None if callback.schedule is None else callback.schedule.awaits
        for metric in () if awaits is None else awaits:
            waiting.setdefault(metric, []).append(position)
        if awaits is None:
            made.coming.extend(_entry(made, position, now))
    heapify(made.coming)
    return made


def _entry(agenda: Agenda, position: int, now: Progress) -> Iterator[tuple[int, int]]:
    schedule = agenda.pipeline[position].schedule
    update = now.update + 1 if schedule is None else schedule.ahead(now, agenda.pace)
    if update is not None:
        yield update, position


def ripe(agenda: Agenda, now: Progress) -> bool:
    """Whether a callback has to be asked in the tick that leads to `now`, whatever it produces."""
    return bool(agenda.coming) and agenda.coming[0][0] <= now.update


def due(agenda: Agenda, now: Progress, fresh: Iterable[str] = ()) -> list[int]:
    """Positions to ask in the tick that leads to `now`, as a heap; each is entered anew."""
    positions: list[int] = []
    while agenda.coming and agenda.coming[0][0] <= now.update:
        positions.append(heappop(agenda.coming)[1])
    for position in positions:
        for entry in _entry(agenda, position, now):
            heappush(agenda.coming, entry)
    positions += woken(agenda, fresh)
    heapify(positions)
    return positions


def woken(agenda: Agenda, metrics: Iterable[str]) -> Iterator[int]:
    """Positions to ask because one of these metrics was produced; some perhaps twice."""
    for metric in metrics:
        yield from agenda.waiting.get(metric, ())
