"""One process's part of a run: opening tick, updates, closing tick, and every other way out."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from noether import fold as folding
from noether import passes
from noether import store as storage
from noether.agenda import Agenda, agenda
from noether.averages import weights
from noether.callback import DataPass, Pipeline
from noether.contents import check_memories
from noether.distributed import all_fail, combined, gathered, hear, tell
from noether.effects import Load
from noether.feed import Feed, pace, reached, size
from noether.feed.fetches import pass_numbers
from noether.feed.foresight import Outlook, fetches
from noether.feed.serving import Batch, Server, batches, close, server
from noether.loop import judge, snapshots
from noether.machine import hyper
from noether.perform import perform, show, tell_failures
from noether.progress import Progress
from noether.saving import core_save, failing, give_up, load_tagged, save, settle
from noether.schedules import Tick
from noether.signals import Signals
from noether.space import forecast
from noether.state import Event, TrainState
from noether.turn import Carry, Combine, Failure, Fold, Request, foreseen
from noether.world import World

HEARTBEAT = 10.0
"""Seconds between two writings of `status.json`."""


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
    told: float = -math.inf
    """When `status.json` was last written."""
    closed: bool = False
    """Whether every `after_training` has run."""


def lived(session: Session) -> TrainState:
    """The run itself: opening tick, updates, closing tick; every way out runs the closing hooks."""
    if closed(session):
        _load_again(session)
        return _final(session, over(session))
    try:
        _open(session)
        if not _settle(session):
            _updates(session)
            _settle(session)
        if reasons := over(session):
            return _close(session, reasons)
        _preempted(session)
    except Exception as error:
        _leave(session, error, "on_exception")
        raise
    except BaseException as error:
        _leave(session, error)
        raise
    finally:
        if session.server is not None:
            close(session.server)
        settle(session.world)
        session.world.machine.forward = None
        session.world.console.wipe()
    raise session.signals.error()


def _open(session: Session) -> None:
    """Memories and opening tick."""
    now = session.world.course.progress
    state = _at(session, "start", now)
    begun = folding.begin(session.fold, state, session.carry)
    session.carry = begun.carry
    raise_fatal(session, begun.state, tell_failures(session.world, begun.failures))
    check_memories(session.fold.pipeline, session.carry)
    _forecast_space(session)
    session.server = _server(session)
    _tick(session, state, keep=now.session == 1)
    ahead = pace(session.feed, now, session.world.course.offset, session.base.total)
    session.agenda = agenda(session.fold.having["on_schedule"], now, ahead)
    session.early = agenda(session.fold.early, now, ahead)


def _forecast_space(session: Session) -> None:
    world = session.world
    if world.store is not None and world.store.lock is not None:
        memories, pipeline = session.carry.memories, session.fold.pipeline
        if said := forecast(world.store, world.machine, memories, pipeline):
            world.console.warn(said)


def _updates(session: Session) -> None:
    """Train until a limit, a stop or a signal."""
    world = session.world
    assert session.server is not None
    updates = snapshots(
        world.machine,
        session.server,
        world.course,
        session.until,
        session.base,
        partial(_wanted, session),
        session.signals.poll,
    )
    for state in updates:
        if state.event != "update":
            _passage(session, state)
            continue
        _tick(session, state)
        if _ends(session):
            return


def _ends(session: Session) -> bool:
    """Whether the run ends after this tick, on all ranks together.

    What all ranks ask is obeyed at once; what some of them know, one tick later.
    """
    exchange, stops = session.world.course.exchange, bool(session.carry.stops)
    if exchange is None:
        return stops or bool(session.signals.count)
    earlier, elapsed = exchange.heard, session.world.course.elapsed
    tell(
        exchange,
        stops=stops,
        unsaved=failing(session.world),
        signal_number=session.signals.first,
        seconds=elapsed,
    )
    if stops and (now := hear(exchange)) is not None and now.stops == exchange.ranks.size:
        return True
    if earlier is not None and earlier.unsaved:
        settle(session.world)
        give_up(session.world)
    return earlier is not None and (earlier.stops > 0 or earlier.signal is not None)


def _settle(session: Session) -> bool:
    """Let every rank know what any of them was asked; gives whether the run ends for it."""
    exchange = session.world.course.exchange
    if exchange is None:
        return bool(session.carry.stops or session.signals.count)
    hear(exchange)
    found = gathered(exchange.ranks, (session.carry.stops, session.signals.first))
    stops = dict.fromkeys(reason for reasons, _ in found for reason in reasons)
    session.carry = replace(session.carry, stops=tuple(stops))
    first = next((number for _, number in found if number is not None), None)
    if first is not None and not session.signals.count:
        session.signals.first, session.signals.count = first, 1
    return bool(stops) or first is not None


POINTS: Mapping[Event, str] = {
    "accumulation_step": "after_accumulation_step",
    "before_update": "before_update",
}
"""The events within an update, and the points at which hooks see them."""


def _wanted(session: Session, now: Progress, coming: Progress) -> frozenset[Event]:
    """The events within the update about to be made that some hook will look at."""
    assert session.early is not None
    moment = Tick(now, coming, total=session.base.total)
    session.firing, session.carry = folding.due_early(session.early, moment, session.carry)
    points = {callback.point for callback in session.firing}
    having = session.fold.having
    return frozenset(event for event, point in POINTS.items() if having[point] or point in points)


def over(session: Session) -> tuple[str, ...]:
    """Why the run is over; empty where it isn't."""
    return session.carry.stops or _limit(session)


