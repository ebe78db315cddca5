"""What a schedule is written as: a term and its arguments, which decide equality and text."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

BINDING = {"|": 0, "&": 1, "~": 2}
"""How tightly an operator binds; calls and names bind tightest."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A term with its positional arguments and its options, in canonical order."""

    term: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        if self.term == "~":
            return "~" + operand(self.arguments[0], BINDING["~"])
        if self.term in BINDING:
            parts = [operand(part, BINDING[self.term]) for part in self.arguments]
            return f" {self.term} ".join(parts)
        return call(self) if self.arguments or self.options else self.term


COUNTING = ("every", "at", "after", "until", "between", "cooldown")
"""The terms whose options are units; `start` beside them is none."""


def units(expression: Expression) -> Iterator[str]:
    """The units that an expression counts in, of the schedules in it too."""
    for part in expression.arguments:
        if isinstance(getattr(part, "expression", None), Expression):
            yield from units(part.expression)
    if expression.term in COUNTING:
        yield from (name for name, _ in expression.options if name != "start")


def operand(schedule: Any, level: int) -> str:
    """A schedule's text, in parentheses where it binds more loosely than its place asks."""
    loose = BINDING.get(schedule.expression.term, level) < level
    return f"({schedule})" if loose else str(schedule)


def call(expression: Expression) -> str:
    """The text of a term with arguments."""
    write = points if expression.term == "at" else literal
    written = [literal(value) for value in expression.arguments]
    written += [f"{name}={write(value)}" for name, value in expression.options]
    return f"{expression.term}({', '.join(written)})"


def points(value: Any) -> str:
    """The text of the points of `at`: a list, where there are several."""
    return f"[{inner(value)}]" if isinstance(value, tuple) else literal(value)


def literal(value: Any) -> str:
    """The text of one argument: a string, a number, a tuple, a schedule, or a function's name."""
    for kind, write in WRITERS:
        if isinstance(value, kind):
            return write(value)
    return str(getattr(value, "__qualname__", value))


def quoted(value: str) -> str:
    # What JSON writes, Python and `parse` read as the same string.
    return json.dumps(value, ensure_ascii=False)


def share(value: Fraction) -> str:
    """The text of an exact share: 0.25, or 1/3 where no short decimal says it."""
    decimal = repr(float(value))
    return decimal if Fraction(decimal) == value else f"{value.numerator}/{value.denominator}"


def inner(values: tuple[Any, ...]) -> str:
    return ", ".join(map(literal, values))


def bracketed(values: tuple[Any, ...]) -> str:
    return f"({inner(values)})"


WRITERS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (str, quoted),
    (Fraction, share),
    (tuple, bracketed),
)
