"""What a checkpoint says about itself, and whether that is true."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from noether.errors import CheckpointError
from noether.plain import plain
from noether.storage import ASIDE, is_local, listed, read

MANIFEST = "manifest.json"
BAD = "manifest.json.bad"
"""The manifest of one that was set aside where nothing can be renamed."""
LATEST = "LATEST"
OWNER = "RUN"
"""Says which run directory the checkpoints belong to, where they lie elsewhere."""
INDEX = "tensors.json"
"""What there is of which tensor in which rank's file, where several ranks wrote."""
FORMAT = 1
STEP = re.compile(r"step-\d+(-\d+)?")


class NewerFormatError(CheckpointError):
    """Written by a newer noether: whole, hence never set aside, but not readable here."""


class UnreadableError(CheckpointError):
    """The disk does not give it, which says nothing of what it holds: never set aside."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asked for the checkpoint, and which ones of that tag stay (see `effects.Save`)."""

    tag: str
    by: str = ""
    keep_last: int | None = None
    keep_best: int | None = None
    metric: str | None = None
    value: float | None = None
    mode: Literal["min", "max"] = "min"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of the checkpoint in `directory`; `content` is all it holds."""

    directory: Path
    update: int
    serial: int
    """Number of the commit in its folder: orders two checkpoints of one update."""
    claims: tuple[Claim, ...]
    files: Mapping[str, Mapping[str, Any]]
    """File name to its `bytes` and `sha256`."""
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def progress(self) -> Mapping[str, Any]:
        return dict(self.content.get("progress", {}))

    @property
    def best(self) -> bool:
        return any(claim.keep_best is not None for claim in self.claims)

    @property
    def age(self) -> tuple[int, int]:
        """Grows from commit to commit."""
        return self.update, self.serial


@dataclass(frozen=True, slots=True)
class Damaged:
    """A directory that was a checkpoint, and what is wrong with it."""

    directory: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.directory.name} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a folder of checkpoints holds."""

    manifests: tuple[Manifest, ...]
    """Newest first; their files are not verified yet."""
    damaged: tuple[Damaged, ...]
    """Checkpoints whose manifest cannot be read."""
    ignored: tuple[str, ...]
    """Names of everything else: foreign, half written, half deleted, set aside."""


def sealed(content: Mapping[str, Any]) -> str:
    """The manifest's text, with a digest of its own content; raises TypeError if it isn't plain."""
    content = plain({key: item for key, item in content.items() if key != "digest"})
    return json.dumps({**content, "digest": _digest(content)}, indent=1, sort_keys=True)


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the checkpoint at `directory`.

    Raises CheckpointError when there is none, when it is damaged, or (NewerFormatError) when a
    newer noether wrote it, or (UnreadableError) when a remote file system does not answer.
    """
    path = directory / MANIFEST
    try:
        content = json.loads(read(path))
        fits = isinstance(content, dict) and content.pop("digest", None) == _digest(content)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{directory} is no checkpoint: it holds no {MANIFEST}") from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not fits:
        raise CheckpointError(f"{path} is damaged: its digest does not fit its content")
    return parsed(directory, content)


def parsed(directory: Path, content: Mapping[str, Any]) -> Manifest:
    """`content` as a Manifest; raises CheckpointError naming what is wrong with it."""
    form = content.get("format")
    if isinstance(form, int) and form > FORMAT:
        raise NewerFormatError(
            f"{directory} has format {form}, this noether reads up to {FORMAT}: use a newer one"
        )
    try:
        return Manifest(
            directory=directory,
            update=_whole(content["update"]),
            serial=_whole(content["serial"]),
            claims=tuple(_claim(**claim) for claim in content["claims"]),
            files={_file_name(name): dict(record) for name, record in content["files"].items()},
            content=content,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{directory / MANIFEST} is no manifest: {error!r}") from error


def _whole(count: Any) -> int:
    if type(count) is not int or count < 0:
        raise ValueError(f"{count!r} is no count")
    return count


def _claim(*, value: Any = None, **claim: Any) -> Claim:
    for key in ("tag", "by"):
        if not isinstance(claim.get(key, ""), str):
            raise TypeError(f"{key} {claim[key]!r} of a claim is no text")
    for key in ("keep_last", "keep_best"):
        if claim.get(key) is not None:
            _whole(claim[key])
    return Claim(**claim, value=None if value is None else float(value))


def _file_name(name: str) -> str:
    os.fsencode(name)  # what no file can be called is a ValueError
    if name in ("", ".", "..", MANIFEST) or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name for a file of a checkpoint")
    return name


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for what the disk does not give; not being there is damage, all else may pass."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return CheckpointError(f"{path} cannot be read: {error}")
    return UnreadableError(
        f"{path} cannot be read: {error}. That need not be damage, so it is left as it is: try "
        f"again, or move {path.parent} away if the disk has lost it"
    )


def candidates(folder: Path) -> Candidates:
    """The checkpoints in `folder`, newest first by their manifests, and what else lies there.

    Raises CheckpointError when the folder cannot be listed or a newer noether wrote in it.
    """
    manifests, damaged, ignored = [], [], []
    for entry in entries(folder):
        match candidate(entry):
            case Manifest() as manifest:
                manifests.append(manifest)
            case Damaged() as broken:
                damaged.append(broken)
            case None:
                ignored.append(entry.name)
    # The name decides only between a checkpoint and its copy.
    manifests.sort(key=lambda manifest: (manifest.age, manifest.name), reverse=True)
    return Candidates(tuple(manifests), tuple(damaged), tuple(ignored))


def candidate(entry: Path) -> Manifest | Damaged | None:
    """What an entry of a folder of checkpoints is; None: something else.

    Raises NewerFormatError and UnreadableError.
    """
    try:
        return read_manifest(entry) if _may_be_checkpoint(entry) else None
    except (NewerFormatError, UnreadableError):
        raise
    except OSError as error:  # another user's
        reason = f"it cannot be read: {error.strerror}"
    except CheckpointError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # half written, or half removed
            return None
        reason = str(error)
    return Damaged(entry, reason) if STEP.fullmatch(entry.name) else None


def _may_be_checkpoint(entry: Path) -> bool:
    hidden = entry.name.startswith(".") or ASIDE.search(entry.name) is not None
    # Of a remote one only the attempt to read it tells: `is_file` hides a network that is down.
    return not hidden and (not is_local(entry) or (entry / MANIFEST).is_file())


def entries(folder: Path) -> Sequence[Path]:
    """What lies in a folder of checkpoints, its own files aside.

    Raises CheckpointError when it cannot be listed.
    """
    try:
        return [entry for entry in listed(folder) if entry.name not in (LATEST, OWNER)]
    except FileNotFoundError:
        return []
    except OSError as error:
        kind = CheckpointError if is_local(folder) else UnreadableError
        raise kind(f"checkpoints in {folder} cannot be listed: {error}") from error
