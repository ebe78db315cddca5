"""What a tracker keeps in the run directory, to go on where it was after a resume."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noether.storage import replace_text
from noether.trackers.tracker import FOLDER, Begun


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


def _path(begun: Begun, name: str) -> Path:
    assert begun.run is not None
    return begun.run / FOLDER / f"{name}.json"
