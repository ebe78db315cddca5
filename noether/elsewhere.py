"""Where a run's checkpoints are: in its directory, or in a folder of their own elsewhere."""

from pathlib import Path

from noether import remote
from noether.checkpoint.manifest import OWNER
from noether.errors import CheckpointError, ConfigurationError
from noether.rundir import CHECKPOINTS, is_numbered
from noether.storage import ASIDE, is_local, listed, read, replace_text

MARKER = "ELSEWHERE"
"""Beside where the checkpoints would be: one line that says where they are."""
LONGEST = 4000
"""Characters that it may have."""


def chosen(checkpoint_dir: str | Path) -> Path:
    """What a `checkpoint_dir` names, wherever the process is started next time."""
    path = remote.path(str(checkpoint_dir))
    return path.absolute() if is_local(path) else path


def checkpoints_of(run: Path) -> Path:
    """The folder of a run's checkpoints; raises CheckpointError where its record is damaged."""
    marker = run / CHECKPOINTS / MARKER
    try:
        with open(marker, "rb") as file:
            text = file.read(LONGEST + 1).decode().removesuffix("\n")
    except (FileNotFoundError, NotADirectoryError):
        return run / CHECKPOINTS
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{marker} cannot be read: {error}") from error
    a_line = text.isprintable() and len(text) <= LONGEST
    if not a_line or not (remote.is_url(text) or Path(text).is_absolute()):
        raise CheckpointError(f"{marker} is damaged: expected a URL or an absolute path in a line")
    try:
        return remote.path(text)
    except ConfigurationError as error:
        raise CheckpointError(f"{marker}: {error}") from error


def taken(folder: Path | None) -> list[int]:
    """The numbers of the runs whose checkpoints lie in a `checkpoint_dir`.

    Raises CheckpointError where it can't be listed.
    """
    try:
        there = [] if folder is None else listed(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"checkpoint_dir {folder} cannot be listed: {error}") from error
    return [int(path.name) for path in there if is_numbered(path.name)]


def settled(run: Path, checkpoint_dir: Path | None) -> Path:
    """The folder of the checkpoints of an owned run, recorded in it and reserved for it.

    Raises ConfigurationError where they are elsewhere already or belong to another run directory,
    CheckpointError where nothing can be written.
    """
    usual, folder = run / CHECKPOINTS, checkpoints_of(run)
    if checkpoint_dir is not None and str(checkpoint_dir / folder.name) != str(folder):
        begun = any(ASIDE.search(path.name) is None for path in listed(usual))
        if begun:
            raise ConfigurationError([_moved(run, folder, checkpoint_dir)])
        folder = checkpoint_dir / run.name
    try:
        if folder != usual:
            replace_text(usual / MARKER, f"{folder}\n")
            _reserve(folder, run.absolute())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    return folder


def _moved(run: Path, folder: Path, checkpoint_dir: Path) -> str:
    return (
        f"checkpoint_dir is {str(checkpoint_dir)!r}, but the checkpoints of {run} are in {folder}; "
        f"leave checkpoint_dir out, or begin a new run from one of them: --resume {folder}/step-N"
    )


def _reserve(folder: Path, run: Path) -> None:
    storage, owner = remote.storage_of(folder), _owner(folder)
    if owner == run:
        return
    if owner is not None and str(checkpoints_of(owner)) == str(folder):
        raise ConfigurationError(
            [
                f"the checkpoints in {folder} belong to {owner}, of which {run} is a copy; go on "
                f"there, or begin a new run from one of them: --resume {folder}/step-N"
            ]
        )
    if is_local(folder):
        folder.mkdir(parents=True, exist_ok=True)
    else:
        storage.mkdir(folder)
    replace_text(folder / OWNER, f"{run}\n", storage)


def _owner(folder: Path) -> Path | None:
    try:
        return Path(read(folder / OWNER).decode().strip())
    except (FileNotFoundError, ValueError):
        return None
