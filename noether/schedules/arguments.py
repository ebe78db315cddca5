"""The checks that every term makes of its arguments."""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from reprlib import repr as shown
from typing import Any

from noether.errors import suggestion
from noether.schedules.schedule import Schedule
from noether.schedules.units import CLOCK, KNOWN

MOST = 2**63 - 1
ORDER = {unit: place for place, unit in enumerate(KNOWN)}
NAME = re.compile(r"[^\W\d]\w*")

FOREIGN = {
    "steps": "updates",
    "iterations": "updates",
    "secs": "seconds",
    "mins": "minutes",
    "hrs": "hours",
}
"""Words of other libraries; taken for counters, they would silently never fire."""


def whole(subject: str, value: object, least: int = 1) -> int:
    """An integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{subject}: {shown(value)} is no integer. Give one of at least {least}.")
    if value < least:
        raise ValueError(f"{subject}: {shown(value)} is too small. Give at least {least}.")
    if value > MOST:
        raise ValueError(f"{subject}: {shown(value)} is too large. Give at most {MOST}.")
    return value


def number(subject: str, value: object, least: float = -math.inf) -> float:
    """A finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{subject}: {shown(value)} is no number. Give an integer or a float.")
    if not (abs(value) <= MOST if isinstance(value, int) else math.isfinite(value)):
        raise ValueError(f"{subject}: {shown(value)} is out of range. Give a finite number.")
    if value < least:
        raise ValueError(f"{subject}: {shown(value)} is too small. Give at least {least}.")
    return value


def positive(subject: str, value: object) -> float:
    """A finite number above 0."""
    if (amount := number(subject, value)) <= 0:
        raise ValueError(f"{subject}: {shown(value)} is not above 0. Give a positive number.")
    return amount


def interval(subject: str, unit: str, value: object) -> float:
    """A distance or a point: above 0, and an integer unless it is time."""
    return positive(subject, value) if unit in CLOCK else whole(subject, value)


def bound(subject: str, unit: str, value: object) -> float:
    """An edge of a window: 0 or more, and an integer unless it is time."""
    return number(subject, value, 0) if unit in CLOCK else whole(subject, value, 0)


def text(subject: str, value: object) -> str:
    """A name."""
    if not isinstance(value, str):
        raise TypeError(f"{subject}: {shown(value)} is no name. Give a string.")
    if not value:
        raise ValueError(f"{subject}: the name is empty. Give the name of a metric.")
    return value


def schedule(subject: str, value: object) -> Schedule:
    """A schedule."""
    if not isinstance(value, Schedule):
        raise TypeError(f"{subject}: {shown(value)} is no schedule. Give one, every(epochs=1) say.")
    return value


def named_unit(term: str, unit: str) -> str:
    """A unit, or the name of one of the feed's counters; refused where it seems a slip."""
    if unit in KNOWN:
        return unit
    slip = difflib.get_close_matches(unit.lower(), [*KNOWN, *FOREIGN], n=1, cutoff=0.8)
    if slip:
        way_out = suggestion(FOREIGN.get(slip[0], slip[0]), KNOWN)
        raise ValueError(f"{term}({unit}=...): {unit} is no unit. {way_out}")
    if unit == "start" or not NAME.fullmatch(unit):
        raise ValueError(
            f"{term}({unit}=...): {unit!r} can't name a counter. "
            f"Give one of {', '.join(KNOWN)}, or a counter of the feed."
        )
    return unit


def one_unit(term: str, units: Mapping[str, Any]) -> tuple[str, Any]:
    """The only unit given, with its value."""
    if len(units) != 1:
        found = " and ".join(units) or "none"
        raise ValueError(
            f"{term}(...) takes one unit, and found {found}. Give one of {', '.join(KNOWN)}, "
            f"or a counter of the feed; join several with |."
        )
    [(unit, value)] = units.items()
    return named_unit(term, unit), value


def several_units(
    term: str, units: Mapping[str, Any], check: Callable[[str, str, Any], Any]
) -> tuple[tuple[str, Any], ...]:
    """One or more units with their checked values, in canonical order."""
    if not units:
        raise ValueError(f"{term}(...) takes a unit, and found none. Give {term}(updates=...).")
    if "fraction" in units:
        raise ValueError(f"{term}(fraction=...): no unit of a window. Give updates or epochs.")
    order = sorted(units, key=lambda unit: (ORDER.get(unit, len(ORDER)), unit))
    return tuple(
        (named_unit(term, u), check(f"{term}({u}={shown(units[u])})", u, units[u])) for u in order
    )
