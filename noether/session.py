"""What one process has of a run, and what it serves, tells and knows of its end."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from noether import fold as folding
from noether import passes
from noether import store as storage
from noether.agenda import Agenda, nearest
from noether.averages import weights
from noether.callback import DataPass, Pipeline
from noether.distributed import combined
from noether.feed import Feed, reached, size
from noether.feed.fetches import pass_numbers
from noether.feed.foresight import Outlook, fetches
from noether.feed.serving import Batch, Server, batches, server
from noether.hyper import hyper
from noether.loop import paused
from noether.progress import Progress
from noether.signals import Signals
from noether.state import Event, TrainState
from noether.turn import Carry, Combine, Failure, Fold, Request, foreseen
from noether.world import World


@dataclass(slots=True)
class Session:
    """One process's part of a run."""

    world: World
    fold: Fold
    feed: Feed
    until: Mapping[str, float]
    base: TrainState
    signals: Signals
    datasets: Mapping[str, Any]
    carry: Carry
    workers: int = 0
    server: Server | None = None
    """What serves its batches, from its opening tick on."""
    agenda: Agenda | None = None
    """Of the callbacks asked at the end of a tick."""
    early: Agenda | None = None
    """Of those asked before an update is made."""
    firing: Pipeline = ()
    """The callbacks that were found to fire within the update under way."""
    within: list[Request] = field(default_factory=list)
    """What the hooks within the update under way have asked; performed with its tick."""
    fresh: frozenset[str] = frozenset()
    """The metrics that they reported."""
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds that each callback's hooks have taken."""
    told: float = -math.inf
    """When `status.json` was last written."""
    attended: float = -math.inf
    """When a tick was last folded, whatever was due in it."""
    closed: bool = False
    """Whether every `after_training` has run."""


def over(session: Session) -> tuple[str, ...]:
    """Why the run is over; empty where it isn't."""
    return session.carry.stops or _limit(session)


def closed(session: Session) -> bool:
    """Whether nothing is left to do: it was killed after the checkpoint of its closing tick."""
    return session.carry.closed and bool(over(session))


def _limit(session: Session) -> tuple[str, ...]:
    """The limit that is reached, as a reason to end; empty where none is."""
    progress = session.world.course.progress
    return tuple(
        f"reached {limit} {unit}"
        for unit, limit in session.until.items()
        if reached(progress, {unit: limit})
    )


def combine(session: Session) -> Combine | None:
    """What makes metrics equal on all ranks, where there are several."""
    ranks = session.world.machine.ranks
    return None if ranks.size == 1 else partial(combined, ranks)


def snapshot(
    session: Session, event: Event, before: Progress, now: Progress, **seen: Any
) -> TrainState:
    """A snapshot of the run at these counts, with what was `seen` of the event."""
    base, carry = session.base, session.carry
    return TrainState(
        event,
        before,
        now,
        total=base.total,
        metrics=carry.metrics,
        fresh=session.fresh if event == "update" else frozenset(),
        model=base.model,
        hyper=hyper(session.world.machine.optimizer),
        dataset_lengths=base.dataset_lengths,
        hook_seconds=session.spent,
        memories=carry.memories,
        rank=base.rank,
        world_size=base.world_size,
        **seen,
    )


def at(session: Session, event: Event, now: Progress, **seen: Any) -> TrainState:
    """A snapshot between two updates."""
    return snapshot(session, event, now, now, **seen)


def served_from(session: Session) -> Server:
    """What serves the session's batches; its workers start here."""
    world = session.world
    lengths = {n: known for n, d in session.datasets.items() if (known := size(d)) is not None}
    outlook = Outlook(
        session.feed,
        session.until,
        session.base.total,
        world.course.progress,
        world.course.offset,
        lengths,
        session.world.machine.lockstep,
        tuple(c for c in session.fold.having["on_schedule"] if foreseen(c)),
        dict(session.carry.schedules),
        session.carry.fired,
    )
    return server(
        session.feed,
        session.datasets,
        fetches(outlook) if session.feed.length is not None else None,
        workers=session.workers,
        pin=world.machine.device.type == "cuda",
        lockstep=world.machine.lockstep,
    )


def served(session: Session, callbacks: Pipeline, memories: Mapping[str, Any]) -> Mapping[str, Any]:
    """The results of the passes of callbacks that read the same."""
    data = callbacks[0].data
    assert data is not None
    assert session.server is not None
    update = session.world.course.progress.update
    machine, poll = session.world.machine, session.signals.poll
    found = batches(session.server, data, update, foreseen=foreseen(callbacks[0]))
    found = _shown(session, ", ".join(c.name for c in callbacks), data, found)
    pipeline = session.fold.pipeline
    named = {c.name: weights(pipeline, c.data.weights, memories) for c in callbacks if c.data}
    with paused(session.world.course):
        return passes.serve(callbacks, found, machine, poll=poll, weights=named)


def _shown(session: Session, names: str, data: DataPass, found: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a pass, how many there have been told on the way."""
    length = session.base.dataset_lengths.get(data.dataset)
    total = None if length is None else len(pass_numbers(session.feed, data, length))
    for done, batch in enumerate(found, 1):
        session.world.console.passing(names, done, total)
        yield batch


def coming(session: Session) -> list[tuple[int, str]]:
    """The next updates in which callbacks are due whose schedules look at counts alone."""
    return [] if session.agenda is None else nearest(session.agenda)


def raise_fatal(session: Session, state: TrainState, fatal: list[Failure]) -> None:
    """Raise the first error, the later ones as notes on it."""
    if not fatal:
        return
    error = folding.hook_error(fatal[0], state)
    for later in fatal[1:]:
        error.add_note(str(folding.hook_error(later, state)))
    raise error from fatal[0].error


def write_status(session: Session, state: str, reason: str | None) -> None:
    """Write `status.json`, where there is a run directory."""
    store = session.world.store
    if store is None:
        return
    session.told = time.monotonic()
    storage.status(
        store, state, session.world.course.progress, reason=reason, failed=session.world.warned
    )
