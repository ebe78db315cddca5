"""Firings as repeating stretches of updates: a run of any length in a few numbers."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stretch:
    """Firings after `start`, up to `stop`: the offsets in `pattern`, again in every period.

    >>> list(Stretch(start=100, stop=110, period=4, pattern=(1, 4)))
    [101, 104, 105, 108, 109]
    """

    start: int
    stop: int
    period: int
    pattern: tuple[int, ...]
    """Offsets from the start, above 0, at most the period, ascending."""

    def upto(self, update: int) -> int:
        """How many of them lie at or before an update."""
        passed = max(min(update, self.stop) - self.start, 0)
        periods, rest = divmod(passed, self.period)
        return periods * len(self.pattern) + bisect_right(self.pattern, rest)

    def __iter__(self) -> Iterator[int]:
        if not self.pattern:
            return
        for base in range(self.start, self.stop, self.period):
            for offset in self.pattern:
                if base + offset > self.stop:
                    return
                yield base + offset


@dataclass(frozen=True, slots=True)
class Firings:
    """The ticks of a run at which a callback fires.

    >>> firings = Firings((Stretch(0, 9, 3, (3,)),), opening=True, since=4)
    >>> list(firings), len(firings), firings.within(1, 6)
    ([6, 9], 2, 1)
    """

    stretches: tuple[Stretch, ...] = ()
    """In order, none over another."""
    opening: bool = False
    """Whether it fires on the opening tick."""
    closing: bool = False
    """Whether it fires on the closing tick."""
    last: bool = False
    """Whether it has fired at the run's last counts before the closing tick comes."""
    since: int = 0
    """The first update that counts; before it, what the callback reads is not there."""

    def __iter__(self) -> Iterator[int]:
        """The updates at whose ticks it fires, ascending."""
        for stretch in self.stretches:
            if stretch.stop >= self.since:
                yield from (update for update in stretch if update >= self.since)

    def within(self, first: int, last: int) -> int:
        """How many of the updates from `first` to `last` fire."""
        before = max(first, self.since) - 1
        return sum(max(s.upto(last) - s.upto(before), 0) for s in self.stretches)

    def __len__(self) -> int:
        """How many updates fire."""
        return self.within(0, self.stretches[-1].stop) if self.stretches else 0

    @property
    def count(self) -> int:
        """How many ticks fire, the opening and the closing one included."""
        return len(self) + self.opening + self.closing
