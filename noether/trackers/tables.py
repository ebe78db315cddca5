"""Tables that callbacks write, as trackers show them."""

import csv
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

NUMBER = re.compile(r"(?P<whole>-?(0|[1-9]\d*))|-?(0|[1-9]\d*)(\.\d+)?(e[-+]?\d+)?|nan|-?inf")
"""As Python writes one: `007` and `1_000` are texts."""
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

    >>> print(markdown(Table(["n", "word"], [[_cell("1"), _cell("007|")], [_cell("1e-05"), ""]])))
    | n | word |
    |---|---|
    | 1 | 007\\| |
    | 1e-05 |  |
    """
    lines = [_line(table.columns), "|" + "---|" * len(table.columns), *map(_line, table.rows)]
    return "\n".join(lines)


def _line(cells: list[float | str] | list[str]) -> str:
    written = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(written)} |"


def _cell(written: str) -> float | str:
    found = NUMBER.fullmatch(written)
    if found is None:
        return written
    return int(written) if found["whole"] else float(written)
