"""What a session is served with: the batches of its updates and of its passes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from noether.callback import DataPass
from noether.feed.fetches import (
    TRAINING,
    Fetch,
    Loaded,
    Shelf,
    in_process,
    pass_fetches,
    training_fetches,
)
from noether.feed.pool import Pool, close_pool, end, passed, pool, trained
from noether.feed.reader import Elsewhere, elsewhere, items
from noether.feed.streams import Part, pass_batches, stream
from noether.feed.windows import Feed, Window, kind, windows
from noether.progress import Progress

Update = tuple[Window, Iterator[Part]]
"""An update's window, and this rank's parts of it, loaded as they are asked for."""

Batch = tuple[int, int, Any]
"""A batch of a pass with its number and its samples; 0 where it only stands in."""


@dataclass(slots=True)
class Server:
    """Serves the batches of a run; whatever loads them, they are the same."""

    feed: Feed
    datasets: Mapping[str, Any]
    shelf: Shelf
    workers: int
    pin: bool
    lockstep: bool
    """Whether all ranks need equally many batches in a pass."""
    pool: Pool | None = None
    """Of numbered data, where there are workers."""
    readers: dict[Any, Elsewhere] = field(default_factory=dict)
    """Of iterables, where there are workers."""
    flow: Iterator[Any] | None = None
    """The updates of training data without numbers, from one epoch to the next."""


def server(
    feed: Feed,
    datasets: Mapping[str, Any],
    ahead: Iterable[Fetch] | None,
    *,
    workers: int = 0,
    pin: bool = False,
    lockstep: bool = False,
) -> Server:
    """A session's server; its workers load beforehand what is known to be `ahead`."""
    shelf = Shelf({TRAINING: feed.dataset, **datasets}, feed.collate)
    made = Server(feed, datasets, shelf, workers, pin, lockstep)
    if workers:
        made.pool = pool(shelf, ahead, workers, pin=pin)
    return made


def close(server: Server) -> None:
    """End the workers."""
    for reading in server.readers.values():
        end(reading.found)
    if server.pool is not None:
        close_pool(server.pool)


def updates(server: Server, now: Progress, offset: int) -> Iterator[Update]:
    """The updates of the present epoch from its sample `offset` on."""
    if kind(server.feed.dataset) == "samples":
        return _numbered(server, now, offset)
    if server.flow is None:
        make = partial(stream, server.feed, now.epoch, offset)
        server.flow = _read(server, TRAINING, server.feed.dataset, make)
    return _flowing(server.flow)


def _numbered(server: Server, now: Progress, offset: int) -> Iterator[Update]:
    ranks = server.feed.ranks
    for update, window in enumerate(windows(server.feed, now.epoch, offset), now.update + 1):
        wanted = training_fetches(server.feed, window, now.epoch, update)
        shares = [ranks * _counting(each) / window.samples for each in wanted]
        pool = server.pool
        found = in_process(server.shelf, wanted) if pool is None else trained(pool, wanted)
        yield window, map(_part, found, shares)


def _part(loaded: Loaded, share: float) -> Part:
    batch, seconds = loaded
    return Part(batch, share, seconds)


def _flowing(flow: Iterator[Any]) -> Iterator[Update]:
    for window, parts in flow:
        if window is not None:
            yield window, iter(parts)
        if window is None or window.closes_epoch:
            return


def batches(server: Server, data: DataPass, update: int, *, foreseen: bool) -> Iterator[Batch]:
    """This rank's batches of a pass that is made after an update."""
    source = server.datasets[data.dataset]
    if kind(source) != "samples":
        make = partial(pass_batches, source, data, server.feed)
        return _read(server, data.source, source, make)
    wanted = pass_fetches(server.feed, data, len(source), update, lockstep=server.lockstep)
    return _loaded(server, wanted, foreseen=foreseen)


def _loaded(server: Server, wanted: Sequence[Fetch], *, foreseen: bool) -> Iterator[Batch]:
    """The batches; whatever goes wrong does so when one is asked for."""
    if server.pool is None:
        found = in_process(server.shelf, wanted)
    else:
        found = passed(server.pool, wanted, foreseen=foreseen)
    for each, (batch, _) in zip(wanted, found, strict=True):
        yield each.number, _counting(each), batch


def _counting(fetch: Fetch) -> int:
    return 0 if fetch.stands_in else len(fetch.indices)


def _read(
    server: Server, key: Any, source: Any, make: Callable[[], Iterator[Any]]
) -> Iterator[Any]:
    """What `make` gives, from a worker of its own; a user's loader has workers already."""
    if not server.workers or kind(source) == "batches":
        return make()
    if key not in server.readers:
        server.readers[key] = elsewhere(make, pin=server.pin)
    return items(server.readers[key])
