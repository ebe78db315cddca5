"""One start of the victim: where it is, the moment it is killed in, and what that moment hit."""

import mmap
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import victim
from forks import POLL, Process, alive, forked, kill, ranked

from noether.rundir import CHECKPOINTS

STARTING, TRAINING, CLOSING = range(3)
PHASES = {"start": TRAINING, "update": TRAINING, "end": CLOSING}
START_UP, UPDATE, SAVE, CLOSE = PLACES = ("start-up", "an update", "a save", "the closing tick")
"""Where a kill can land."""

STRIDE = 30
"""Updates that an attempt makes at most before a kill is due."""
NEAR = 0.15
"""Share of the updates before the end in which a kill is often aimed at the closing tick."""
WITHIN = {START_UP: 0.0, UPDATE: 0.02, SAVE: 0.008, CLOSE: 0.03}
"""Seconds after its moment within which a kill comes: a few updates, most of a save, a closing."""
GRACE = 2.0
"""Seconds that the other ranks have to end after one was killed, as a launcher would see to."""
PATIENCE = 60.0
"""Seconds without any progress after which an attempt is taken to hang."""


class AttemptError(Exception):
    """An attempt ended with an error of its own, or hung."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the victim is run, and what of it is killed."""

    updates: int
    ranks: int = 1
    workers: int = 0
    group: bool = False
    """Kill all ranks and workers at once; otherwise one rank's process alone."""
    async_save: bool = False


@dataclass(frozen=True, slots=True)
class Aim:
    """The moment in which a kill is due: at a place, not before an update, some seconds later."""

    place: str
    update: int
    delay: float


def aimed(random: Random, begun: int, total: int, start_up: float) -> Aim | None:
    """Draw when to kill an attempt that goes on from update `begun`; None: it may end."""
    near = total - begun <= NEAR * total
    if near and random.random() < 0.2:
        return None  # else one run that is killed before its end could spend all kills there
    if near and random.random() < 0.5:
        place = CLOSE
    else:
        place = random.choices((START_UP, UPDATE, SAVE), (3, 5, 5))[0]
    update = min(begun + random.randint(0, STRIDE), total)
    within = start_up if place == START_UP else WITHIN[place]
    return Aim(place, total if place == CLOSE else update, random.uniform(0, within))


@dataclass(slots=True)
class Attempt:
    """The ranks of one start, and where the first of them says that it is."""

    series: Path
    processes: list[Process]
    place: mmap.mmap
    begun: float = field(default_factory=time.monotonic)
    start_up: float | None = None
    """Seconds until its opening tick."""
    seen: tuple[int, int] = (STARTING, 0)
    moved: float = field(default_factory=time.monotonic)
    """When it was last seen to have come on."""

    @property
    def folder(self) -> Path:
        return self.series / "1" / CHECKPOINTS


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended."""

    killed: str | None
    """Where a kill hit it; None where none did."""
    update: int
    """The last update it made."""
    seconds: float
    start_up: float | None
    groups: tuple[int, ...]
    """Its processes' groups, in which workers may be left."""


def attempt(
    series: Path, log: Path, options: Options, *, begun: int = 0, aim: Aim | None, random: Random
) -> Ended:
    """Start the victim, let it go on from update `begun`, and kill it at its moment, if it has one.

    Raises AttemptError where it ends otherwise than by that, or done.
    """
    made = _started(series, log, options, begun)
    try:
        killed = _watched(made, aim, options, random)
    finally:
        kill(alive(made.processes), group=True)
    _, update = _where(made)
    place = _hit(made) if killed else None
    groups = tuple(process.pid for process in made.processes)
    return Ended(place, update, time.monotonic() - made.begun, made.start_up, groups)


def _started(series: Path, log: Path, options: Options, begun: int) -> Attempt:
    place = mmap.mmap(-1, mmap.PAGESIZE)  # shared with what is forked
    struct.pack_into("qq", place, 0, STARTING, begun)
    processes = []
    for rank, variables in enumerate(ranked(options.ranks)):
        tell = partial(_tell, place) if rank == 0 else _ignore
        function = partial(
            victim.train,
            series,
            options.updates,
            tell,
            workers=options.workers,
            async_save=options.async_save,
        )
        processes.append(forked(function, log, variables))
    return Attempt(series, processes, place)


def _tell(place: mmap.mmap, where: str, update: int) -> None:
    struct.pack_into("qq", place, 0, PHASES[where], update)


def _ignore(where: str, update: int) -> None: ...


def _where(made: Attempt) -> tuple[int, int]:
    phase, update = struct.unpack_from("qq", made.place, 0)
    return phase, update


def _watched(made: Attempt, aim: Aim | None, options: Options, random: Random) -> bool:
    """Watch it until it ends; gives whether a kill ended it."""
    while alive(made.processes) and not any(process.code for process in made.processes):
        _look(made)
        if aim is not None and _due(aim, made):
            time.sleep(aim.delay)
            if _killed(made, options, random):
                return True
            aim = None  # it was faster
        time.sleep(POLL)
    codes = [process.code for process in made.processes]
    if any(codes):
        raise AttemptError(f"it ended by itself, with the exit codes {codes}")
    return False


def _look(made: Attempt) -> None:
    """See where it is, and when it came there."""
    now, here = time.monotonic(), _where(made)
    if here != made.seen:
        made.seen, made.moved = here, now
    if made.start_up is None and here[0] != STARTING:
        made.start_up = now - made.begun
    if now - made.moved > PATIENCE:
        raise AttemptError(f"it hangs: no progress for {PATIENCE:.0f} s, at update {here[1]}")


def _due(aim: Aim, made: Attempt) -> bool:
    phase, update = made.seen
    if aim.place == START_UP:
        return True
    if phase == STARTING or update < aim.update:
        return False
    return aim.place != SAVE or any(".tmp-" in name for name in _names(made.folder))


def _killed(made: Attempt, options: Options, random: Random) -> bool:
    """Kill what the options say; gives whether any of it was still alive."""
    targets = made.processes if options.group else [random.choice(made.processes)]
    kill(targets, group=options.group)
    if not any(process.code == -9 for process in targets):
        return False
    deadline = time.monotonic() + GRACE
    while alive(made.processes) and time.monotonic() < deadline:
        time.sleep(POLL)
    return True


def _hit(made: Attempt) -> str:
    """The place in which a kill has hit it, as it lies there now."""
    phase, _ = _where(made)
    if phase != TRAINING:
        return START_UP if phase == STARTING else CLOSE
    own = f".tmp-{made.processes[0].pid}-"
    saving = any(own in name or name.startswith(".trash-") for name in _names(made.folder))
    return SAVE if saving else UPDATE


def _names(folder: Path) -> Sequence[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return ()
