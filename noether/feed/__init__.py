"""The feed: what serves training and evaluation batches."""

from noether.feed.horizon import advanced, horizon, pace, reached, reaching, reckoned
from noether.feed.samples import copied, counted, fetch, samples_in, to_device
from noether.feed.windows import Feed, Window, feed, kind, permutation, size, windows

__all__ = [
    "Feed",
    "Window",
    "advanced",
    "copied",
    "counted",
    "feed",
    "fetch",
    "horizon",
    "kind",
    "pace",
    "permutation",
    "reached",
    "reaching",
    "reckoned",
    "samples_in",
    "size",
    "to_device",
    "windows",
]
