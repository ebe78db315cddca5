"""Tables that callbacks write, as trackers show them."""

import csv
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

MOST = 10_000
"""Rows that are shown; the file has all."""


@dataclass(frozen=True, slots=True)
class Table:
    """Names of columns, and rows of numbers and texts."""

    columns: list[str]
    rows: list[list[float | str]]


def table(path: Path, most: int = MOST) -> Table:
    """The first rows of a `.csv`; raises OSError."""
    with open(path, newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        return Table(next(lines, []), [[*map(_cell, row)] for row in islice(lines, most)])


def markdown(table: Table) -> str:
    """A table as Markdown.

    >>> print(markdown(Table(["n", "word"], [[1.0, "a|b"]])))
    | n | word |
    |---|---|
    | 1.0 | a\\|b |
    """
    lines = [_line(table.columns), "|" + "---|" * len(table.columns), *map(_line, table.rows)]
    return "\n".join(lines)


def _line(cells: list[float | str] | list[str]) -> str:
    written = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(written)} |"


def _cell(written: str) -> float | str:
    try:
        return float(written)
    except ValueError:
        return written
