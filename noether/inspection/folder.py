"""What a folder of checkpoints holds, while a process may be writing and pruning in it."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from noether.checkpoint import REASON
from noether.checkpoint.manifest import (
    MANIFEST,
    STEP,
    Damaged,
    Manifest,
    NewerFormatError,
    UnreadableError,
    candidate,
    entries,
)
from noether.checkpoint.retention import TRASH, ranked
from noether.checkpoint.verification import sized_file, verify_file
from noether.errors import CheckpointError
from noether.inspection.records import Best, Checkpoint, Leftover
from noether.inspection.values import count, modified, number, progress, short, size
from noether.storage import ASIDE

LISTINGS = 5
"""How often a folder is listed anew, where checkpoints went while others were read."""

Tell: TypeAlias = Callable[[str, int, int], None]
"""Told which checkpoint is verified, how many bytes have been, and how many there are."""


@dataclass(slots=True)
class Look:
    """How closely is looked, and how far that has got."""

    quick: bool
    tell: Tell
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Watched:
    """A file whose reading is told."""

    file: BinaryIO
    name: str
    look: Look

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read: int = self.file.readinto(buffer)  # type: ignore[attr-defined]  # opened unbuffered
        self.look.done += read
        self.look.tell(self.name, self.look.done, max(self.look.done, self.look.total))
        return read


@dataclass(frozen=True, slots=True)
class Judged:
    """A checkpoint with its manifest, where that can be read."""

    checkpoint: Checkpoint
    manifest: Manifest | None = None

    @property
    def age(self) -> tuple[float, float, str]:
        name = self.checkpoint.path.name
        if self.manifest is not None:
            return *self.manifest.age, name
        digits = name.partition("-")[2].partition("-")[0]
        return (int(digits) if STEP.fullmatch(name) else -1), math.inf, name


@dataclass(slots=True)
class Survey:
    """All that lies in a folder."""

    found: dict[Path, Judged | Leftover] = field(default_factory=dict)
    newer: str | None = None
    """What a newer noether wrote there."""

    @property
    def judged(self) -> list[Judged]:
        """The checkpoints, newest first."""
        found = [each for each in self.found.values() if isinstance(each, Judged)]
        return sorted(found, key=lambda each: each.age, reverse=True)

    @property
    def leftovers(self) -> tuple[Leftover, ...]:
        return tuple(e for _, e in sorted(self.found.items()) if isinstance(e, Leftover))


def survey(folder: Path, look: Look) -> Survey:
    """Judge all that lies in a folder; what goes meanwhile is just gone, what comes is seen.

    Raises CheckpointError when it cannot be listed.
    """
    made = Survey()
    for _ in range(LISTINGS):
        fresh = {entry: _candidate(entry) for entry in entries(folder) if entry not in made.found}
        manifests = [each for each in fresh.values() if isinstance(each, Manifest)]
        look.total += sum(count(known) or 0 for m in manifests for known in _sizes(m).values())
        for entry in sorted(fresh, key=lambda entry: _readable_age(fresh[entry]), reverse=True):
            made.found[entry] = judged(entry, fresh[entry], look)
        gone = [entry for entry, found in made.found.items() if not _is_there(entry, found)]
        for entry in gone:
            del made.found[entry]
        newer = (str(each) for each in fresh.values() if isinstance(each, NewerFormatError))
        made.newer = next(newer, made.newer)
        if not gone:
            break
    return made


def _candidate(entry: Path) -> Manifest | Damaged | NewerFormatError | None:
    try:
        return candidate(entry)
    except NewerFormatError as error:
        return error
    except UnreadableError as error:
        return Damaged(entry, str(error))


def _readable_age(found: Any) -> tuple[int, int]:
    # Those that stay longest are read first, for the others may be pruned meanwhile.
    return found.age if isinstance(found, Manifest) else (-1, -1)


def _is_there(entry: Path, found: Judged | Leftover) -> bool:
    try:
        os.lstat(entry if isinstance(found, Leftover) else entry / MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it may not be looked at
        return True
    return True


def judged(entry: Path, found: Any, look: Look) -> Judged | Leftover:
    """What is to be said of an entry that `found` was read from."""
    match found:
        case Manifest():
            return Judged(_described(found, look), found)
        case Damaged(reason=reason):
            return Judged(damaged(entry, reason, look))
        case NewerFormatError():
            return Judged(damaged(entry, str(found), look))
    return _leftover(entry)


def _described(manifest: Manifest, look: Look) -> Checkpoint:
    path, reason = manifest.directory, _problem(manifest, look)
    committed = number(manifest.content.get("committed"))
    return Checkpoint(
        path=path,
        valid=reason is None,
        reason=reason,
        verified=not look.quick,
        update=manifest.update,
        progress=progress(manifest.content.get("progress")),
        bytes=size(path),
        files=_sizes(manifest),
        committed=modified(path / MANIFEST) if committed is None else committed,
        committed_by="modification time" if committed is None else "manifest",
        claims=manifest.claims,
    )


def damaged(path: Path, reason: str, look: Look) -> Checkpoint:
    """One whose manifest cannot be read."""
    return Checkpoint(
        path=path,
        valid=False,
        reason=_within(path, reason),
        verified=not look.quick,
        update=None,
        progress=progress(None),
        bytes=size(path),
        files={},
        committed=modified(path / MANIFEST),
        committed_by="modification time",
        claims=(),
    )


def _problem(manifest: Manifest, look: Look) -> str | None:
    """Why it is not valid."""
    check: Callable[[Manifest, str], Any] = sized_file
    if not look.quick:
        check = partial(verify_file, watched=lambda file: Watched(file, manifest.name, look))
    try:
        for name in manifest.files:
            check(manifest, name)
    except CheckpointError as error:
        return _within(manifest.directory, str(error))
    return None


def _within(path: Path, reason: str) -> str:
    return reason.replace(f"{path}/", "")


def _sizes(manifest: Manifest) -> dict[str, Any]:
    return {name: record.get("bytes") for name, record in manifest.files.items()}


def _leftover(entry: Path) -> Leftover:
    name, reason = entry.name, None
    if name.startswith(".bad-"):
        kind, reason = "set aside", short(entry / REASON) or "no reason is stored"
    elif name.startswith(TRASH):
        kind = "half deleted"
    elif ASIDE.search(name):
        kind = "half written"
    else:
        kind, reason = "foreign", f"it holds no {MANIFEST}" if STEP.fullmatch(name) else None
    return Leftover(name, kind, size(entry), reason)


def best(found: Sequence[Judged]) -> list[Best]:
    """Of each tag that keeps the best: the one that asking for the tag gives."""
    manifests = [each.manifest for each in found if each.manifest is not None]
    valid = {each.checkpoint.path for each in found if each.checkpoint.valid}
    claims = [claim for manifest in manifests for claim in reversed(manifest.claims)]
    rules = {claim.tag: claim for claim in reversed(claims)}
    tags = [tag for tag, rule in rules.items() if rule.keep_best is not None]
    first = {tag: [m for m in ranked(manifests, tag) if m.directory in valid][:1] for tag in tags}
    return [_of_tag(tag, manifest) for tag in sorted(tags) for manifest in first[tag]]


def _of_tag(tag: str, manifest: Manifest) -> Best:
    claim = next(claim for claim in reversed(manifest.claims) if claim.tag == tag)
    return Best(tag, claim.metric, claim.value, manifest.update, manifest.name)
