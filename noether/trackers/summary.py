"""What is left of a metric when a run is over."""

import math
from collections.abc import Mapping

from noether.live import better
from noether.trackers.tracker import Summary

NEUTRAL = (
    *("optim/", "profiler/", "profiling/", "train_time/", "lossdiff/", "gradient/", "loss_weight/"),
    *("ctx/", "detach/", "memory/", "norms/", "throughput/", "time/", "system/", "checkpoint/"),
)
"""Beginnings of metrics that are neither good nor bad, of which nothing is summed up."""


def summed(known: Mapping[str, Summary], metrics: Mapping[str, float]) -> dict[str, Summary]:
    """The summaries, these values taken in; those that are not finite only count as the last.

    >>> summed(summed({}, {"loss": 2.0}), {"loss": 3.0})["loss"]
    Summary(min=2.0, max=3.0, last=3.0, best=2.0)
    """
    found = dict(known)
    for name, value in metrics.items():
        if not name.startswith(NEUTRAL):
            found[name] = _with(found.get(name), name, value)
    return found


def _with(known: Summary | None, name: str, value: float) -> Summary:
    low, high, best = (
        (math.inf, -math.inf, None) if known is None else (known.min, known.max, known.best)
    )
    if math.isfinite(value):
        low, high = min(low, value), max(high, value)
        best = value if better(value, best, name) else best
    return Summary(low, high, value, best)
