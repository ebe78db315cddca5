"""One worker process that goes through data without numbers, ahead of who wants it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from torch.utils.data import DataLoader

from noether.errors import FeedError
from noether.feed.fetches import Failed, loaded, portable
from noether.feed.pool import Loading, following, unchanged, worker_options

Tag = tuple[int, int]
"""How often the data has been begun, and the item's place in it."""


@dataclass(slots=True)
class Reader:
    """In the worker: the items of what `make` gives, made anew for each round."""

    make: Callable[[], Iterator[Any]]
    round: int = -1
    found: Iterator[Any] = field(default_factory=lambda: iter(()))

    def __getitems__(self, tag: Tag) -> tuple[Tag, Any]:
        """The next item with its tag; None after the last one."""
        try:
            if tag[0] != self.round:
                self.round, self.found = tag[0], self.make()
            return tag, next(self.found, None)
        except Exception as error:
            return tag, Failed(portable(error))


@dataclass(slots=True)
class Rounds:
    """The tags of a round's items, without end."""

    number: int = 0

    def __iter__(self) -> Iterator[Tag]:
        return ((self.number, place) for place in count())


@dataclass(slots=True)
class Elsewhere:
    """A worker that makes items, and stays from one round to the next."""

    loader: Any
    rounds: Rounds
    found: Loading | None = None


def elsewhere(make: Callable[[], Iterator[Any]], *, pin: bool) -> Elsewhere:
    """A worker that makes the items of what `make` gives."""
    rounds: Any = Rounds()
    options = {"num_workers": 1, "persistent_workers": True, **worker_options(pin=pin)}
    reader: Any = Reader(make)  # a data set by what it can do
    loader = DataLoader(reader, batch_sampler=rounds, collate_fn=unchanged, **options)
    return Elsewhere(loader, rounds)


def items(reading: Elsewhere) -> Iterator[Any]:
    """The items from the first one on, each checked to be the next."""
    reading.rounds.number += 1
    if reading.found is None or reading.found.error is None:
        reading.found = Loading(iter(reading.loader))
    for wanted in reading.rounds:
        tag, item = following(reading.found)
        if tag != wanted:
            raise FeedError(f"asked for item {wanted} of an iterable, found {tag}")
        if item is None:
            return
        yield loaded(item)
