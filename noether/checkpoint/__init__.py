"""Choosing a valid checkpoint, and reading what is in it."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noether.checkpoint.manifest import (
    BAD,
    LATEST,
    MANIFEST,
    STEP,
    Candidates,
    Damaged,
    Manifest,
    UnreadableError,
    candidates,
    entries,
)
from noether.checkpoint.retention import ranked
from noether.checkpoint.verification import verify
from noether.errors import CheckpointError
from noether.remote import storage_of
from noether.storage import Storage, listed, reaching, read, replace_text

if TYPE_CHECKING:
    from noether.checkpoint.reading import Like as Like
    from noether.checkpoint.reading import load as load
    from noether.checkpoint.reading import unpickled as unpickled

REASON = "reason.txt"


def __getattr__(name: str) -> Any:
    # Late, so that one can tell what a folder holds without torch.
    if name not in ("Like", "load", "unpickled"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from noether.checkpoint import reading

    return getattr(reading, name)


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint whose files fit their digests."""

    manifest: Manifest
    notes: tuple[str, ...] = ()
    """One line for each thing that was ignored or set aside on the way to it."""

    @property
    def directory(self) -> Path:
        return self.manifest.directory


def newest(folder: Path, *, storage: Storage | None = None) -> Found | None:
    """The newest valid checkpoint in `folder`; None when there never was one.

    Damaged ones are renamed `.bad-NAME`, or their manifest where that is not atomic, and LATEST
    is put right. Raises CheckpointError when there are only damaged ones, now or set aside before,
    or one of a newer noether, or (UnreachableError) when a remote file system does not answer.
    """
    found = _first_valid(folder, lambda manifests: manifests, "", _set_aside_before(folder))
    if found is not None:
        _repair(folder, found.directory.name, storage or storage_of(folder))
    return found


def find(folder: Path, tag: str) -> Found | None:
    """The valid checkpoint claimed with `tag`: the best one if its claim keeps the best, else the
    newest. `best` also finds what another tag keeps as best. None when no checkpoint has the tag.

    Raises CheckpointError when all that might have it are damaged.
    """
    return _first_valid(folder, lambda found: _tagged(found, tag), f" with the tag {tag!r}", ())


def _tagged(manifests: Sequence[Manifest], tag: str) -> Sequence[Manifest]:
    exact = ranked(manifests, tag)
    if exact or tag != "best":
        return exact
    tags = (c.tag for m in manifests for c in reversed(m.claims) if c.keep_best is not None)
    return ranked(manifests, next(tags, tag))


def _first_valid(
    folder: Path,
    wanted: Callable[[Sequence[Manifest]], Sequence[Manifest]],
    which: str,
    earlier: Sequence[Damaged],
) -> Found | None:
    seen = candidates(folder)
    manifest, damaged = _verified(wanted(seen.manifests))
    damaged = [*seen.damaged, *damaged]
    notes = _notes(seen, damaged)
    if manifest is not None:
        return Found(manifest, notes)
    if damaged or earlier:
        named = "; ".join(map(str, [*damaged, *earlier]))
        raise CheckpointError(f"{folder} holds no valid checkpoint{which}; damaged: {named}")
    return None


def _verified(manifests: Iterable[Manifest]) -> tuple[Manifest | None, list[Damaged]]:
    damaged: list[Damaged] = []
    for manifest in manifests:
        try:
            return verify(manifest.directory), damaged
        except UnreadableError:
            raise
        except CheckpointError as error:
            damaged.append(Damaged(manifest.directory, str(error)))
    return None, damaged


def _notes(seen: Candidates, damaged: Iterable[Damaged]) -> tuple[str, ...]:
    ignored = (f"ignored {name}: not a checkpoint" for name in seen.ignored)
    return (*ignored, *map(_set_aside, damaged))


def _set_aside(damaged: Damaged) -> str:
    """Rename it, with its reason inside. It may lie where nothing can be written: then it stays."""
    directory = damaged.directory
    if not storage_of(directory).atomic_rename:
        return _unmade(damaged, storage_of(directory))
    names = (f".bad-{directory.name}{'' if n == 1 else f'-{n}'}" for n in count(1))
    target = next(path for path in map(directory.with_name, names) if not path.exists())
    try:
        (directory / REASON).write_text(f"{damaged.reason}\n")
        directory.rename(target)
    except OSError as error:
        return f"passed over {damaged}; it cannot be set aside: {error}"
    return f"set aside as {target.name}: {damaged.reason}"


def _unmade(damaged: Damaged, storage: Storage) -> str:
    """Rename its manifest alone, with the reason beside it."""
    directory = damaged.directory
    try:
        storage.put(directory / REASON, f"{damaged.reason}\n".encode())
        storage.put(directory / BAD, read(directory / MANIFEST))
        storage.remove(directory / MANIFEST)
    except OSError as error:
        return f"passed over {damaged}; it cannot be set aside: {error}"
    return f"set aside {directory.name}, its manifest as {BAD}: {damaged.reason}"


def _set_aside_before(folder: Path) -> list[Damaged]:
    there = entries(folder)
    bad = [path for path in there if path.name.startswith(".bad-")]
    if not storage_of(folder).atomic_rename:
        bad = [path for path in there if STEP.fullmatch(path.name) and _is_unmade(path)]
    return [Damaged(path, _reason(path)) for path in bad]


def _is_unmade(directory: Path) -> bool:
    with suppress(OSError):
        names = {child.name for child in listed(directory)}
        return BAD in names and MANIFEST not in names
    return False


def _reason(path: Path) -> str:
    with suppress(OSError):
        return read(path / REASON).decode(errors="replace").strip()
    return "set aside before"


def _repair(folder: Path, name: str, storage: Storage) -> None:
    """LATEST is for people and scripts; where nothing can be written it is left as it is."""
    path = folder / LATEST
    with suppress(OSError), reaching():
        if not path.is_file() or path.read_bytes().strip() != name.encode():
            replace_text(path, f"{name}\n", storage)
