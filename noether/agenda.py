"""The agenda: which scheduled callbacks a tick has to ask. The dormant ones cost nothing."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, nsmallest
from typing import Any

from noether.callback import Pipeline
from noether.progress import Progress
from noether.schedules.schedule import Pace
from noether.schedules.units import nanoseconds


@dataclass(slots=True)
class Agenda:
    """The scheduled callbacks of a fold by when they must be asked next."""

    pipeline: Pipeline
    pace: Pace
    coming: list[tuple[int, int]]
    """Updates and positions in the pipeline, the nearest first."""
    waiting: Mapping[str, list[int]]
    """By metric, the positions to ask in a tick that produced it."""
    timed: list[tuple[Any, int]] = field(default_factory=list)
    """Training times in nanoseconds and positions, the nearest first."""


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
            _enter(made.coming, position, _next_update(made, position, now))
            _enter(made.timed, position, _next_moment(made, position, now))
    return made


def _enter(heap: list[tuple[Any, int]], position: int, bound: Any) -> None:
    if bound is not None:
        heappush(heap, (bound, position))


def _next_update(agenda: Agenda, position: int, now: Progress) -> int | None:
    schedule = agenda.pipeline[position].schedule
    if schedule is None:
        return int(now.update) + 1
    if schedule.rests is None:
        return schedule.ahead(now, agenda.pace)
    return schedule.rests(now, agenda.pace)[0]


def _next_moment(agenda: Agenda, position: int, now: Progress) -> Any:
    schedule = agenda.pipeline[position].schedule
    if schedule is None or schedule.rests is None:
        return None
    return schedule.rests(now, agenda.pace)[1]


def ripe(agenda: Agenda, now: Progress) -> bool:
    """Whether a callback has to be asked in the tick that leads to `now`, whatever it produces."""
    if agenda.coming and agenda.coming[0][0] <= now.update:
        return True
    return bool(agenda.timed) and agenda.timed[0][0] <= nanoseconds(now)


def due(agenda: Agenda, now: Progress, fresh: Iterable[str] = ()) -> list[int]:
    """Positions to ask in the tick that leads to `now`, as a heap; each is entered anew."""
    positions = _ripened(agenda.coming, now.update)
    for position in positions:
        _enter(agenda.coming, position, _next_update(agenda, position, now))
    late = _ripened(agenda.timed, nanoseconds(now)) if agenda.timed else []
    for position in late:
        _enter(agenda.timed, position, _next_moment(agenda, position, now))
    positions += [*late, *woken(agenda, fresh)]
    heapify(positions)
    return positions


def nearest(agenda: Agenda, most: int = 4) -> list[tuple[int, str]]:
    """The next updates at which callbacks fire whose schedules look at counts alone, and whose."""
    asked = ((update, agenda.pipeline[position]) for update, position in agenda.coming)
    told = ((at, c.name) for at, c in asked if c.schedule is not None and c.schedule.predicted)
    return nsmallest(most, told)


def _ripened(heap: list[tuple[Any, int]], bound: Any) -> list[int]:
    positions = []
    while heap and heap[0][0] <= bound:
        positions.append(heappop(heap)[1])
    return positions


def woken(agenda: Agenda, metrics: Iterable[str]) -> Iterator[int]:
    """Positions to ask because one of these metrics was produced; some perhaps twice."""
    for metric in metrics:
        yield from agenda.waiting.get(metric, ())
