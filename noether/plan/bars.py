"""The time line in characters: a row for each callback, a column for a stretch of updates."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from noether.forecast import Forecast
from noether.plan.planning import Plan

LEAST = 20
"""Columns that are drawn at least, however narrow the terminal."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The characters of a row."""

    none: str
    some: str
    all: str
    perhaps: str


PRETTY = Marks("\u00b7", "\u2502", "\u2588", "?")
PLAIN = Marks(".", "|", "#", "?")


def bars(plan: Plan, width: int, *, ascii: bool = False) -> Iterator[str]:
    """The rows, then the scale and what the characters mean."""
    marks = PLAIN if ascii else PRETTY
    found = [forecast for forecast in plan.forecasts if forecast.callback.on_schedule is not None]
    names = max((len(forecast.callback.name) for forecast in found), default=0)
    updates = plan.line.stop - plan.line.start
    columns = max(min(width - names - 6, updates), min(LEAST, updates))
    edges = [plan.line.start + updates * i // max(columns, 1) for i in range(columns + 1)]
    for forecast in found:
        yield f"{forecast.callback.name:{names}}  {bar(forecast, edges, marks)}".rstrip()
    scale = f"{plan.line.start:,}".ljust(columns) + f"{plan.line.stop:,}".rjust(2)
    yield f"{'update':{names}}  {scale}"
    yield (
        f"{'':{names}}  {marks.some} fires  {marks.all} on every update  "
        f"{marks.perhaps} may fire  [ ] on the opening and the closing tick"
    )


def bar(found: Forecast, edges: list[int], marks: Marks) -> str:
    """One row: the opening tick, the updates, the closing tick."""
    inner = "".join(character(found, first + 1, last, marks) for first, last in pairwise(edges))
    opening = boundary(found.sure.opening, found.possible.opening, "[")
    return opening + inner + boundary(found.sure.closing, found.possible.closing, "]")


def boundary(sure: bool, possible: bool, mark: str) -> str:  # noqa: FBT001
    return mark if sure else "?" if possible else " "


def character(found: Forecast, first: int, last: int, marks: Marks) -> str:
    """The mark of the updates from `first` to `last`."""
    sure = found.sure.within(first, last)
    if sure == last - first + 1 and sure > 1:
        return marks.all
    if sure:
        return marks.some
    return marks.perhaps if found.possible.within(first, last) else marks.none
