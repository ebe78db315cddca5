"""Samples become a batch, and the batch is counted and moved."""

import operator
from array import array
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils.data import TensorDataset, default_collate

from noether.feed.windows import Feed
from noether.randomness import aside, seed_sample

P = ParamSpec("P")
T = TypeVar("T")
Seconds = Mapping[str, float]
"""What loading took, by part, as far as it is known: `getitem`, the data set's, and `collate`."""


def timed(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """What a call gives, and its seconds: not by the run's clock, which no worker has."""
    begun = perf_counter()
    return function(*args, **kwargs), perf_counter() - begun


def fetch(
    dataset: Any,
    indices: Sequence[int],
    collate: Callable[[list[Any]], Any],
    *,
    seed: int = 0,
    epoch: int = 0,
) -> tuple[Any, Seconds]:
    """The batch of these samples, and its seconds; an error names the sample it came from.

    Python's, torch's and numpy's global generators are seeded for each sample (for each batch,
    where the data set gives batches), and are afterwards as they were: random augmentation
    depends on seed, epoch and index alone, and nothing else on it. The seeding is no part of
    `getitem`. Rows gathered from whole tensors are never collated: they have no `collate`.
    """
    # Neither of the two draws anything, and together they only gather rows.
    if type(dataset) is TensorDataset and collate is default_collate:
        batch, getitem = timed(_rows, dataset, indices)
        return batch, {"getitem": getitem}
    with aside():
        samples, getitem = _samples(dataset, indices, seed, epoch)
        batch, collating = timed(collate, samples)
    return batch, {"getitem": getitem, "collate": collating}


def _samples(
    dataset: Any, indices: Sequence[int], seed: int, epoch: int
) -> tuple[list[Any], float]:
    """The samples, and the seconds that the data set took for them."""
    if hasattr(dataset, "__getitems__"):
        seed_sample(seed, epoch, indices[0])
        return timed(dataset.__getitems__, list(indices))
    samples, spent = [], 0.0
    for index in indices:
        seed_sample(seed, epoch, index)
        sample, seconds = _sample(dataset, index)
        samples.append(sample)
        spent += seconds
    return samples, spent


def _rows(dataset: "TensorDataset", indices: Sequence[int]) -> list[torch.Tensor]:
    """What `default_collate` makes of these samples of whole tensors."""
    chosen = torch.frombuffer(array("q", indices), dtype=torch.int64)  # a third of `tensor`'s time
    return [whole.index_select(0, chosen.to(whole.device)) for whole in dataset.tensors]


def _sample(dataset: Any, index: int) -> tuple[Any, float]:
    begun = perf_counter()
    try:
        return dataset[index], perf_counter() - begun
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


def samples_in(batch: Any) -> int:
    """How many samples a batch of a user's own loader holds: the length of what is first in it.

    >>> samples_in((torch.zeros(3, 2), torch.zeros(3))), samples_in({"text": ["a", "b"]})
    (3, 2)
    """
    if isinstance(batch, torch.Tensor) and batch.ndim:
        return len(batch)
    if isinstance(batch, Mapping) and batch:
        return samples_in(next(iter(batch.values())))
    if isinstance(batch, list | tuple) and batch:
        first = batch[0]
        return samples_in(first) if isinstance(first, torch.Tensor | Mapping | list) else len(batch)
    raise ValueError(
        f"the samples of a batch, a {type(batch).__name__}, can't be counted; expected a tensor "
        "with a first dimension, or a mapping, list or tuple that begins with one. Or give the "
        "data set instead of the loader, with `batch_size` and `collate`"
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on `device`."""
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def copied(batch: Any) -> Any:
    """The batch with tensors and containers of its own."""
    return mapped(batch, torch.clone)


def mapped(batch: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The batch with `function` of every tensor in it."""
    if isinstance(batch, torch.Tensor):
        return function(batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(part, function) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(mapped(part, function) for part in batch)
    if isinstance(batch, Mapping):
        return {key: mapped(part, function) for key, part in batch.items()}
    return batch
