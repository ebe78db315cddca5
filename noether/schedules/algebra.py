"""`&`, `|` and `~`: pointwise on ticks. What remembers is stepped, whatever the others say."""

from typing import Any

from noether.progress import Progress
from noether.schedules.expression import Expression
from noether.schedules.schedule import (
    Ahead,
    Asks,
    Memory,
    Moment,
    Pace,
    Rests,
    Schedule,
    memoryless,
    remembering,
    soon,
)

Parts = tuple[Schedule, ...]


def conjunction(*schedules: Schedule) -> Schedule:
    """Fires when all of them do."""
    parts = flat("&", schedules)
    return joined("&", parts, all_of([part.asks for part in parts]), latest(parts))


def disjunction(*schedules: Schedule) -> Schedule:
    """Fires when one of them does."""
    parts = flat("|", schedules)
    asks = any_of([part.asks for part in parts])
    return joined("|", parts, asks, earliest(parts), resting(parts))


def negation(schedule: Schedule) -> Schedule:
    """Fires on the ticks on which `schedule` doesn't."""
    return joined("~", (schedule,), none_of(schedule.asks), soon)


def flat(operator: str, schedules: Parts) -> Parts:
    """The operands, with those of nested uses of the same operator in their place."""
    parts: list[Schedule] = []
    for schedule in schedules:
        same = schedule.expression.term == operator
        parts.extend(schedule.expression.arguments if same else (schedule,))
    return tuple(parts)


def joined(
    operator: str, parts: Parts, asks: Asks, ahead: Ahead, rests: Rests | None = None
) -> Schedule:
    expression = Expression(operator, parts)
    if any(part.initial is not None for part in parts):
        return stepped(expression, parts, ahead)
    return memoryless(
        expression,
        asks,
        ahead,
        reads=frozenset().union(*(part.reads for part in parts)),
        clocked=any(part.clocked for part in parts),
        predicted=all(part.predicted for part in parts),
        needs_total=any(part.needs_total for part in parts),
        awaits=awaited(operator, parts),
        rests=rests,
    )


def stepped(expression: Expression, parts: Parts, ahead: Ahead) -> Schedule:
    """A combination in which something remembers: one memory for each part, all of them stepped."""
    verdict = {"&": all, "|": any, "~": none}[expression.term]

    def step(tick: Moment, memory: Memory) -> tuple[bool, Memory]:
        stepped = [part.step(tick, kept) for part, kept in zip(parts, memory, strict=True)]
        return verdict([fires for fires, _ in stepped]), tuple(kept for _, kept in stepped)

    initial = tuple(part.initial for part in parts)
    awaits = awaited(expression.term, parts)
    return remembering(expression, step, initial, ahead, parts=parts, awaits=awaits)


def awaited(operator: str, parts: Parts) -> frozenset[str] | None:
    """The metrics without which nothing happens to a combination, if there are such."""
    if operator == "~":
        return None
    if operator == "&":
        # Each part must fire, so one of them may speak for all; what remembers must be stepped.
        able = [part for part in parts if part.awaits is not None]
        parts = tuple(p for p in parts if p.initial is not None) or tuple(able[:1])
    names = [part.awaits for part in parts]
    known = [name for name in names if name is not None]
    return frozenset().union(*known) if names and len(known) == len(names) else None


def none(answers: list[bool]) -> bool:
    return not any(answers)


def all_of(tests: list[Asks]) -> Asks:
    """All tests in turn; halved again and again, so that asking never nests deeply."""
    if len(tests) == 1:
        return tests[0]
    half = len(tests) // 2
    left, right = all_of(tests[:half]), all_of(tests[half:])
    return lambda tick: left(tick) and right(tick)


def any_of(tests: list[Asks]) -> Asks:
    """The tests in turn until one holds, halved as in `all_of`."""
    if len(tests) == 1:
        return tests[0]
    half = len(tests) // 2
    left, right = any_of(tests[:half]), any_of(tests[half:])
    return lambda tick: left(tick) or right(tick)


def none_of(test: Asks) -> Asks:
    return lambda tick: not test(tick)


def earliest(parts: Parts) -> Ahead:
    """The first update at which one of them could fire."""

    def ahead(now: Progress, pace: Pace) -> int | None:
        bounds = [bound for part in parts if (bound := part.ahead(now, pace)) is not None]
        return min(bounds, default=None)

    return ahead


def resting(parts: Parts) -> Rests | None:
    """The first update and the first training time at which one of them could fire."""
    if not any(part.rests for part in parts):
        return None

    def rests(now: Progress, pace: Pace) -> tuple[int | None, Any]:
        bounds = [p.rests(now, pace) if p.rests else (p.ahead(now, pace), None) for p in parts]
        updates, moments = (
            [b for b in each if b is not None] for each in zip(*bounds, strict=True)
        )
        return min(updates, default=None), min(moments, default=None)

    return rests


def latest(parts: Parts) -> Ahead:
    """The first update at which all could fire, or at which one that remembers must be asked."""
    watched = earliest(tuple(part for part in parts if part.initial is not None))

    def ahead(now: Progress, pace: Pace) -> int | None:
        bounds = [bound for part in parts if (bound := part.ahead(now, pace)) is not None]
        together = max(bounds) if len(bounds) == len(parts) else None
        alone = watched(now, pace)
        return min((bound for bound in (together, alone) if bound is not None), default=None)

    return ahead