def closed(session: Session) -> bool:
    """Whether nothing is left to do: it was killed after the checkpoint of its closing tick."""
    return session.carry.closed and bool(over(session))


def _load_again(session: Session) -> None:
    assert session.world.store is not None
    for tag in session.carry.loads:
        load_tagged(session.world.store.checkpoints, tag, session.world.machine)


def _limit(session: Session) -> tuple[str, ...]:
    """The limit that is reached, as a reason to end; empty where none is."""
    progress = session.world.course.progress
    return tuple(
        f"reached {limit} {unit}"
        for unit, limit in session.until.items()
        if reached(progress, {unit: limit})
    )


def _tick(session: Session, state: TrainState, *, keep: bool = True) -> None:
    """Fold a tick and perform what it asks."""
    world = session.world
    state = replace(state, fresh=session.fresh)
    outcome = folding.tick(
        session.fold,
        state,
        session.carry,
        partial(served, session),
        keep=keep,
        agenda=session.agenda,
        combine=combine(session),
    )
    outcome = replace(outcome, requests=(*session.within, *outcome.requests))
    session.within, session.fresh = [], frozenset()
    committed = world.store and world.store.committed
    fatal = tell_failures(world, outcome.failures)
    session.closed = state.event == "end"
    loads = tuple(r.effect.tag for r in outcome.requests if isinstance(r.effect, Load))
    session.carry = replace(outcome.carry, closed=session.closed and not fatal, loads=loads)
    outcome = replace(outcome, carry=session.carry)
    if fatal and not all_fail(world.course.exchange, state.now.update):
        raise_fatal(session, outcome.state, fatal)  # nothing more can be done together
    try:
        perform(world, outcome)
        if fatal and world.store is not None and state.event == "update":
            save(world, session.carry, [core_save("emergency")])
    except Exception as error:
        if not fatal:
            raise
        fatal[0].error.add_note(f"then, while its tick was performed: {error}")
    raise_fatal(session, outcome.state, fatal)
    settle(world, wait=state.event == "end")
    if world.machine.ranks.size == 1:
        give_up(world)  # several ranks do so together, a tick later
    world.console.tick(outcome.state.now, outcome.state.total, outcome.state.metrics)
    saved = committed != (world.store and world.store.committed)
    if saved or time.monotonic() - session.told > HEARTBEAT:
        _heartbeat(session)


def _heartbeat(session: Session) -> None:
    try:
        write_status(session, "running", None)
    except OSError as error:
        session.world.console.warn(f"status.json cannot be written: {error}; training goes on")


def combine(session: Session) -> Combine | None:
    """What makes metrics equal on all ranks, where there are several."""
    ranks = session.world.machine.ranks
    return None if ranks.size == 1 else partial(combined, ranks)


def _passage(session: Session, state: TrainState) -> None:
    """Fold a snapshot from within an update."""
    over = combine(session)
    outcome = folding.passage(session.fold, state, session.carry, session.firing, over)
    session.carry = outcome.carry
    session.within += outcome.requests
    session.fresh |= outcome.state.fresh
    raise_fatal(session, state, tell_failures(session.world, outcome.failures))


def _close(session: Session, reasons: tuple[str, ...]) -> TrainState:
    """The closing tick of a run that is over."""
    judge(session.world.course)
    _tick(session, _ending(session, reasons))
    if session.world.store is not None and session.world.store.failures:
        save(session.world, session.carry, [core_save("closing")], final=True)
    return _final(session, reasons)


def _ending(session: Session, reasons: tuple[str, ...]) -> TrainState:
    state = _at(session, "end", session.world.course.progress)
    return replace(state, reason="; ".join(reasons))


def _final(session: Session, reasons: tuple[str, ...]) -> TrainState:
    """The closing snapshot."""
    carry = session.carry
    return replace(_ending(session, reasons), metrics=carry.metrics, memories=carry.memories)


def _preempted(session: Session) -> None:
    """Commit, then run the closing hooks, which change no memory any more."""
    if session.world.store is not None:
        save(session.world, session.carry, [core_save("preempted")], final=True)
    state = replace(_at(session, "end", session.world.course.progress), reason=session.signals.name)
    outcome = folding.leave(session.fold, state, session.carry, "after_training")
    session.closed = True
    show(session.world, outcome.requests)
    raise_fatal(session, state, tell_failures(session.world, outcome.failures))


def _leave(session: Session, error: BaseException, *hooks: str) -> None:
    """Run closing hooks on the way out of an error; what they raise is noted on it."""
    state = _at(session, "end", session.world.course.progress)
    state = replace(state, exception=f"{type(error).__name__}: {error}")
    closing = () if session.closed else ("after_training",)
    outcome = folding.leave(session.fold, state, session.carry, *hooks, *closing)
    try:
        show(session.world, outcome.requests)
    except Exception as later:
        error.add_note(f"then, while its closing hooks were served: {later}")
    for failure in outcome.failures:
        error.add_note(str(folding.hook_error(failure, state)))


def _at(session: Session, event: Any, now: Progress) -> TrainState:
    rates = hyper(session.world.machine.optimizer)
    return replace(session.base, event=event, before=now, now=now, hyper=rates)


def _server(session: Session) -> Server:
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
    return passes.serve(callbacks, found, machine, poll=poll, weights=named)


def _shown(session: Session, names: str, data: DataPass, found: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of a pass, how many there have been told on the way."""
    length = session.base.dataset_lengths.get(data.dataset)
    total = None if length is None else len(pass_numbers(session.feed, data, length))
    for done, batch in enumerate(found, 1):
        session.world.console.passing(names, done, total)
        yield batch


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
