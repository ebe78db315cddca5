"""What is at a path: a run, a series of them, or one checkpoint."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from noether.checkpoint.manifest import LATEST, MANIFEST, read_manifest
from noether.errors import CheckpointError, ConfigurationError
from noether.inspection.folder import Judged, Look, Tell, best, damaged, judged, survey
from noether.inspection.records import Checkpoint, InspectedRun, InspectedSeries
from noether.inspection.run import inspected, marked
from noether.inspection.values import short
from noether.rundir import CHECKPOINTS, STATUS, runs

Inspected: TypeAlias = InspectedRun | InspectedSeries | Checkpoint


def _silent(name: str, done: int, total: int) -> None:
    return None


def inspect(
    path: str | Path,
    *,
    quick: bool = False,
    tell: Tell = _silent,
    clock: Callable[[], float] = time.time,
) -> Inspected:
    """What there is in a run directory, a series of them, or a checkpoint, found by reading alone.

    A process may be training there meanwhile.

    quick: look at manifests and sizes, not at digests, as is always done for a series.
    tell: called while digests are verified with the name of a checkpoint, how many bytes have
        been read, and of how many.

    Raises ConfigurationError where `path` is none of these, CheckpointError where the checkpoints
    cannot be listed.

    >>> inspect("/nowhere")
    Traceback (most recent call last):
    noether.errors.ConfigurationError: /nowhere is no run, series or checkpoint: nothing is there
    """
    path = Path(path)
    try:
        return _inspected(path, Look(quick, tell), clock())
    except OSError as error:
        raise ConfigurationError([f"{path} cannot be read: {error.strerror}"]) from error


def _inspected(path: Path, look: Look, now: float) -> Inspected:
    if _is_run(path):
        return inspected(path, look, now)
    if any(map(_is_run, found := runs(path))):
        brief = Look(quick=True, tell=look.tell)
        return InspectedSeries(path, tuple(inspected(run, brief, now, brief=True) for run in found))
    if (path / MANIFEST).is_file():
        return _alone(path, look)
    raise ConfigurationError([f"{path} is no run, series or checkpoint: {_way_out(path)}"])


def _is_run(path: Path) -> bool:
    return (path / CHECKPOINTS).is_dir() or (path / STATUS).is_file()


def _way_out(path: Path) -> str:
    if not path.is_dir():
        return "it is a file; give the directory" if path.exists() else "nothing is there"
    whole = path.resolve()
    if whole.name == CHECKPOINTS:
        return f"give the run directory, {whole.parent}"
    for inner in sorted(path.iterdir()):
        if any(map(_is_run, runs(inner))):
            return f"give a series in it, {inner} say"
    return "give what run.dir names, or a numbered directory in that"


def _alone(path: Path, look: Look) -> Checkpoint:
    """One checkpoint, whatever its name."""
    try:
        found = judged(path, read_manifest(path), look)
    except CheckpointError as error:
        found = Judged(damaged(path, str(error), look))
    assert isinstance(found, Judged)
    folder = path.resolve().parent
    beside = Look(quick=True, tell=look.tell)
    others = survey(folder, beside).judged if folder.name == CHECKPOINTS else []
    return marked(found.checkpoint, short(folder / LATEST), best(others))


def sound(found: Inspected) -> bool:
    """Whether there is no run that has checkpoints, of which none is valid."""
    match found:
        case Checkpoint():
            return found.valid
        case InspectedSeries():
            return all(map(sound, found.runs))
    aside = any(each.kind == "set aside" for each in found.leftovers)
    return any(each.valid for each in found.checkpoints) or not (found.checkpoints or aside)
