"""Lines for a terminal: columns, sizes, and text that a file may have forged."""

import math
from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[tuple[str, ...]], right: Sequence[int] = ()) -> list[str]:
    """Rows with their columns under each other, those in `right` flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cells(row, widths, right)).rstrip() for row in rows]


def cells(row: tuple[str, ...], widths: Sequence[int], right: Sequence[int]) -> Iterator[str]:
    for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.rjust(width) if place in right else cell.ljust(width)


def printable(text: str) -> str:
    r"""`text` with every character escaped that could move, colour, reorder or break a line.

    >>> printable("step-1\x1b[2K")
    'step-1\\x1b[2K'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def told(size: float) -> str:
    """A number of bytes as people say it.

    >>> told(123), told(1234), told(5.2e9)
    ('123 bytes', '1.2 kB', '5.2 GB')
    """
    if size < 1000:
        return f"{size} bytes"
    power = min(int(math.log10(size)) // 3, 4)
    return f"{size / 1000**power:.1f} {'kMGT'[power - 1]}B"
