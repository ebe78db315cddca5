"""Trackers that are files: comma-separated values, and JSON lines."""

import csv as values
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Any, TextIO

from noether.callback import factory
from noether.plain import plain
from noether.storage import replace_text
from noether.trackers.tracker import Begun, Line, Summary, Tracker, place

COLUMNS = ("update", "epoch", "sample", "seconds", "metric", "value")
HEAD = ",".join(COLUMNS)


@factory
def csv(*, path: str | None = None) -> Tracker:
    """Write a row for each value: update, epoch, sample, seconds, metric, value.

    Into `path`, by default `trackers/metrics.csv` in the run directory; beside it go the summary
    and the configuration, as JSON, and in `metrics.evaluations.csv` results of `noether evaluate`.
    A resumed run cuts its file back, and adds what it lacks; any other puts a file that is there
    already aside, as `metrics.1.csv`.

    >>> csv(path="metrics.csv").name
    'csv'
    """

    def log(opened: Open, line: Line) -> None:
        counts = _counts(line)
        rows = ([*counts.values(), name, value] for name, value in line.metrics.items())
        with _file(opened, line, HEAD) as file:
            values.writer(file, lineterminator="\n").writerows(rows)

    begin = _opener(path, "metrics.csv", _update_of_row, HEAD)
    check = partial(place, path, "metrics.csv")
    return Tracker("csv", begin, log, _end, holds=attrgetter("held"), check=check)


@factory
def jsonl(*, path: str | None = None) -> Tracker:
    """Write a JSON value a line for each tick: update, epoch, sample, seconds, metrics.

    Into `path`, by default `trackers/metrics.jsonl` in the run directory; beside it go the summary
    and the configuration, and in `metrics.evaluations.jsonl` results of `noether evaluate`. A
    resumed run cuts its file back, and adds what it lacks; any other puts a file that is there
    already aside, as `metrics.1.jsonl`.

    >>> jsonl().name
    'jsonl'
    """

    def log(opened: Open, line: Line) -> None:
        told = plain({**_counts(line), "metrics": line.metrics})
        with _file(opened, line) as file:
            file.write(json.dumps(told, allow_nan=False) + "\n")

    begin = _opener(path, "metrics.jsonl", _update_of_line)
    check = partial(place, path, "metrics.jsonl")
    return Tracker("jsonl", begin, log, _end, holds=attrgetter("held"), check=check)


def _counts(line: Line) -> dict[str, Any]:
    now = line.now
    return {"update": now.update, "epoch": now.epoch, "sample": now.sample, "seconds": now.seconds}


@dataclass(slots=True)
class Open:
    """A file, and the last update that it holds whole."""

    file: TextIO
    held: int


def _opener(
    path: str | None, name: str, update: Callable[[bytes], int | None], head: str = ""
) -> Callable[[Begun], Open]:
    """Opens the file; `update` tells that of a line, None for one that is torn."""

    def begin(begun: Begun) -> Open:
        target = place(path, name, begun.run)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not begun.resumed or _owner(target) != _run(begun):
            for each in (target, _evaluations(target)):
                _set_aside(each)
        held = _cut(target, update, begun.now.update)
        file = open(target, "a", encoding="utf-8", newline="")  # noqa: SIM115 - until its end
        if head and not file.tell():
            file.write(f"{head}\n")
        told = {"run": _run(begun), "config": plain(begun.config)}
        replace_text(_beside(target), json.dumps(told, indent=1, default=str))
        return Open(file, held)

    return begin


@contextmanager
def _file(opened: Open, line: Line, head: str = "") -> Iterator[TextIO]:
    """Where a line goes: results of evaluations into a file of their own, which nothing cuts."""
    if line.event != "evaluation":
        yield opened.file
        opened.file.flush()
        return
    with open(_evaluations(Path(opened.file.name)), "a", encoding="utf-8", newline="") as file:
        if head and not file.tell():
            file.write(f"{head}\n")
        yield file


def _evaluations(target: Path) -> Path:
    return target.with_suffix(f".evaluations{target.suffix}")


def _beside(target: Path) -> Path:
    return target.with_suffix(".config.json")


def _run(begun: Begun) -> str | None:
    return None if begun.run is None else str(begun.run.resolve())


def _owner(target: Path) -> Any:
    """The run directory that a file belongs to."""
    try:
        return json.loads(_beside(target).read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _set_aside(target: Path) -> None:
    """Let a file of another run keep what it holds, under the next free name."""
    if target.is_file() and target.stat().st_size:
        names = (target.with_suffix(f".{number}{target.suffix}") for number in count(1))
        os.replace(target, next(name for name in names if not name.exists()))


def _cut(target: Path, update: Callable[[bytes], int | None], last: int) -> int:
    """Cut a file back to what is up to `last` and surely whole; gives the last update of that.

    A kill may have left its very last update in parts, so that one goes, too.
    """
    at = start = 0
    held = newest = -1
    with open(target, "a+b") as file:
        file.seek(0)
        for line in file:
            found = update(line) if line.endswith(b"\n") else None
            if found is None or found > last:
                break
            if found > newest:
                held, newest, start = newest, found, at
            at += len(line)
        file.truncate(start if newest >= 0 else at)
    return held


def _update_of_row(line: bytes) -> int | None:
    first = line.partition(b",")[0].decode(errors="replace")
    return -1 if first == COLUMNS[0] else int(first) if first.isdecimal() else None


def _update_of_line(line: bytes) -> int | None:
    try:
        return int(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):
        return None


def _end(opened: Open, summary: Mapping[str, Summary], state: str) -> None:
    opened.file.close()
    told = {"state": state, "summary": {name: asdict(each) for name, each in summary.items()}}
    target = Path(opened.file.name).with_suffix(".summary.json")
    replace_text(target, json.dumps(plain(told), indent=1))
