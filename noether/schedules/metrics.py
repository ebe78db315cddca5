"""Conditions on metrics. A metric counts only in the tick that produced it."""

import math
import operator
from collections.abc import Callable, Mapping
from reprlib import repr as shown
from typing import Any, Literal

from noether.errors import suggestion
from noether.schedules import arguments
from noether.schedules.expression import Expression
from noether.schedules.schedule import Memory, Moment, Schedule, memoryless, remembering, soon

Mode = Literal["min", "max", "auto"]
Direction = Literal["min", "max"]

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

EXPLICIT: Mapping[str, Direction] = {"min": "min", "max": "max"}

DIRECTIONS: Mapping[str, Direction] = {"loss": "min", "error": "min", "accuracy": "max"}
"""What a part of a metric's name says about which values are better."""


def direction(metric: str, mode: str = "auto") -> Direction:
    """Whether less or more of a metric is better; `auto` goes by its name, and never guesses.

    >>> direction("loss/val/total")
    'min'
    """
    if mode in EXPLICIT:
        return EXPLICIT[mode]
    if mode != "auto":
        raise ValueError(f"mode={mode!r} is unknown. {suggestion(str(mode), ('auto', *EXPLICIT))}")
    told = {better for part, better in DIRECTIONS.items() if part in metric.lower()}
    if len(told) != 1:
        raise ValueError(
            f"mode='auto' can't tell whether less or more of {metric} is better. "
            "Give mode='min' or mode='max'."
        )
    return told.pop()


def improves(value: float, best: float | None, mode: Direction, min_delta: float = 0.0) -> bool:
    """Whether a value is better than the best so far by more than `min_delta`.

    The first finite value is (`best` None); one that isn't finite never is.

    >>> improves(0.4, 0.5, "min"), improves(float("nan"), None, "min")
    (True, False)
    """
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return (best - value if mode == "min" else value - best) > min_delta


def when(metric: str, comparison: str | None = None, value: float | None = None) -> Schedule:
    """Fires when the metric was produced in this tick, and compares so with the value, if given.

    >>> when("accuracy/val", ">", 0.9)
    when("accuracy/val", ">", 0.9)
    """
    arguments.text(f"when({shown(metric)})", metric)
    if comparison is None and value is None:
        return on_fresh(Expression("when", (metric,)), metric, lambda tick: metric in tick.fresh)
    subject = f"when({shown(metric)}, {shown(comparison)}, {shown(value)})"
    if comparison is None or comparison not in COMPARISONS:
        raise ValueError(f"{subject}: found no comparison. Give one of {' '.join(COMPARISONS)}.")
    compare, limit = COMPARISONS[comparison], arguments.number(subject, value)

    def asks(tick: Moment) -> bool:
        return metric in tick.fresh and bool(compare(tick.metrics[metric], limit))

    return on_fresh(Expression("when", (metric, comparison, limit)), metric, asks)


def on_fresh(expression: Expression, metric: str, asks: Callable[[Moment], bool]) -> Schedule:
    name = frozenset({metric})
    return memoryless(expression, asks, soon, reads=name, predicted=False, awaits=name)


def on_improvement(metric: str, *, mode: Mode = "auto", min_delta: float = 0.0) -> Schedule:
    """Fires when the metric was produced in this tick and beats the best so far.

    It remembers the best. The first finite value is an improvement; NaN and infinity never are.

    >>> on_improvement("loss/val/total")
    on_improvement("loss/val/total", mode="min")
    """
    subject = f"on_improvement({shown(metric)})"
    better, options = judged(subject, metric, mode, min_delta)

    def step(tick: Moment, memory: Memory) -> tuple[bool, Memory]:
        if metric not in tick.fresh or not improves(
            tick.metrics[metric], memory[0], better, min_delta
        ):
            return False, memory
        return True, (tick.metrics[metric],)

    return of_metric(Expression("on_improvement", (metric,), options), step, (None,))


def on_plateau(
    metric: str, *, patience: int, mode: Mode = "auto", min_delta: float = 0.0
) -> Schedule:
    """Fires at the `patience`-th fresh value in a row that doesn't beat the best, then counts anew.

    It remembers the best and the count. A value that isn't finite doesn't beat anything.

    >>> on_plateau("loss/val/total", patience=3)
    on_plateau("loss/val/total", patience=3, mode="min")
    """
    subject = f"on_plateau({shown(metric)})"
    arguments.whole(f"{subject}: patience", patience)
    better, options = judged(subject, metric, mode, min_delta)

    def step(tick: Moment, memory: Memory) -> tuple[bool, Memory]:
        if metric not in tick.fresh:
            return False, memory
        best, stale = memory
        if improves(tick.metrics[metric], best, better, min_delta):
            return False, (tick.metrics[metric], 0)
        return stale + 1 == patience, (best, (stale + 1) % patience)

    options = (("patience", patience), *options)
    return of_metric(Expression("on_plateau", (metric,), options), step, (None, 0))


def judged(
    subject: str, metric: object, mode: str, min_delta: object
) -> tuple[Direction, tuple[tuple[str, Any], ...]]:
    """The direction, and the options to write: the direction itself, and a `min_delta` above 0."""
    better = direction(arguments.text(subject, metric), mode)
    delta = arguments.number(f"{subject}: min_delta", min_delta, 0)
    return better, (("mode", better), *([("min_delta", delta)] if delta else []))


def of_metric(
    expression: Expression,
    step: Callable[[Moment, Memory], tuple[bool, Memory]],
    initial: Memory,
) -> Schedule:
    name = frozenset(expression.arguments)
    return remembering(expression, step, initial, soon, reads=name, predicted=False, awaits=name)
