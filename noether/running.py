"""One process's part of a run: opening tick, updates, closing tick, and every other way out."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from noether import fold as folding
from noether.agenda import agenda, ripe
from noether.contents import check_memories
from noether.distributed import all_fail, gathered, hear, tell
from noether.effects import Load
from noether.feed import pace
from noether.feed.serving import close
from noether.loop import judge, snapshots
from noether.perform import perform, show, tell_failures
from noether.progress import Progress
from noether.saving import core_save, failing, give_up, load_tagged, save, settle
from noether.schedules import Tick
from noether.session import (
    Session,
    at,
    closed,
    combine,
    coming,
    over,
    raise_fatal,
    served,
    served_from,
    snapshot,
    write_status,
)
from noether.space import forecast
from noether.state import Event, TrainState
from noether.tracking import tracked
from noether.turn import Failure

HEARTBEAT = 10.0
"""Seconds between two writings of `status.json`."""
ATTENTION = 0.1
"""Seconds after which a tick is folded though nothing is due in it: for the live line, the status
and the saves in the background."""

POINTS: Mapping[Event, str] = {
    "accumulation_step": "after_accumulation_step",
    "before_update": "before_update",
}
"""The events within an update, and the points at which hooks see them."""


def lived(session: Session) -> TrainState:
    """The run itself: opening tick, updates, closing tick; every way out runs the closing hooks."""
    with tracked(session.world):
        if not closed(session):
            return _lived(session)
        _load_again(session)
        return _final(session, over(session))


def _lived(session: Session) -> TrainState:
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
    session.spent = dict.fromkeys((callback.name for callback in session.fold.pipeline), 0.0)
    state = at(session, "start", now)
    begun = folding.begin(session.fold, state, session.carry)
    session.carry = begun.carry
    raise_fatal(session, begun.state, tell_failures(session.world, begun.failures))
    check_memories(session.fold.pipeline, session.carry)
    _forecast_space(session)
    session.server = served_from(session)
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
        partial(snapshot, session),
        partial(_wanted, session),
        partial(_attended, session),
        session.signals.poll,
    )
    for state in updates:
        if state is None:
            if session.signals.count:
                return
        elif state.event != "update":
            _passage(session, state)
        else:
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


def _wanted(session: Session, now: Progress, coming: Progress) -> frozenset[Event]:
    """The events within the update about to be made that some hook will look at."""
    assert session.early is not None
    session.firing = ()
    if ripe(session.early, coming):
        moment = Tick(now, coming, total=session.base.total)
        session.firing, session.carry = folding.due_early(session.early, moment, session.carry)
    having, points = session.fold.having, {callback.point for callback in session.firing}
    return frozenset(event for event, point in POINTS.items() if having[point] or point in points)


def _attended(session: Session, before: Progress, now: Progress) -> bool:
    """Whether the tick of a complete update has to be folded: what is due, or was due within."""
    assert session.agenda is not None
    return (
        bool(session.fold.having["after_update"])
        or ripe(session.agenda, now)
        or bool(session.within or session.fresh)
        or now.epoch != before.epoch
        or bool(session.carry.fired)
        or session.world.course.exchange is not None
        or time.monotonic() - session.attended > ATTENTION
    )


def _load_again(session: Session) -> None:
    assert session.world.store is not None
    for tag in session.carry.loads:
        load_tagged(session.world.store.checkpoints, tag, session.world.machine)


def _tick(session: Session, state: TrainState, *, keep: bool = True) -> None:
    """Fold a tick and perform what it asks."""
    now, outcome = time.monotonic(), _folded(session, state, keep=keep)
    if _uneventful(session, outcome, now):
        session.carry = outcome.carry
    else:
        session.attended = now
        _performed(session, state, outcome)


def _performed(session: Session, state: TrainState, outcome: folding.Outcome) -> None:
    """Perform what a tick asks, and see to what goes on beside training."""
    world = session.world
    committed = world.store and world.store.committed
    fatal = tell_failures(world, outcome.failures)
    session.closed = state.event == "end"
    if session.closed:
        outcome = _last(outcome, fatal)
    session.carry = outcome.carry
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
    world.console.tick(outcome.state, partial(coming, session))
    saved = committed != (world.store and world.store.committed)
    if saved or time.monotonic() - session.told > HEARTBEAT:
        _heartbeat(session)


def _uneventful(session: Session, outcome: folding.Outcome, now: float) -> bool:
    """Whether the tick of an update only changed memories, and nothing else waits for a tick."""
    store = session.world.store
    return (
        outcome.state.event == "update"
        and not (outcome.requests or outcome.failures)
        and (store is None or store.pending is None)
        and session.world.course.exchange is None
        and now - session.attended <= ATTENTION
    )


def _folded(session: Session, state: TrainState, *, keep: bool) -> folding.Outcome:
    """A tick's fold, with what the hooks within its update have asked."""
    outcome = folding.tick(
        session.fold,
        state,
        session.carry,
        partial(served, session),
        keep=keep,
        agenda=session.agenda,
        combine=combine(session),
        spent=session.spent,
    )
    if session.within:
        outcome = replace(outcome, requests=(*session.within, *outcome.requests))
    session.within, session.fresh = [], frozenset()
    return outcome


def _last(outcome: folding.Outcome, fatal: list[Failure]) -> folding.Outcome:
    """The closing tick's outcome, which says what is left to do for a run killed after it."""
    loads = tuple(r.effect.tag for r in outcome.requests if isinstance(r.effect, Load))
    return replace(outcome, carry=replace(outcome.carry, closed=not fatal, loads=loads))


def _heartbeat(session: Session) -> None:
    try:
        write_status(session, "running", None)
    except OSError as error:
        session.world.console.warn(f"status.json cannot be written: {error}; training goes on")


def _passage(session: Session, state: TrainState) -> None:
    """Fold a snapshot from within an update."""
    over, spent = combine(session), session.spent
    outcome = folding.passage(session.fold, state, session.carry, session.firing, over, spent)
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
    now = session.world.course.progress
    return at(session, "end", now, reason="; ".join(reasons))


def _final(session: Session, reasons: tuple[str, ...]) -> TrainState:
    """The closing snapshot."""
    return _ending(session, reasons)


def _preempted(session: Session) -> None:
    """Commit, then run the closing hooks, which change no memory any more."""
    if session.world.store is not None:
        save(session.world, session.carry, [core_save("preempted")], final=True)
    now = session.world.course.progress
    state = at(session, "end", now, reason=session.signals.name)
    outcome = folding.leave(session.fold, state, session.carry, "after_training")
    session.closed = True
    show(session.world, outcome)
    raise_fatal(session, state, tell_failures(session.world, outcome.failures))


def _leave(session: Session, error: BaseException, *hooks: str) -> None:
    """Run closing hooks on the way out of an error; what they raise is noted on it."""
    now = session.world.course.progress
    state = at(session, "end", now, exception=f"{type(error).__name__}: {error}")
    closing = () if session.closed else ("after_training",)
    outcome = folding.leave(session.fold, state, session.carry, *hooks, *closing)
    try:
        show(session.world, outcome)
    except Exception as later:
        error.add_note(f"then, while its closing hooks were served: {later}")
    for failure in outcome.failures:
        error.add_note(str(folding.hook_error(failure, state)))
