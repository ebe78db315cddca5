"""Batches by number: what each is for and which samples it holds, known before it is loaded."""

import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from noether.callback import DataPass
from noether.feed.samples import Seconds, fetch
from noether.feed.windows import Feed, Window, share

Loaded = tuple[Any, Seconds]
"""A batch, and the seconds that loading it took, wherever it was loaded."""

TRAINING = ""
"""The training set's name among the data sets of a run."""

PASS_SEED = 0
"""Each pass draws the same random numbers, whenever it is made."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """The tag of a batch: what it is for, and which samples it holds."""

    dataset: str
    update: int
    """The update it is trained on in, or after which the pass is made."""
    number: int
    """Its place in the update or in the pass."""
    indices: Sequence[int]
    seed: int
    epoch: int
    """What random augmentation is seeded with, beside the seed and the sample's number."""
    stands_in: bool = False
    """Whether it counts for nothing, and is there for this rank to take part with."""

    def __str__(self) -> str:
        what = f"the pass over {self.dataset!r} at" if self.dataset else "training,"
        return f"batch {self.number} of {what} update {self.update}"


def training_fetches(feed: Feed, window: Window, epoch: int, update: int) -> list[Fetch]:
    """This rank's batches of an update; one that no sample is left for stands in."""
    made = []
    for number, whole in enumerate(window.micro_batches):
        own = share(whole, feed.rank, feed.ranks)
        tag = (TRAINING, update, number, own or whole[:1], feed.seed, epoch)
        made.append(Fetch(*tag, stands_in=not own))
    return made


def pass_fetches(
    feed: Feed, data: DataPass, length: int, update: int, *, lockstep: bool = False
) -> list[Fetch]:
    """This rank's batches of a pass over `length` samples: a contiguous part of all its batches.

    In `lockstep` each rank has equally many, some of which may stand in.
    """
    size = data.batch_size or feed.micro_batch
    own = pass_numbers(feed, data, length)
    made = [_pass_fetch(data, length, size, update, number) for number in own]
    if lockstep and length:
        longest = -(-len(_all_numbers(feed, data, length)) // feed.ranks)
        extra = _pass_fetch(data, length, size, update, 0, stands_in=True)
        made += [extra] * (longest - len(own))
    return made


def pass_numbers(feed: Feed, data: DataPass, length: int) -> Sequence[int]:
    """The numbers of this rank's batches of a pass."""
    return share(_all_numbers(feed, data, length), feed.rank, feed.ranks)


def _all_numbers(feed: Feed, data: DataPass, length: int) -> Sequence[int]:
    size = data.batch_size or feed.micro_batch
    return range(-(-length // size))[: most(feed, data)]


def most(feed: Feed, data: DataPass) -> int | None:
    """How many batches a pass has at most: as many samples on any number of ranks."""
    if data.limit is None or data.batch_size is not None:
        return data.limit
    return data.limit * feed.ranks


def _pass_fetch(
    data: DataPass, length: int, size: int, update: int, number: int, *, stands_in: bool = False
) -> Fetch:
    indices = range(number * size, min((number + 1) * size, length))
    return Fetch(data.dataset, update, number, indices, PASS_SEED, 0, stands_in)


@dataclass(frozen=True, slots=True)
class Failed:
    """A batch that could not be loaded: the error, raised by whoever wants the batch."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Shelf:
    """The data sets of a run by name, and how their samples become a batch."""

    datasets: Mapping[str, Any]
    collate: Callable[[list[Any]], Any]

    def __getitems__(self, wanted: Fetch) -> tuple[Fetch, Any]:
        """What was loaded, with its tag, wherever it is loaded; what a DataLoader asks for."""
        try:
            return wanted, load(self, wanted)
        except Exception as error:
            return wanted, Failed(portable(error))


def load(shelf: Shelf, wanted: Fetch) -> Loaded:
    """The batch of a tag, and its seconds; an error names the sample it came from."""
    dataset, indices = shelf.datasets[wanted.dataset], wanted.indices
    return fetch(dataset, indices, shelf.collate, seed=wanted.seed, epoch=wanted.epoch)


def portable(error: Exception) -> Exception:
    """The error as one that can leave its process, its traceback as a note."""
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    try:
        again: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        again = RuntimeError(f"{type(error).__name__}: {error}")
        again.__notes__ = error.__notes__
    return again


def loaded(found: Any) -> Any:
    """What was loaded, or its error raised."""
    if isinstance(found, Failed):
        raise found.error
    return found


def in_process(shelf: Shelf, wanted: Sequence[Fetch]) -> Iterator[Loaded]:
    """The batches, loaded here when they are asked for."""
    return map(partial(load, shelf), wanted)
