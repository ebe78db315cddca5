"""Worker processes that load batches ahead of time, in the order that was foreseen."""

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from noether.errors import FeedError
from noether.feed.fetches import TRAINING, Fetch, Loaded, Shelf, loaded


@dataclass(slots=True)
class Pool:
    """The workers' batches: a stream in the order foreseen, and what could not be foreseen."""

    shelf: Any
    options: dict[str, Any]
    stream: "Loading"
    head: deque[tuple[Fetch, Any]] = field(default_factory=deque)
    """The stream's next batch, once it was looked at."""
    wanted: Any = field(default_factory=list)
    """What `others` shall load next."""
    others: Any = None
    """A loader whose workers stay, for what the stream does not hold."""
    extra: "Loading | None" = None
    """Its batches."""


@dataclass(slots=True)
class Loading:
    """What a loader's workers are at."""

    batches: Any
    error: Exception | None = None
    """What went wrong with the workers themselves."""


def following(loading: Loading) -> Any:
    """The next of a loader's batches, waited for; None at their end.

    Workers that have failed once are not asked again: a message half received would be waited for
    without end.
    """
    if loading.error is not None:
        raise FeedError(f"the workers have failed before: {loading.error}") from loading.error
    try:
        return next(loading.batches, None)
    except Exception as error:
        loading.error = error
        raise


def pool(shelf: Shelf, ahead: Any, workers: int, *, pin: bool) -> Pool:
    """Workers that load beforehand the fetches that are `ahead`; None: not known."""
    options = {"num_workers": workers, "collate_fn": unchanged, **worker_options(pin=pin)}
    served: Any = shelf  # a data set by what it can do
    if ahead is None:
        return Pool(served, options, Loading(iter(())))
    loader: DataLoader[Any] = DataLoader(served, batch_sampler=ahead, **options)
    return Pool(served, options, Loading(iter(loader)))


def worker_options(*, pin: bool) -> dict[str, Any]:
    """What every loader of ours is made with: it draws no random number of training's."""
    return {
        "worker_init_fn": partial(deaf, os.getpid()),
        "pin_memory": pin,
        "generator": torch.Generator(),
    }


def unchanged(batch: Any) -> Any:
    """The batch as it is: it was collated where it was loaded."""
    return batch


PARENT_DEATH_SIGNAL = 1
"""The option of Linux's `prctl`."""


def deaf(parent: int, worker: int) -> None:
    """Let signals end the run in the main process, which then ends its workers."""
    _end_with(parent)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _end_with(parent: int) -> None:
    """Let no worker outlive its process, not even one killed before torch begins to watch it."""
    with suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if multiprocessing.get_start_method() == "fork" and os.getppid() != parent:
        os._exit(1)


def trained(pool: Pool, wanted: Sequence[Fetch]) -> Iterator[Loaded]:
    """The batches of an update. Raises FeedError where the stream holds anything else."""
    for each in wanted:
        _drop_passes(pool)
        yield _next(pool, each)


def passed(pool: Pool, wanted: Sequence[Fetch], *, foreseen: bool) -> Iterator[Loaded]:
    """The batches of a pass: from the stream where it is there, else from workers that stay."""
    if not wanted:
        return iter(())
    if foreseen and _found(pool, wanted[0]):
        return (_next(pool, each) for each in wanted)
    return _others(pool, wanted)


def close_pool(pool: Pool) -> None:
    """End the workers."""
    end(pool.stream)
    end(pool.extra)
    pool.head.clear()


def end(loading: Loading | None) -> None:
    """End the workers, whatever they are at."""
    batches: Any = None if loading is None else loading.batches
    # Left to garbage collection, workers live as long as a traceback refers to them; and as they
    # are deaf to SIGTERM, one that is stuck would keep the process from ending.
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()
        for worker in batches._workers:
            if worker.is_alive():
                worker.kill()


def _peek(pool: Pool) -> tuple[Fetch, Any] | None:
    """The stream's next batch, waited for; None at its end."""
    if not pool.head:
        pool.head.extend(item for item in [following(pool.stream)] if item is not None)
    return pool.head[0] if pool.head else None


def _drop_passes(pool: Pool) -> None:
    """Leave out passes that were foreseen and not made, or not to their end."""
    while (found := _peek(pool)) is not None and found[0].dataset != TRAINING:
        pool.head.popleft()


def _found(pool: Pool, wanted: Fetch) -> bool:
    """Whether the stream comes to the batch before it goes on to training."""
    while (found := _peek(pool)) is not None and found[0].dataset != TRAINING:
        if found[0] == wanted:
            return True
        pool.head.popleft()
    return False


def _next(pool: Pool, wanted: Fetch) -> Loaded:
    """The stream's next batch, which must be the wanted one."""
    found = _peek(pool)
    if found is None:
        raise FeedError(f"asked for {wanted}; the stream of batches has ended")
    pool.head.popleft()
    return _checked(wanted, *found)


def _others(pool: Pool, wanted: Sequence[Fetch]) -> Iterator[Loaded]:
    if pool.others is None:
        pool.others = DataLoader(
            pool.shelf,
            batch_sampler=pool.wanted,
            persistent_workers=True,
            **pool.options,
        )
    pool.wanted[:] = wanted
    if pool.extra is None or pool.extra.error is None:
        pool.extra = Loading(iter(pool.others))
    found = pool.extra
    return (_checked(each, *following(found)) for each in wanted)


def _checked(wanted: Fetch, found: Fetch, item: Any) -> Loaded:
    """The batch, if its tag is the wanted one. Raises FeedError, or what loading it raised."""
    if found != wanted:
        raise FeedError(f"asked for {wanted}, found {found}")
    batch, seconds = loaded(item)
    return batch, seconds
