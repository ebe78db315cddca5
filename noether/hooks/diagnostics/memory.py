"""What lies in the GPU's memory, and who put it there."""

from noether.callback import Callback, factory
from noether.effects import Do
from noether.schedules import at
from noether.state import TrainState

END = Do("record_memory", {"max_entries": 0})


@factory
def memory_snapshot(*, start: int = 5, updates: int = 3, max_entries: int = 100_000) -> Callback:
    """Write a snapshot of the GPU's memory, with what was allocated in `updates` updates.

    From update `start` on torch records each allocation with the lines of Python that asked for
    it, `max_entries` of them at most, the newest; after so many updates they are written as
    `memory_U{first}-{last}.pickle`, for pytorch.org/memory_viz, and recording ends. A run that
    ends before that writes what there is; one that goes on within records the rest. Without a
    GPU of CUDA nothing happens.

    Raises ValueError for an option below 1.

    >>> str(memory_snapshot(start=10, updates=5).schedule)
    'at(updates=[9, 14])'
    """
    _check("memory_snapshot", start=start, updates=updates, max_entries=max_entries)
    first, last = start - 1, start + updates - 1
    record = Do("record_memory", {"max_entries": max_entries})

    def begin(state: TrainState) -> Do | None:
        return record if first <= state.now.update < last else None

    def switch(state: TrainState) -> list[Do]:
        return [record] if state.now.update == first else _ended(start, state.now.update)

    def end(state: TrainState) -> list[Do]:
        update = state.now.update
        ended = _ended(start, update) if update > first else [END]
        return ended if first <= update < last else []

    return Callback(
        "memory_snapshot",
        before_training=begin,
        on_schedule=switch,
        after_training=end,
        schedule=at(updates=[first, last] if first else last),
        reads=(),
        writes=(),
        on_error="warn",
    )


@factory
def oom_observer(*, max_entries: int = 100_000) -> Callback:
    """Write a snapshot of the GPU's memory when it is full, and let the error go on.

    All through the run torch records each allocation, the `max_entries` newest, which takes a
    little time and memory of the host. An error that says "out of memory" writes them as
    `out_of_memory_U{u}.pickle`, for pytorch.org/memory_viz. A `memory_snapshot` beside it ends
    the recording after its window; the snapshot then tells what is allocated, not by whom.

    Raises ValueError for `max_entries` below 1.

    >>> oom_observer().name
    'oom_observer'
    """
    _check("oom_observer", max_entries=max_entries)

    def record(state: TrainState) -> Do:
        return Do("record_memory", {"max_entries": max_entries})

    return Callback(
        "oom_observer",
        before_training=record,
        on_exception=_snapshot,
        after_training=_end,
        reads=(),
        writes=(),
        on_error="warn",
    )


def _snapshot(state: TrainState) -> Do | None:
    if "out of memory" not in (state.exception or "").lower():
        return None
    return Do("snapshot_memory", {"name": f"out_of_memory_U{state.now.update}"})


def _end(state: TrainState) -> Do:
    return END


def _ended(first: int, last: int) -> list[Do]:
    return [Do("snapshot_memory", {"name": f"memory_U{first}-{last}"}), END]


def _check(callback: str, **given: int) -> None:
    for option, value in given.items():
        if value < 1:
            raise ValueError(f"{callback}: {option} is {value}; expected 1 or more")
