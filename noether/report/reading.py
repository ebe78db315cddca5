"""What a run has left behind, read in one pass and kept in little memory."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from noether.errors import CheckpointError, ConfigurationError
from noether.journal import EVALUATIONS, JOURNAL, Reader, follow, has_only_grown, read
from noether.live import better
from noether.report.thinned import Moments, Thinned
from noether.rundir import owner, read_status, runs

EVALUATED = 20
"""Evaluations that are told."""
TELL_EVERY = 20_000
"""Rows between two words on how far reading is."""


@dataclass(slots=True)
class Series:
    """A metric over the run."""

    thinned: Thinned = field(default_factory=Thinned)
    best: tuple[int, float] | None = None
    """Where it was best, if its name tells what is better."""
    last: float = math.nan
    broken: Moments = field(default_factory=Moments)
    """Updates at which it was not finite."""


@dataclass(slots=True)
class History:
    """One run, as a page tells it."""

    run: Path
    reader: Reader
    status: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    traceback: str = ""
    rows: int = 0
    series: dict[str, Series] = field(default_factory=dict)
    firings: dict[str, Moments] = field(default_factory=dict)
    """By callback, in the order in which they first did something."""
    saves: dict[str, Moments] = field(default_factory=dict)
    """By tag."""
    sessions: list[int] = field(default_factory=list)
    """The update at which each session began."""
    stops: list[tuple[str, int, str]] = field(default_factory=list)
    """Which callback asked to stop, when, and why."""
    position: Mapping[str, Any] = field(default_factory=dict)
    """Counts of the last row."""
    clock: Thinned = field(default_factory=Thinned)
    """By update, samples and seconds."""
    evaluations: list[Mapping[str, Any]] = field(default_factory=list)
    """The last rows of `noether evaluate`."""


def history(path: Path, tell: Callable[[int], None] = lambda rows: None) -> History:
    """All of a run, or of the newest one of a series; `tell` hears of the rows that are read.

    Raises ConfigurationError for what is no run directory, CheckpointError for a journal that
    cannot be read.
    """
    run = path if (path / JOURNAL).is_file() else next(iter(runs(path)), path)
    if not (run / JOURNAL).is_file():
        raise ConfigurationError([f"{path} is no run directory with a {JOURNAL}, nor a series"])
    return renewed(History(run, Reader(run / JOURNAL)), tell)


def renewed(known: History, tell: Callable[[int], None] = lambda rows: None) -> History:
    """The same with what was added since, or read anew where a resumed run has cut its journal."""
    run, journal = known.run, known.reader.path
    try:
        made = known if has_only_grown(known.reader) else History(run, Reader(journal))
        made.status, made.config = _status(run), _text(run / "config.yaml")
        made.traceback = _text(run / "traceback.txt")
        made.evaluations = _evaluations(run)
        for row in follow(made.reader):
            _add(made, row)
            if made.rows % TELL_EVERY == 0:
                tell(made.rows)
    except OSError as error:
        raise CheckpointError(f"{journal} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{journal}, row {made.rows} is no row of a run") from error
    return made


def settings(made: History) -> Any:
    """The run's configuration as values; nothing where it is no YAML."""
    try:
        return yaml.safe_load(made.config) or {}
    except yaml.YAMLError:
        return {}


def _evaluations(run: Path) -> list[Mapping[str, Any]]:
    path = run / EVALUATIONS
    try:
        rows = deque(read(path), EVALUATED) if path.is_file() else ()
        return [{"update": int(row["update"]), "metrics": dict(row["metrics"])} for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds a row that is none of an evaluation") from error


def _status(run: Path) -> Mapping[str, Any]:
    """What `status.json` says, but of a run whose process is gone that it was killed."""
    try:
        status = read_status(run)
    except CheckpointError:
        return {}
    owned = owner(run)
    gone = status.get("state") == "running" and owned is not None and owned.owns is False
    return {**status, "state": "killed"} if gone else status


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _add(made: History, row: Mapping[str, Any]) -> None:
    made.rows += 1
    made.position = {name: row[name] for name in ("epoch", "update", "sample", "seconds")}
    update = int(row["update"])
    made.clock.add(update, (row["sample"], float(row["seconds"])))
    if row["tick"] == "start":
        made.sessions.append(update)
    for name, value in row["metrics"].items():
        _measure(made.series.setdefault(name, Series()), name, update, float(value))
    for by in dict.fromkeys(effect["by"] for effect in row["effects"]):
        made.firings.setdefault(by, Moments()).add(update)
    for effect in row["effects"]:
        if effect["kind"] == "stop":
            made.stops.append((effect["by"], update, effect["reason"]))
        elif effect["kind"] == "save":
            made.saves.setdefault(effect["tag"], Moments()).add(update)


def _measure(series: Series, name: str, update: int, value: float) -> None:
    series.last = value
    if not math.isfinite(value):
        series.broken.add(update)
        return
    series.thinned.add(update, value)
    if better(value, None if series.best is None else series.best[1], name):
        series.best = (update, value)
