"""Marks at shares of the run: `every(fraction=...)` and `at(fraction=...)`, in exact ratios."""

import math
from collections.abc import Callable
from fractions import Fraction

from noether.progress import Progress
from noether.schedules import arguments
from noether.schedules.expression import Expression
from noether.schedules.schedule import Moment, Pace, Schedule, memoryless, soon
from noether.schedules.units import exact

Passed = Callable[[int, int], int]
"""How many marks lie at or before an update, in a run of so many updates."""


def every_share(subject: str, value: object, start: object) -> Schedule:
    """Fires at the updates ceil(j * share * total), j = 1, 2, ..., up to the run's end."""
    if start is not None:
        raise ValueError(f"{subject}: a fraction takes no start. Join it with after(...) instead.")
    part = share(subject, value)
    most = int(1 / part)

    def passed(update: int, total: int) -> int:
        return min(int(update // (part * total)), most)

    def mark(ordinal: int, total: int) -> int | None:
        return math.ceil((ordinal + 1) * part * total) if ordinal < most else None

    return placed(Expression("every", (), (("fraction", part),)), passed, mark)


def at_shares(subject: str, given: tuple[object, ...]) -> Schedule:
    """Fires at the update ceil(share * total), for each share."""
    parts = sorted({share(subject, value) for value in given})
    value = parts[0] if len(parts) == 1 else tuple(parts)

    def passed(update: int, total: int) -> int:
        return sum(part * total <= update for part in parts)

    def mark(ordinal: int, total: int) -> int | None:
        return math.ceil(parts[ordinal] * total) if ordinal < len(parts) else None

    return placed(Expression("at", (), (("fraction", value),)), passed, mark)


def share(subject: str, value: object) -> Fraction:
    """A share of the run: above 0, at most 1."""
    part = arguments.positive(subject, float(value) if isinstance(value, Fraction) else value)
    if part > 1:
        raise ValueError(f"{subject}: {part} is above 1. Give a share of the run, 0.1 say.")
    return exact(part)


def placed(
    expression: Expression, passed: Passed, mark: Callable[[int, int], int | None]
) -> Schedule:
    """A schedule of marks whose place depends on the horizon; with none known it never fires."""

    def asks(tick: Moment) -> bool:
        total = tick.total.update if tick.total else None
        if not total:
            return False
        return passed(tick.now.update, total) > passed(tick.before.update, total)

    def ahead(now: Progress, pace: Pace) -> int | None:
        total = pace.total.update if pace.total else None
        if not total:
            return soon(now, pace)
        return mark(passed(now.update, total), total)

    return memoryless(expression, asks, ahead, needs_total=True)
