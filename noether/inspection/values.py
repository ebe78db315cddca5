"""Values from files that anybody may have written: each of its type, or None."""

import math
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from noether.progress import UNITS, Progress

SHORT = 10_000
"""Bytes that are read of a file that holds a line."""


def count(value: Any) -> int | None:
    """A count that a run can reach.

    >>> count(3), count(True), count("3"), count(10**400)
    (3, None, None, None)
    """
    return value if type(value) is int and 0 <= value < 2**63 else None


def number(value: Any) -> float | None:
    """A finite number.

    >>> number(3), number("nan"), number(10**400)
    (3.0, None, None)
    """
    if type(value) not in (int, float):
        return None
    with suppress(OverflowError):
        return float(value) if math.isfinite(value) else None
    return None


def string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def progress(value: Any) -> Progress:
    """Counts by their names; None for each that is not known."""
    given = value if isinstance(value, Mapping) else {}
    counters = given.get("counters")
    return Progress(
        epoch=count(given.get("epoch")),
        update=count(given.get("update")),
        sample=count(given.get("sample")),
        seconds=number(given.get("seconds")),
        session=count(given.get("session")) or 1,
        counters=counters if isinstance(counters, dict) else {},
    )


def limits(config: Any) -> dict[str, float]:
    """The limits of a run's configuration, as `train` or a file gave it."""
    given = config.get("run", config) if isinstance(config, dict) else None
    until = given.get("until") if isinstance(given, dict) else None
    found = until if isinstance(until, dict) else {}
    return {unit: found[unit] for unit in UNITS if number(found.get(unit)) is not None}


def short(path: Path) -> str:
    """What a short file holds; empty where there is none."""
    with suppress(OSError):
        if path.is_file():  # a pipe would be waited for
            with open(path, "rb") as file:
                return file.read(SHORT).decode(errors="replace").strip()
    return ""


def modified(path: Path) -> float | None:
    with suppress(OSError):
        return path.stat().st_mtime
    return None


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a directory; no link is followed."""
    total, todo = 0, [path]
    while todo:
        here = todo.pop()
        with suppress(OSError):  # it went meanwhile
            found = here.lstat()
            if stat.S_ISDIR(found.st_mode):
                todo.extend(here.iterdir())
            else:
                total += found.st_size
    return total
