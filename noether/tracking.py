"""Trackers at work beside a session: begun before it, ended whatever ends it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from noether.errors import CheckpointError
from noether.journal import JOURNAL, extent
from noether.progress import Progress
from noether.rundir import owner, read_status
from noether.state import TrainState
from noether.store import config_of
from noether.trackers import Begun, Line, Tracker
from noether.trackers.earlier import earlier, progress_of
from noether.trackers.sending import Sender, finish, send, start
from noether.world import OUTPUTS, World


@contextmanager
def tracked(world: World) -> Iterator[None]:
    """The trackers of a run, while it trains."""
    store, now = world.store, world.course.progress
    if not world.machine.ranks.rank:
        run = None if store is None else store.run
        # One that begins with another run's checkpoint has rows of its own only later.
        resumed = store is not None and store.journal is not None and store.journal.position() > 0
        begun = Begun(run, world.config, now, resumed)
        world.senders = [_started(each, begun) for each in world.trackers]
    state = "failed"
    try:
        yield
        state = "done"
    except (SystemExit, KeyboardInterrupt):
        state = "preempted"
        raise
    finally:
        _finish(world, state)


def _started(tracker: Tracker, begun: Begun) -> Sender:
    journal = None if begun.run is None else begun.run / JOURNAL
    if begun.run is None or journal is None or not journal.is_file():
        return start(tracker, begun)
    return start(tracker, begun, earlier(journal, journal.stat().st_size, begun.run / OUTPUTS))


def _finish(world: World, state: str) -> None:
    for said in finish(world.senders, state):
        world.console.warn(said)


@contextmanager
def tracked_evaluation(world: World) -> Iterator[None]:
    """The trackers of a run, while one of its checkpoints is evaluated.

    They go on with what they have of the whole run, and end as that has ended. They are left alone
    where another process uses them, as it trains.
    """
    run = None if world.store is None else world.store.run
    if world.machine.ranks.rank or not world.trackers or not _free(world, run):
        yield
        return
    begun = Begun() if run is None else Begun(run, config_of(run), _last(run), resumed=True)
    world.senders = [_started(each, begun) for each in world.trackers]
    try:
        yield
    finally:
        _finish(world, _state(run))


def _free(world: World, run: Path | None) -> bool:
    held = None if run is None else owner(run)
    if held is None or held.owns is False:
        return True
    world.console.warn(f"the trackers get no results: process {held.pid} may be using {run}")
    return False


def _last(run: Path) -> Progress:
    """Where a run stands, by its journal."""
    with suppress(OSError, KeyError, TypeError, ValueError):
        return progress_of(extent(run / JOURNAL).last)
    return Progress()


def _state(run: Path | None) -> str:
    if run is None:
        return "done"
    with suppress(CheckpointError):
        found = read_status(run).get("state")
        return found if found in ("done", "preempted") else "failed"
    return "failed"


def track_evaluation(world: World, state: TrainState) -> None:
    """Send an evaluation's results, `evaluation/{metric}`, at the update of the checkpoint."""
    metrics = {f"evaluation/{name}": state.metrics[name] for name in sorted(state.fresh)}
    for sender in world.senders if metrics else ():
        send(sender, Line(state.now, metrics, "evaluation"))
