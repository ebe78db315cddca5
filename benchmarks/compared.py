"""What two runs that should be the same differ in: all that their checkpoints and journals hold."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from victim import BEST

from noether.checkpoint import find, load, newest
from noether.contents import WEIGHTS
from noether.journal import read
from noether.rundir import CHECKPOINTS, read_status, runs
from noether.store import STATE

TIMES = frozenset({"seconds", "session"})
"""What says how long a run took, and in how many sessions; wherever it stands."""
SIZES = frozenset({"journal"})
"""What follows from how the times are written."""
STATUS = ("state", "reason", "update", "at_update", "failed")

MOST = 6
"""Differences of one kind that are told."""

Difference = tuple[str, Any, Any]


def differences(one: Path, other: Path) -> list[str]:
    """What the runs of two series differ in and where, one line each; empty: nothing.

    Times, sessions and the opening rows of later sessions are left aside.
    """
    a, b = _only_run(one), _only_run(other)
    return [
        *_told(unequal(_status(a), _status(b), "status.json")),
        *_told(_rows(_journal(a), _journal(b))),
        *_told(unequal(_checkpoint(a, None), _checkpoint(b, None), "newest checkpoint")),
        *_told(unequal(_checkpoint(a, BEST), _checkpoint(b, BEST), "best checkpoint")),
    ]


def _told(found: Iterable[Difference]) -> Iterator[str]:
    """One line each for the first ones."""
    lines = [f"{where}: {_shown(x)} and {_shown(y)}" for where, x, y in found]
    yield from lines[:MOST]
    if lines[MOST:]:
        yield f"and {len(lines) - MOST} more like these"


def _only_run(series: Path) -> Path:
    found = runs(series)
    if len(found) != 1:
        raise AssertionError(f"{series} holds {len(found)} runs; a resume goes on with the one")
    return found[0]


def _status(run: Path) -> dict[str, Any]:
    told = read_status(run)
    return {key: told.get(key) for key in STATUS}


def _checkpoint(run: Path, tag: str | None) -> dict[str, Any]:
    folder = run / CHECKPOINTS
    found = newest(folder) if tag is None else find(folder, tag)
    if found is None:
        return {}
    held = {name: load(found.directory, name) for name in (WEIGHTS, STATE)}
    return {"update": found.manifest.update, **held}


def _journal(run: Path) -> list[dict[str, Any]]:
    rows = read(run / "journal.jsonl")
    return [_timeless(row) for row in rows if row["tick"] != "start" or row["session"] == 1]


def _timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without what the callback `progress` says, which is how fast it goes."""
    effects = [{**e, "text": ""} if e["by"] == "progress" else e for e in row["effects"]]
    return {**row, "effects": effects}


def _rows(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> Iterator[Difference]:
    def names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
        return [f"{row['tick']} {row['update']}" for row in rows]

    if names(one) != names(other):
        only = [n for n in names(one) if n not in names(other)]
        yield "journal.jsonl, its ticks", only, [n for n in names(other) if n not in names(one)]
        yield "journal.jsonl, its number of rows", len(one), len(other)
        return
    for name, row, twin in zip(names(one), one, other, strict=True):
        yield from unequal(row, twin, f"journal.jsonl, {name}")


def unequal(one: Any, other: Any, where: str) -> Iterator[Difference]:
    """Wherever two trees of plain values and tensors differ, bit by bit."""
    if type(one) is not type(other):
        yield where, one, other
    elif isinstance(one, Mapping):
        for key in dict.fromkeys((*one, *other)):
            if key not in TIMES | SIZES:
                yield from unequal(one.get(key), other.get(key), f"{where}, {key}")
    elif isinstance(one, list | tuple) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from unequal(*pair, f"{where}, {number}")
    elif not _same(one, other):
        yield where, one, other


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor):
        return repr(one) == repr(other)  # tells -0.0 from 0.0, and knows NaN
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return alike and one.numpy().tobytes() == other.numpy().tobytes()


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        value = value.flatten().tolist()
    text = repr(value)
    return text if len(text) < 120 else f"{text[:117]}..."
