"""What a tracker keeps in the run directory, to go on where it was after a resume."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noether.storage import replace_text
from noether.trackers.tracker import FOLDER, Begun, Position


def recall(begun: Begun, name: str) -> Mapping[str, Any]:
    """What was kept by this tracker; nothing in a fresh run, or without a run directory."""
    try:
        found = json.loads(_path(begun, name).read_text(encoding="utf-8")) if begun.run else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(begun: Begun, name: str, /, **told: Any) -> None:
    """Keep this for the next session; raises OSError."""
    if begun.run is not None:
        path = _path(begun, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(told))


def note(begun: Begun, name: str, position: Position) -> None:
    """Note what a tracker was given last, in one write of one length; raises OSError."""
    if begun.run is not None:
        path = _path(begun, name, ".at")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, "{:20} {:20}\n".format(*position).encode(), 0)
        finally:
            os.close(descriptor)


def noted(begun: Begun, name: str) -> Position | None:
    """What it was given last; None where that is not known."""
    if begun.run is None:
        return None
    try:
        update, part = _path(begun, name, ".at").read_text().split()
        return int(update), int(part)
    except (OSError, ValueError):
        return None


def _path(begun: Begun, name: str, end: str = ".json") -> Path:
    assert begun.run is not None
    return begun.run / FOLDER / f"{name}{end}"
