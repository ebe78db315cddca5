"""Which samples each update takes: an order that is a pure function of seed and epoch."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from noether.errors import ConfigurationError
from noether.progress import Count

Kind = Literal["samples", "stream", "batches"]


@dataclass(frozen=True, slots=True)
class Window:
    """The samples of one update, split into micro-batches."""

    micro_batches: tuple[Sequence[int], ...]
    """Of each micro-batch the samples over all ranks, numbered within their epoch."""
    samples: int
    closes_epoch: bool


@dataclass(frozen=True, slots=True)
class Feed:
    """Training samples in an order that is a pure function of (seed, epoch)."""

    dataset: Any
    length: Count
    """Samples of an epoch; None: known once it has ended."""
    batch_size: int
    """Samples of one update, over all ranks."""
    accumulate: int
    seed: int
    shuffle: bool
    drop_last: bool
    collate: Callable[[list[Any]], Any] = default_collate
    counters: Mapping[str, Callable[[Any], int]] = field(default_factory=dict)
    """What else is counted: by name, how much of it a batch holds."""
    batches: int | None = None
    """Batches of an epoch, where a loader of the user's own makes them and knows."""
    rank: int = 0
    ranks: int = 1

    @property
    def updates_per_epoch(self) -> Count:
        """Updates of one epoch; a left-over window is one of them unless it is dropped."""
        whole, size = self.length, self.batch_size
        if whole is None:
            whole, size = self.batches, self.accumulate
        if whole is None:
            return None
        return whole // size if self.drop_last else math.ceil(whole / size)

    @property
    def samples_per_epoch(self) -> Count:
        """Samples that one epoch trains on."""
        if self.length is None:
            return None
        return min(self.length, self.updates_per_epoch * self.batch_size)

    @property
    def micro_batch(self) -> int:
        """Samples of a rank's micro-batch."""
        return max(self.batch_size // (self.accumulate * self.ranks), 1)


def kind(dataset: Any) -> Kind | None:
    """How a data set is served: by number, as it comes, or in batches of its own; None: not."""
    if isinstance(dataset, DataLoader):
        return "batches"
    if isinstance(dataset, Mapping | str | bytes | Iterator):
        return None
    numbered = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if numbered and not isinstance(dataset, IterableDataset):
        return "samples"
    return "stream" if isinstance(dataset, Iterable) else None


def unserved(dataset: Any) -> str:
    """Why a data set of no kind can't be served."""
    if isinstance(dataset, Iterator):
        return (
            f"a {type(dataset).__name__}, which can be gone through only once; give an object "
            "whose __iter__ begins anew"
        )
    return (
        f"a {type(dataset).__name__}; expected a data set with __len__ and __getitem__ by number, "
        "an iterable of samples, or a DataLoader"
    )


def size(dataset: Any) -> int | None:
    """Samples of a data set; None: known once it has been gone through."""
    return len(dataset) if kind(dataset) == "samples" else None


def feed(
    dataset: Any,
    *,
    batch_size: int,
    accumulate: int,
    collate: Any,
    counters: Mapping[str, Callable[[Any], int]] | None = None,
    **options: Any,
) -> Feed:
    """The feed of a training set; raises ConfigurationError where it can serve none."""
    served_as = kind(dataset)
    if served_as is None:
        raise ConfigurationError([f"the training set is {unserved(dataset)}"])
    options |= {"collate": collate or default_collate, "counters": counters or {}}
    if served_as == "batches":
        options["batches"] = _known_length(dataset)
    return Feed(dataset, size(dataset), batch_size, accumulate, **options)


def _known_length(loader: Any) -> int | None:
    try:
        return None if isinstance(loader.dataset, IterableDataset) else len(loader)
    except TypeError:
        return None


def permutation(seed: int, epoch: int, length: int) -> torch.Tensor:
    """The order of the samples in an epoch: int64, shape (length,)."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randperm(length, generator=generator)


def windows(feed: Feed, epoch: int, offset: int) -> Iterator[Window]:
    """The windows of an epoch from its sample `offset` on; nothing before it is loaded."""
    order = permutation(feed.seed, epoch, feed.length or 0) if feed.shuffle else None
    end = feed.samples_per_epoch
    for start in range(offset, end, feed.batch_size):
        stop = min(start + feed.batch_size, end)
        indices = range(start, stop) if order is None else order[start:stop].tolist()
        yield Window(micro_batches(feed, indices), stop - start, stop == end)


def micro_batches(feed: Feed, items: Sequence[Any]) -> tuple[Sequence[Any], ...]:
    """The samples of an update, or their numbers, cut into its micro-batches."""
    micro = feed.batch_size // feed.accumulate
    return tuple(items[i : i + micro] for i in range(0, len(items), micro))


def share(items: Sequence[Any], rank: int, ranks: int) -> Sequence[Any]:
    """A rank's part: the ranks' parts are contiguous, in their order, and as even as can be.

    >>> [share("abcde", rank, 3) for rank in range(3)]
    ['a', 'bc', 'de']
    """
    count = len(items)
    return items[rank * count // ranks : (rank + 1) * count // ranks]
