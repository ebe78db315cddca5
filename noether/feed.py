"""The feed: which samples each update takes, and the batches of them."""

import hashlib
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import TensorDataset, default_collate

from noether.errors import ConfigurationError
from noether.progress import Progress
from noether.randomness import aside, seed_sample
from noether.schedules.schedule import Pace


@dataclass(frozen=True, slots=True)
class Window:
    """The samples of one update, split into micro-batches."""

    micro_batches: tuple[Sequence[int], ...]
    samples: int
    closes_epoch: bool


@dataclass(frozen=True, slots=True)
class Feed:
    """Training samples in an order that is a pure function of (seed, epoch)."""

    dataset: Any
    length: int
    batch_size: int
    """Samples of one update."""
    accumulate: int
    seed: int
    shuffle: bool
    drop_last: bool
    collate: Callable[[list[Any]], Any] = default_collate
    counters: Mapping[str, Callable[[Any], int]] = field(default_factory=dict)
    """What else is counted: by name, how much of it a batch holds."""

    @property
    def updates_per_epoch(self) -> int:
        """Updates of one epoch; a left-over window is one of them unless it is dropped."""
        if self.drop_last:
            return self.length // self.batch_size
        return math.ceil(self.length / self.batch_size)

    @property
    def samples_per_epoch(self) -> int:
        """Samples that one epoch trains on."""
        return min(self.length, self.updates_per_epoch * self.batch_size)


def feed(
    dataset: Any,
    *,
    batch_size: int,
    accumulate: int,
    collate: Any,
    counters: Mapping[str, Callable[[Any], int]] | None = None,
    **options: Any,
) -> Feed:
    """The feed of a map-style data set; raises ConfigurationError where it can serve none."""
    served = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not served or isinstance(dataset, Mapping):
        raise ConfigurationError(
            [
                f"the training set is a {type(dataset).__name__}; map-style data sets, with "
                "__len__ and __getitem__ by number, are served so far. Of a DataLoader, give the "
                "data set, and batch_size and collate as arguments"
            ]
        )
    options |= {"collate": collate or default_collate, "counters": counters or {}}
    return Feed(dataset, len(dataset), batch_size, accumulate, **options)


def permutation(seed: int, epoch: int, length: int) -> torch.Tensor:
    """The order of the samples in an epoch: int64, shape (length,)."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randperm(length, generator=generator)


def windows(feed: Feed, epoch: int, offset: int) -> Iterator[Window]:
    """The windows of an epoch from its sample `offset` on; nothing before it is loaded."""
    order = permutation(feed.seed, epoch, feed.length) if feed.shuffle else None
    micro = feed.batch_size // feed.accumulate
    end = feed.samples_per_epoch
    for start in range(offset, end, feed.batch_size):
        stop = min(start + feed.batch_size, end)
        indices = range(start, stop) if order is None else order[start:stop].tolist()
        parts = tuple(indices[i : i + micro] for i in range(0, len(indices), micro))
        yield Window(parts, stop - start, stop == end)


def fetch(
    dataset: Any,
    indices: Sequence[int],
    collate: Callable[[list[Any]], Any],
    *,
    seed: int = 0,
    epoch: int = 0,
) -> Any:
    """The batch of these samples; an error names the sample it came from.

    Python's, torch's and numpy's global generators are seeded for each sample (for each batch,
    where the data set gives batches), and are afterwards as they were: random augmentation
    depends on seed, epoch and index alone, and nothing else on it.
    """
    if isinstance(dataset, TensorDataset):  # which draws nothing
        return collate([_sample(dataset, index) for index in indices])
    with aside():
        if hasattr(dataset, "__getitems__"):
            seed_sample(seed, epoch, indices[0])
            return collate(dataset.__getitems__(list(indices)))
        samples = []
        for index in indices:
            seed_sample(seed, epoch, index)
            samples.append(_sample(dataset, index))
        return collate(samples)


def _sample(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except Exception as error:
        error.add_note(f"while loading sample {index} of {type(dataset).__name__}")
        raise


def counted(feed: Feed, batch: Any) -> dict[str, int]:
    """How much of each counter a batch holds; raises ValueError for what is no count."""
    return {name: _amount(name, count(batch)) for name, count in feed.counters.items()}


def _amount(name: str, given: Any) -> int:
    try:
        amount = operator.index(given)
    except TypeError:
        amount = -1
    if amount < 0:
        raise ValueError(f"counter {name!r} gave {given!r} for a batch; expected 0, 1, 2 ...")
    return amount


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on `device`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(part, device) for part in batch)
    if isinstance(batch, Mapping):
        return {key: to_device(part, device) for key, part in batch.items()}
    return batch


def pace(feed: Feed, now: Progress, offset: int, total: Progress) -> Pace:
    """What is known of the updates to come when a run goes on from `now`, in mid-epoch or not."""
    windows, rest = divmod(offset, feed.batch_size)
    # Where the epochs so far had other lengths, only single updates are sure.
    regular = not rest and now.update == now.epoch * feed.updates_per_epoch + windows
    return Pace(total, feed.batch_size, feed.updates_per_epoch if regular else None)


def horizon(feed: Feed, until: Mapping[str, float]) -> Progress:
    """The counts that the run will end with; None for what can't be known beforehand."""
    limits = [reaching(feed, unit, limit) for unit, limit in until.items() if unit in _COUNTED]
    seconds = until.get("seconds")
    if not limits:
        return Progress(None, None, None, seconds)
    return replace(reckoned(feed, min(limits)), seconds=seconds)


def reckoned(feed: Feed, update: int, session: int = 1) -> Progress:
    """The counts at an update of a run that this feed served from its beginning."""
    epoch, rest = divmod(update, max(feed.updates_per_epoch, 1))
    sample = epoch * feed.samples_per_epoch + rest * feed.batch_size
    return Progress(epoch, update, sample, session=session)


_COUNTED = ("epochs", "updates", "samples")


def reaching(feed: Feed, unit: str, limit: float) -> int:
    """The update that reaches `limit` epochs, updates or samples."""
    if unit == "updates":
        return math.ceil(limit)
    if unit == "epochs":
        return math.ceil(limit) * feed.updates_per_epoch
    epochs, rest = divmod(math.ceil(limit), max(feed.samples_per_epoch, 1))
    return epochs * feed.updates_per_epoch + math.ceil(rest / feed.batch_size)
