"""What a run directory tells of its run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from noether.checkpoint.manifest import LATEST, MANIFEST
from noether.elsewhere import checkpoints_of
from noether.errors import CheckpointError
from noether.inspection.folder import Look, Survey, best, survey
from noether.inspection.records import Best, Checkpoint, InspectedRun, Resume
from noether.inspection.values import count, limits, number, progress, short, string
from noether.journal import JOURNAL, Extent, extent
from noether.progress import Progress
from noether.rundir import CHECKPOINTS, STATUS, Owner, owner, read_status
from noether.storage import is_local


def _checkpoints(path: Path, notes: list[str]) -> Path:
    """Where its checkpoints are; of those on a remote file system only the place is told."""
    try:
        folder = checkpoints_of(path)
    except CheckpointError as error:
        notes.append(str(error))
        return path / CHECKPOINTS
    if is_local(folder):
        return folder
    notes.append(f"its checkpoints are in {folder}, which is not looked at")
    return path / CHECKPOINTS


def inspected(path: Path, look: Look, now: float, *, brief: bool = False) -> InspectedRun:
    """All that there is in the run directory; `brief`: without its journal and configuration."""
    notes = list[str]()
    folder = _checkpoints(path, notes)
    read, owned = _status(path, notes), owner(path)
    status = read or {}
    journal = None if brief else _journal(path / JOURNAL, notes)
    made = survey(folder, look)
    kept, latest = best(made.judged), short(folder / LATEST)
    checkpoints = tuple(marked(each.checkpoint, latest, kept) for each in made.judged)
    if latest and not any(each.latest for each in checkpoints) and _astray(folder, latest):
        notes.append(f"{LATEST} names {latest}, which is no checkpoint here; a resume ignores that")
    heartbeat = number(status.get("heartbeat"))
    others = made.leftovers
    return InspectedRun(
        path=path,
        state=string(status.get("state")),
        update=count(status.get("update")),
        at_update=count(status.get("at_update")),
        reason=string(status.get("reason")),
        heartbeat=heartbeat,
        heartbeat_age=None if heartbeat is None else now - heartbeat,
        owner=owned,
        progress=_furthest(journal, checkpoints),
        until={} if brief else _until(path / "config.yaml"),
        journal=journal,
        checkpoints=checkpoints,
        best=tuple(kept),
        leftovers=others,
        bytes=sum(each.bytes for each in checkpoints) + sum(each.bytes for each in others),
        resume=_resume(made, owned, read),
        notes=tuple(notes),
    )


def _astray(folder: Path, latest: str) -> bool:
    """Whether the pointer leads nowhere, and is not being moved just now."""
    # Not by pathlib, which raises on a name that is too long.
    return not os.path.isfile(folder / latest / MANIFEST) and short(folder / LATEST) == latest


def _status(run: Path, notes: list[str]) -> dict[str, Any] | None:
    try:
        return read_status(run) if (run / STATUS).is_file() else {}
    except CheckpointError as error:
        notes.append(str(error).replace(f"{run}/", ""))
        return None


def _journal(path: Path, notes: list[str]) -> Extent | None:
    try:
        return extent(path) if path.is_file() else None
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}")
        return None


def _until(path: Path) -> dict[str, float]:
    try:
        return limits(yaml.safe_load(path.read_bytes())) if path.is_file() else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}


def _furthest(journal: Extent | None, checkpoints: Sequence[Checkpoint]) -> Progress | None:
    told = [] if journal is None or not journal.rows else [progress(journal.last)]
    told += [each.progress for each in checkpoints if each.valid]
    return max(told, key=lambda each: each.update or 0, default=None)


def marked(found: Checkpoint, latest: str, kept: Sequence[Best]) -> Checkpoint:
    """The checkpoint with what the others make of it."""
    name = found.path.resolve().name
    tags = tuple(each.tag for each in kept if each.checkpoint == name)
    return replace(found, latest=name == latest, best=tags)


def _resume(made: Survey, owned: Owner | None, status: Mapping[str, Any] | None) -> Resume:
    """What a resume would come to, by the order in which it looks; None: a damaged status."""
    found = next((each.checkpoint for each in made.judged if each.checkpoint.valid), None)
    aside = any(each.kind == "set aside" for each in made.leftovers)
    if status is None:
        return Resume(None, f"refused: {STATUS} cannot be read")
    if made.newer is not None:
        return Resume(None, f"refused: {made.newer}")
    if found is None and (made.judged or aside):
        return Resume(None, "refused: there are checkpoints, and none is valid")
    name, done = None if found is None else found.path.name, status.get("state") == "done"
    last = "" if name is None else f"; its last valid checkpoint is {name}"
    if done:
        return Resume(name, f"nothing to do, the run is done{last}")
    if owned is not None and owned.owns:
        return Resume(name, f"refused while pid {owned.pid} on {owned.host} owns the run{last}")
    if found is None:
        return Resume(None, "from the start, as there is no checkpoint")
    unsure = "" if found.verified else ", if its digests fit"
    return Resume(name, f"from {name}, update {found.update}{unsure}")
