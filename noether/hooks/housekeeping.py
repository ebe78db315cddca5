"""Tidying up at moments of one's own choosing, the same on all ranks."""

from noether.callback import Callback, Hook, factory
from noether.effects import Do
from noether.schedules import Schedule, every
from noether.state import TrainState

EVERY = every(updates=1000)


@factory
def collect_garbage(*, schedule: Schedule | None = None) -> Callback:
    """Let Python collect its garbage, by default every 1000 updates.

    Left to itself it collects at another moment on each rank, and all wait for each of them;
    `gc.disable()` before training leaves it to this callback alone.

    >>> str(collect_garbage().schedule)
    'every(updates=1000)'
    """
    return _doing("collect_garbage", _collect, schedule)


@factory
def empty_cache(*, schedule: Schedule | None = None) -> Callback:
    """Give the GPU memory back that torch keeps for later, by default every 1000 updates.

    It helps where memory is in pieces, and costs time: torch has to ask for it again. Without a
    GPU nothing happens.

    >>> empty_cache(schedule=every(epochs=1)).schedule
    every(epochs=1)
    """
    return _doing("empty_cache", _empty, schedule)


def _doing(name: str, ask: Hook, schedule: Schedule | None) -> Callback:
    schedule = EVERY if schedule is None else schedule
    return Callback(name, on_schedule=ask, schedule=schedule, reads=(), writes=(), on_error="warn")


def _collect(state: TrainState) -> Do:
    return Do("collect_garbage")


def _empty(state: TrainState) -> Do:
    return Do("empty_cache")
