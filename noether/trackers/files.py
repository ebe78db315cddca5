"""Trackers that are files: comma-separated values, and JSON lines."""

import csv as values
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from noether.callback import factory
from noether.plain import plain
from noether.storage import replace_text
from noether.trackers.tracker import Begun, Line, Summary, Tracker, place

COLUMNS = ("update", "epoch", "sample", "seconds", "metric", "value")


@factory
def csv(*, path: str | None = None) -> Tracker:
    """Write a row for each value: update, epoch, sample, seconds, metric, value.

    Into `path`, by default `trackers/metrics.csv` in the run directory; beside it go the summary
    and the configuration, as JSON. A fresh run begins the file anew, a resumed one cuts it back.

    >>> csv(path="metrics.csv").name
    'csv'
    """

    def log(file: TextIO, line: Line) -> None:
        counts = _counts(line)
        rows = ([*counts.values(), name, value] for name, value in line.metrics.items())
        values.writer(file, lineterminator="\n").writerows(rows)
        file.flush()

    begin = _opener(path, "metrics.csv", _is_row, ",".join(COLUMNS))
    return Tracker("csv", begin, log, _end, check=partial(place, path, "metrics.csv"))


@factory
def jsonl(*, path: str | None = None) -> Tracker:
    """Write a JSON value a line for each tick: update, epoch, sample, seconds, metrics.

    Into `path`, by default `trackers/metrics.jsonl` in the run directory; beside it go the summary
    and the configuration. A fresh run begins the file anew, a resumed one cuts it back.

    >>> jsonl().name
    'jsonl'
    """

    def log(file: TextIO, line: Line) -> None:
        told = plain({**_counts(line), "metrics": line.metrics})
        file.write(json.dumps(told, allow_nan=False) + "\n")
        file.flush()

    begin = _opener(path, "metrics.jsonl", _is_line)
    return Tracker("jsonl", begin, log, _end, check=partial(place, path, "metrics.jsonl"))


def _counts(line: Line) -> dict[str, Any]:
    now = line.now
    return {"update": now.update, "epoch": now.epoch, "sample": now.sample, "seconds": now.seconds}


def _opener(
    path: str | None, name: str, earlier: Callable[[str, int], bool], head: str = ""
) -> Callable[[Begun], TextIO]:
    """Opens the file, cut back to what is `earlier` than where the session goes on."""

    def begin(begun: Begun) -> TextIO:
        target = place(path, name, begun.run)
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = _kept(target, earlier, begun.now.update)
        lines = kept or ([head] if head else [])
        replace_text(target, "".join(f"{line}\n" for line in lines))
        config = json.dumps(plain(begun.config), indent=1, default=str)
        replace_text(target.with_suffix(".config.json"), config)
        return open(target, "a", encoding="utf-8", newline="")

    return begin


def _kept(target: Path, earlier: Callable[[str, int], bool], update: int) -> list[str]:
    """The lines of a file that stay: none in a fresh run."""
    if not update or not target.is_file():
        return []
    lines = target.read_text(encoding="utf-8").split("\n")[:-1]
    return [line for line in lines if earlier(line, update)]


def _is_row(line: str, update: int) -> bool:
    first = line.partition(",")[0]
    return first == COLUMNS[0] or (first.isdigit() and int(first) <= update)


def _is_line(line: str, update: int) -> bool:
    try:
        return int(json.loads(line)["update"]) <= update
    except (ValueError, KeyError, TypeError):
        return False


def _end(file: TextIO, summary: Mapping[str, Summary], state: str) -> None:
    file.close()
    told = {"state": state, "summary": {name: asdict(each) for name, each in summary.items()}}
    target = Path(file.name).with_suffix(".summary.json")
    replace_text(target, json.dumps(plain(told), indent=1))
