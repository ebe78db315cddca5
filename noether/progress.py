"""Where a run stands: completed counts, read-only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Count: TypeAlias = int | Any
"""An int; None where a horizon does not know the count."""

UNITS: Mapping[str, str] = {
    "epochs": "epoch",
    "updates": "update",
    "samples": "sample",
    "seconds": "seconds",
}
"""The plural that schedules and limits are written in, and the field that counts it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Completed counts of a run; as a horizon, the counts it will end with (None: not known).

    >>> Progress(epoch=1, update=30, sample=1900).count("updates")
    30
    """

    epoch: Count = 0
    update: Count = 0
    sample: Count = 0
    """Training samples over all ranks, counted."""
    seconds: float | Any = 0.0
    """Training time summed over sessions, down-time excluded."""
    session: int = 1
    """Process starts: 1 in a fresh run, 2 after the first resume."""
    counters: Mapping[str, Count] = field(default_factory=dict, hash=False)
    """Whatever else the feed counts, tokens say."""

    def count(self, unit: str) -> Any:
        """The count in `unit`: epochs, updates, samples, seconds, or one of the feed's counters."""
        if unit in UNITS:
            return getattr(self, UNITS[unit])
        return self.counters.get(unit)


def at_seconds(progress: Progress, seconds: float) -> Progress:
    """The same counts at another time; every update asks for it, and `replace` is slow."""
    at, counters = progress, progress.counters
    return Progress(at.epoch, at.update, at.sample, seconds, at.session, counters)
