"""The run's append-only record: one JSON line for every tick where something happened."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from noether.errors import CheckpointError
from noether.plain import plain
from noether.progress import Progress

JOURNAL = "journal.jsonl"
"""The file of a run directory that holds it."""
EVALUATIONS = "evaluation.jsonl"
"""The rows of a run's evaluations; those of its training stay as they are."""


def row(
    tick: Literal["start", "update", "end", "evaluation"],
    progress: Progress,
    *,
    metrics: Mapping[str, Any] | None = None,
    effects: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """A row with every key.

    >>> row("update", Progress(update=3, sample=24), metrics={"loss": float("nan")})["metrics"]
    {'loss': 'nan'}
    """
    return {
        "tick": tick,
        "epoch": progress.epoch,
        "update": progress.update,
        "sample": progress.sample,
        "seconds": plain(progress.seconds),
        "session": progress.session,
        "metrics": plain(metrics or {}),
        "effects": plain(effects),
    }


@dataclass(frozen=True, slots=True)
class Journal:
    """An open journal; each row is with the operating system when `append` returns."""

    path: Path
    descriptor: int

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, whole or not at all; raises OSError."""
        line = json.dumps(plain(row), allow_nan=False).encode() + b"\n"
        start = self.position()
        try:
            written = 0
            while written < len(line):
                written += os.write(self.descriptor, line[written:])
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self.descriptor, start)
            raise

    def cut_last(self, tick: str) -> None:
        """Take the last row away, if it is one of such a tick; raises OSError."""
        data = self.path.read_bytes()
        start = data.rfind(b"\n", 0, max(len(data) - 1, 0)) + 1
        last = _row(data[start:])
        if last is not None and last.get("tick") == tick:
            os.ftruncate(self.descriptor, start)

    def position(self) -> int:
        """Its size in bytes: what a checkpoint remembers to cut it back to."""
        return os.fstat(self.descriptor).st_size

    def sync(self) -> None:
        """Flush it to the disk; raises OSError."""
        os.fsync(self.descriptor)

    def close(self) -> None:
        os.close(self.descriptor)


def open_journal(path: Path, *, size: int | None = None) -> Journal:
    """The journal at `path`, made if need be; cut back to `size` bytes, and to whole rows.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        data = path.read_bytes()[:size]
        os.ftruncate(descriptor, _whole(data))
    except BaseException:
        os.close(descriptor)
        raise
    return Journal(path, descriptor)


def _whole(data: bytes) -> int:
    """The bytes up to the last line that is a row."""
    end = data.rfind(b"\n") + 1
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        if _row(data[start:end]) is not None:
            break
        end = start
    return end


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read(path: Path, size: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of the journal at `path`, those in its first `size` bytes where that is given.

    A torn end is left out, as being still written.

    Raises OSError, and CheckpointError naming the line when rows follow one that is damaged.
    """
    return follow(Reader(path), size)


@dataclass(slots=True)
class Reader:
    """How far a journal was read, to go on there when it has grown."""

    path: Path
    at: int = 0
    """Bytes that were read."""
    lines: int = 0
    last: bytes = b""
    """The line that ends there."""


def follow(reader: Reader, size: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows that came since the reader was last here; as for `read`."""
    number, at, damaged = reader.lines, reader.at, 0
    with open(reader.path, "rb") as file:
        file.seek(at)
        for line in file:
            number, at = number + 1, at + len(line)
            if size is not None and at > size:
                return
            found = _row(line)
            if found is None:
                damaged = damaged or number
            elif damaged:
                raise CheckpointError(f"{reader.path}:{damaged} is no row of a journal")
            else:
                reader.at, reader.lines, reader.last = at, number, line
                yield found


def has_only_grown(reader: Reader) -> bool:
    """Whether all that was read is there still: a resumed run has cut it. Raises OSError."""
    with open(reader.path, "rb") as file:
        file.seek(reader.at - len(reader.last))
        return file.read(len(reader.last)) == reader.last


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a journal holds."""

    rows: int
    last: Mapping[str, Any]
    """The last row; empty if there is none."""
    torn: bool
    """Whether something follows the last row that is none: still being written, or cut off."""
    damaged: int | None
    """The first line that is no row though rows follow."""


def extent(path: Path) -> Extent:
    """How much the journal at `path` holds; raises OSError."""
    rows, last, torn = 0, dict[str, Any](), False
    strange: int | None = None
    damaged: int | None = None
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            found = _row(line)
            torn = found is None
            if found is None:
                strange = strange or number
            else:
                rows, last, damaged = rows + 1, found, strange
    return Extent(rows, last, torn, damaged)
