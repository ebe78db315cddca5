"""Data without numbers: iterables of samples, and loaders of the user's own."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from noether.callback import DataPass
from noether.errors import FeedError
from noether.feed.fetches import PASS_SEED, most
from noether.feed.samples import Seconds, samples_in, timed
from noether.feed.windows import Feed, Window, kind, micro_batches, share
from noether.randomness import aside, seed_sample

Unit = tuple[Any, float]
"""A sample, or a batch of a user's own loader, and the seconds until it was there."""


@dataclass(frozen=True, slots=True)
class Part:
    """This rank's part of a micro-batch."""

    batch: Any
    share: float
    """Its samples as a share of the update's, times the ranks: their mean is the exact mean."""
    seconds: Seconds
    """What loading it took; of an iterable all ranks read each sample, and each counts them all."""


def units(source: Iterable[Any], seed: int, epoch: int) -> Iterator[Unit]:
    """What an iterable gives, the generators seeded before each step."""
    number = seed_sample(seed, epoch, 0)
    if kind(source) == "batches":
        _seed_loader(source, number, epoch)
    found, opening = timed(iter, source)
    for position in count():
        seed_sample(seed, epoch, position)
        try:
            unit, seconds = timed(next, found)
        except StopIteration:
            return
        yield unit, opening + seconds
        opening = 0.0


def _seed_loader(loader: Any, number: int, epoch: int) -> None:
    """Let a user's loader shuffle by the epoch alone, whatever it shuffles with."""
    batches: Any = loader.batch_sampler
    parts: list[Any] = [loader, loader.sampler, batches, getattr(batches, "sampler", None)]
    for part in parts:
        if getattr(part, "generator", None) is not None:
            part.generator.manual_seed(number)
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


def taken(found: Iterator[Unit], many: int) -> list[Unit]:
    """The next of them, the generators as before afterwards."""
    with aside():
        return list(islice(found, many))


def groups(
    found: Iterator[Unit], full: int, *, drop_last: bool
) -> Iterator[tuple[list[Unit], bool]]:
    """Groups of `full` units, each with whether it is the last; a left-over one may be dropped.

    An error within a group comes after the group before it.
    """
    coming = taken(found, full)
    while coming and not (drop_last and len(coming) < full):
        group = coming
        try:
            coming = taken(found, full)
        except Exception:
            yield group, False
            raise
        last = not coming or (drop_last and len(coming) < full)
        yield group, last
        if last:
            return


def stream(feed: Feed, epoch: int, offset: int) -> Iterator[tuple[Window | None, list[Part]]]:
    """The updates of every epoch from a sample on, this rank's part of each loaded.

    None, where nothing is left of the epoch to begin with.
    """
    while True:
        served = False
        for window, parts in _epoch(feed, epoch, offset):
            served = True
            yield window, parts
        if not served and not offset:
            raise FeedError(f"the training set gave no update in epoch {epoch}")
        if not served:
            yield None, []
        epoch, offset = epoch + 1, 0


def _epoch(feed: Feed, epoch: int, offset: int) -> Iterator[tuple[Window, list[Part]]]:
    batched = kind(feed.dataset) == "batches"
    found = units(feed.dataset, feed.seed, epoch)
    done = _skipped(found, offset, samples_in if batched else _one)
    full = feed.accumulate if batched else feed.batch_size
    for group, last in groups(found, full, drop_last=feed.drop_last):
        micro = group if batched else micro_batches(feed, group)
        sizes = [samples_in(each[0]) if batched else len(each) for each in micro]
        window = Window(_numbers(done, sizes), sum(sizes), last)
        done += window.samples
        if batched:
            parts = zip(micro, sizes, strict=True)
            # Such a loader may have workers of its own, and what they do takes no time here.
            yield window, [Part(batch, size / window.samples, {}) for (batch, _), size in parts]
        else:
            tagged = zip(micro, window.micro_batches, strict=True)
            yield window, [_part(feed, each, n[0], epoch, window) for each, n in tagged]


def _one(sample: Any) -> int:
    return 1


def _skipped(found: Iterator[Unit], offset: int, measure: Callable[[Any], int]) -> int:
    """The samples gone by once those before `offset` are, which have to be loaded for it."""
    done = 0
    while done < offset and (units := taken(found, 1)):
        done += measure(units[0][0])
    return done


def _numbers(begin: int, sizes: list[int]) -> tuple[range, ...]:
    ends = [begin + sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(range(end - size, end) for end, size in zip(ends, sizes, strict=True))


def _part(feed: Feed, units: Sequence[Unit], number: int, epoch: int, window: Window) -> Part:
    own = share(units, feed.rank, feed.ranks)
    weight = feed.ranks * len(own) / window.samples
    batch, collating = _collated(feed, own or units[:1], feed.seed, epoch, number)
    getitem = sum(seconds for _, seconds in units)
    return Part(batch, weight, {"getitem": getitem, "collate": collating})


def _collated(feed: Feed, units: Sequence[Unit], seed: int, epoch: int, number: int) -> Unit:
    """The batch, and the seconds of collating it, which draws what depends on its place alone."""
    with aside():
        seed_sample(seed, epoch, number)
        return timed(feed.collate, [sample for sample, _ in units])


def pass_batches(source: Any, data: DataPass, feed: Feed) -> Iterator[tuple[int, int, Any]]:
    """This rank's batches of a pass, each with its number and its samples.

    All ranks read all of it, and take its batches in turn.
    """
    batched = kind(source) == "batches"
    found = units(source, PASS_SEED, 0)
    full = 1 if batched else data.batch_size or feed.micro_batch
    for number in count() if (limit := most(feed, data)) is None else range(limit):
        if not (group := taken(found, full)):
            return
        if number % feed.ranks == feed.rank:
            batch, _ = group[0] if batched else _collated(feed, group, PASS_SEED, 0, number)
            yield number, samples_in(batch) if batched else len(group), batch
