"""The units that schedules count in: how each is read, scaled and reached."""

import math
from collections.abc import Callable
from fractions import Fraction
from operator import attrgetter
from typing import Any

from noether.progress import UNITS, Progress
from noether.schedules.expression import Expression, units
from noether.schedules.schedule import Pace

CLOCK = {"seconds": 1, "minutes": 60, "hours": 3600}
"""Units of training time, in seconds."""

KNOWN = ("epochs", "updates", "samples", *CLOCK, "fraction")
"""The units that aren't counters of the feed."""

PREDICTED = ("epochs", "updates", "samples", "fraction")
"""The units whose counts are known before the run."""

NANOSECONDS = 1_000_000_000


def counters(expression: Expression) -> frozenset[str]:
    """The counters of the feed that an expression counts in."""
    return frozenset(units(expression)) - frozenset(KNOWN)


def nanoseconds(progress: Progress) -> int:
    """Training time to the nearest nanosecond: sums of floats meet the marks they aim at."""
    numerator, denominator = progress.seconds.as_integer_ratio()
    return int((2 * NANOSECONDS * numerator + denominator) // (2 * denominator))


def reader(unit: str) -> Callable[[Progress], Any]:
    """The function that reads a count; what the feed doesn't count stands at 0."""
    if unit in CLOCK:
        return nanoseconds
    if unit in UNITS:
        return attrgetter(UNITS[unit])

    def counter(progress: Progress) -> Any:
        return progress.counters.get(unit) or 0

    return counter


def scaled(unit: str, amount: float) -> int | Fraction:
    """An argument in the unit that `reader` counts in."""
    if unit not in CLOCK:
        return int(amount)
    duration = exact(amount) * CLOCK[unit] * NANOSECONDS
    return duration.numerator if duration.denominator == 1 else duration


def exact(number: float | Fraction) -> Fraction:
    """The ratio a float was meant to be: the float 1/m means 1/m, and 0.1 means 1/10."""
    value = number if isinstance(number, int) else float(number)
    if not 0 < value < 1:
        return Fraction(repr(value))
    if math.isfinite(1 / value) and 1 / round(1 / value) == value:
        return Fraction(1, round(1 / value))
    # Up to this denominator, no two ratios below 1 are the same float.
    ratio = Fraction(value).limit_denominator(10**7)
    return ratio if float(ratio) == value else Fraction(repr(value))


def reach(unit: str, target: int | Fraction, now: Progress, pace: Pace) -> int:
    """The next update, as a lower bound, at which the count in `unit` could be at `target`."""
    soonest = int(now.update) + 1
    if unit == "updates":
        return max(soonest, math.ceil(target))
    if unit == "samples" and pace.samples_per_update:
        missing = math.ceil(target) - now.sample
        return max(soonest, now.update - (-missing // pace.samples_per_update))
    if unit == "epochs" and pace.updates_per_epoch:
        return max(soonest, epoch_end(math.ceil(target), now, pace.updates_per_epoch))
    return soonest


def epoch_end(epoch: int, now: Progress, updates_per_epoch: int) -> int:
    """The update, as a lower bound, that closes `epoch`."""
    in_turn = now.update + 1 + (epoch - now.epoch - 1) * updates_per_epoch
    # Where past epochs were shorter than promised, only the epochs to come count.
    kept = now.update >= now.epoch * updates_per_epoch
    return int(max(in_turn, epoch * updates_per_epoch) if kept else in_turn)
