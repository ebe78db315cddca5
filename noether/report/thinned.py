"""Long series made short enough to draw, without losing an extreme."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Point = tuple[int, Any]
"""An update, and a value at it, or several that all grow."""


@dataclass(slots=True)
class Bucket:
    """What is kept of neighbouring points: the first, the last, the lowest and the highest."""

    first: Point
    last: Point
    low: Point
    high: Point

    def add(self, other: "Bucket") -> None:
        """Take in what comes after it."""
        self.last = other.last
        self.low = min(self.low, other.low, key=lambda point: point[1])
        self.high = max(self.high, other.high, key=lambda point: point[1])

    def points(self) -> list[Point]:
        """Those that are kept, in their order, none twice."""
        return sorted({self.first, self.low, self.high, self.last})


@dataclass(slots=True)
class Thinned:
    """A series of finite values by update, of which no more than four times `most` are kept.

    Updates are cut into stretches of equal length, twice as long each time there are too many. Of
    each stretch stay the first point and the last, the lowest and the highest, as they were: a
    picture of it has the same outline. Points come in the order of their updates.

    >>> series = Thinned(most=2)
    >>> for update in range(1, 101):
    ...     series.add(update, 50.0 if update == 7 else 1.0)
    >>> series.points()
    [(1, 1.0), (7, 50.0), (63, 1.0), (64, 1.0), (100, 1.0)]
    """

    most: int = 400
    width: int = 1
    count: int = 0
    """Points that were added."""
    buckets: dict[int, Bucket] = field(default_factory=dict)

    def add(self, update: int, value: Any) -> None:
        """Add a point."""
        self.count += 1
        point = (update, value)
        self._place(update // self.width, Bucket(point, point, point, point))
        while len(self.buckets) > self.most:
            self._widen()

    def points(self) -> list[Point]:
        """The points that are kept."""
        return [point for bucket in self.buckets.values() for point in bucket.points()]

    def _place(self, key: int, bucket: Bucket) -> None:
        if key in self.buckets:
            self.buckets[key].add(bucket)
        else:
            self.buckets[key] = bucket

    def _widen(self) -> None:
        self.width *= 2
        earlier, self.buckets = self.buckets, {}
        for key, bucket in earlier.items():
            self._place(key // 2, bucket)


@dataclass(slots=True)
class Moments:
    """Updates at which something happened; of very many, the stretches in which it did."""

    most: int = 1000
    width: int = 1
    count: int = 0
    stretches: dict[int, int] = field(default_factory=dict)
    """The first update of each stretch in which it happened."""

    def add(self, update: int) -> None:
        """Note an update; they come in order."""
        self.count += 1
        self.stretches.setdefault(update // self.width, update)
        while len(self.stretches) > self.most:
            self.width *= 2
            earlier, self.stretches = self.stretches, {}
            for first in earlier.values():
                self.stretches.setdefault(first // self.width, first)

    def __iter__(self) -> Iterator[int]:
        return iter(self.stretches.values())
