"""How far a run goes: counts after an update, limits, and the counts that they end with."""

import math
from collections.abc import Mapping
from dataclasses import replace

from noether.feed.windows import Feed, Window, kind
from noether.progress import Count, Progress
from noether.schedules.schedule import Pace


def advanced(progress: Progress, window: Window) -> Progress:
    """The counts after the window's update."""
    return Progress(
        progress.epoch + window.closes_epoch,
        progress.update + 1,
        progress.sample + window.samples,
        progress.seconds,
        progress.session,
        progress.counters,
    )


def reached(progress: Progress, until: Mapping[str, float]) -> bool:
    """Whether one of the limits is reached."""
    return any(progress.count(unit) >= limit for unit, limit in until.items())


def pace(feed: Feed, now: Progress, offset: int, total: Progress) -> Pace:
    """What is known of the updates to come when a run goes on from `now`, in mid-epoch or not."""
    if feed.length is None:
        # A loader's batches may have any size, and epochs of a stream any length.
        known = feed.batch_size if kind(feed.dataset) == "stream" else None
        return Pace(total, known, None)
    windows, rest = divmod(offset, feed.batch_size)
    # Where the epochs so far had other lengths, only single updates are sure.
    regular = not rest and now.update == now.epoch * feed.updates_per_epoch + windows
    return Pace(total, feed.batch_size, feed.updates_per_epoch if regular else None)


def horizon(feed: Feed, until: Mapping[str, float]) -> Progress:
    """The counts that the run will end with; None for what can't be known beforehand."""
    limits = [reaching(feed, unit, limit) for unit, limit in until.items() if unit in _COUNTED]
    seconds = until.get("seconds")
    if not limits or any(limit is None for limit in limits):
        epochs = until.get("epochs") if len(limits) == 1 else None
        return Progress(epochs, None, None, seconds)
    return replace(reckoned(feed, min(limits)), seconds=seconds)


def reckoned(feed: Feed, update: int, session: int = 1) -> Progress:
    """The counts at an update of a run that this feed served from its beginning."""
    if feed.updates_per_epoch is None:
        return Progress(None, update, None, session=session)
    epoch, rest = divmod(update, max(feed.updates_per_epoch, 1))
    if feed.length is None:
        return Progress(epoch, update, None, session=session)
    sample = epoch * feed.samples_per_epoch + rest * feed.batch_size
    return Progress(epoch, update, sample, session=session)


_COUNTED = ("epochs", "updates", "samples")


def reaching(feed: Feed, unit: str, limit: float) -> Count:
    """The update that reaches `limit` epochs, updates or samples; None where that isn't known."""
    if unit == "updates":
        return math.ceil(limit)
    if unit == "epochs" and feed.updates_per_epoch is not None:
        return int(math.ceil(limit) * feed.updates_per_epoch)
    if unit == "epochs" or feed.length is None:
        return None
    epochs, rest = divmod(math.ceil(limit), max(feed.samples_per_epoch, 1))
    return int(epochs * feed.updates_per_epoch + math.ceil(rest / feed.batch_size))
