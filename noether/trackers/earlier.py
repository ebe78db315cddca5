"""What the sessions before have logged, by the run's journal."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from noether.journal import read
from noether.outputs import placed
from noether.progress import Progress
from noether.trackers.tracker import Line, Output


def earlier(journal: Path, size: int, outputs: Path) -> Iterator[Line | Output]:
    """The rows in the first `size` bytes of a journal, to which others are added meanwhile.

    A row's metrics, and then the files that it says were written, as far as they are there. Those
    of a resumed session's opening tick are left out: they say once more what was said.

    Raises OSError, CheckpointError where the journal is damaged.
    """
    for number, row in enumerate(read(journal, size)):
        if row["tick"] != "start" or not number:
            yield from _told(row, outputs)


def progress_of(row: Mapping[str, Any]) -> Progress:
    """Where the run stood at a row of its journal."""
    counts = {name: row[name] for name in ("epoch", "update", "sample", "session")}
    return Progress(**counts, seconds=_number(row["seconds"]))


def _told(row: Mapping[str, Any], outputs: Path) -> Iterator[Line | Output]:
    now = progress_of(row)
    if row["metrics"]:
        metrics = {name: _number(value) for name, value in row["metrics"].items()}
        yield Line(now, metrics, row["tick"])
    for effect in row["effects"]:
        if effect["kind"] == "write" and (path := placed(outputs, effect["name"])).is_file():
            yield Output(now, effect["name"], path, row["tick"])


def _number(written: Any) -> Any:
    """A number as the journal writes it: one that is not finite by its name."""
    return float(written) if isinstance(written, str) else written
