"""Ending a run in time: before a budget is used up, or before the machine is taken away."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from noether.callback import Callback, factory
from noether.effects import Stop
from noether.state import TrainState


@dataclass(frozen=True, slots=True)
class Pause:
    """The longest that passes and saves together took between two updates, in seconds."""

    longest: float = 0.0


def _paused(state: TrainState) -> Pause:
    return Pause()


@factory
def time_limit(
    *, hours: float = 0, minutes: float = 0, seconds: float = 0, margin: float | None = None
) -> Callback:
    """Stop when so much training time is used up, over all sessions together, less a margin.

    A session that begins then makes no update.

    margin: seconds kept for what follows the stop; by default twice the longest pause so far, in
        which passes and saves were made.

    Raises ValueError for a limit that is not positive, or a negative margin.

    >>> time_limit(hours=23, minutes=30).name
    'time_limit'
    """
    limit = 3600 * hours + 60 * minutes + seconds
    if min(hours, minutes, seconds) < 0 or not limit > 0 or not _margin(margin):
        raise ValueError(
            f"time_limit: {hours} hours, {minutes} minutes, {seconds} seconds, margin {margin}; "
            "expected a positive time, and a margin of 0 or more"
        )

    def look(state: TrainState, seen: Pause) -> tuple[Pause, Stop | None]:
        seen = _longer(state, seen)
        kept = 2 * seen.longest if margin is None else margin
        if state.now.seconds + kept < limit:
            return seen, None
        return seen, Stop(f"{state.now.seconds:.0f} s of {limit:.0f} s are used, {kept:.0f} s kept")

    return _looking("time_limit", look)


def _looking(name: str, look: Callable[[TrainState, Pause], tuple[Pause, Stop | None]]) -> Callback:
    """Looks after each update, and before the first one of a session, which may come too late."""
    return Callback(
        name,
        init=_paused,
        before_training=look,
        after_update=look,
        reads=(),
        writes=(),
        critical=True,
    )


def _margin(seconds: float | None) -> bool:
    """Whether it is none, or a number of seconds."""
    return seconds is None or 0 <= seconds < math.inf


def _longer(state: TrainState, seen: Pause) -> Pause:
    pause = state.timings.get("pause", 0.0)
    return Pause(pause) if pause > seen.longest else seen


@factory
def deadline(*, at: str, margin: float | None = None) -> Callback:
    """Stop in time before a moment, `at="2026-12-24T18:00:00+01:00"`, less a margin.

    Looks at the wall clock after each update, and before the first one of each session; of several
    ranks the first whose clock says so ends the run, a tick later. margin: as for `time_limit`.

    Raises ValueError for a time without a zone, or a negative margin.

    >>> deadline(at="2026-12-24T18:00:00+01:00").name
    'deadline'
    """
    moment = _moment(at)
    if not _margin(margin):
        raise ValueError(f"deadline: margin is {margin}; expected seconds, 0 or more")

    def look(state: TrainState, seen: Pause) -> tuple[Pause, Stop | None]:
        seen = _longer(state, seen)
        kept = 2 * seen.longest if margin is None else margin
        near = time.time() + kept >= moment
        return seen, Stop(f"{at} is near, {kept:.0f} s kept") if near else None

    return _looking("deadline", look)


def _moment(at: str) -> float:
    """An ISO time as seconds since 1970."""
    try:
        parsed = datetime.fromisoformat(at)
    except (TypeError, ValueError):
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise ValueError(
            f"deadline: at is {at!r}; expected a time with its zone, 2026-12-24T18:00:00+01:00 say"
        )
    return parsed.timestamp()
