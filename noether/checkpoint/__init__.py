"""Choosing a valid checkpoint, and reading what is in it."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from noether.checkpoint.encoding import Path as TreePath
from noether.checkpoint.encoding import mapped, tensor_name
from noether.checkpoint.manifest import (
    BAD,
    INDEX,
    LATEST,
    MANIFEST,
    STEP,
    Candidates,
    Damaged,
    Manifest,
    UnreachableError,
    candidates,
    entries,
    read_manifest,
    verify,
    verify_file,
)
from noether.checkpoint.retention import ranked
from noether.errors import CheckpointError, suggestion
from noether.remote import storage_of
from noether.storage import Storage, listed, reaching, read, replace_text

REASON = "reason.txt"


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


Like = Callable[[TreePath, torch.Size], torch.Tensor | None]
"""The tensor that one at this place of a tree, of this size, is shared out among the ranks as."""


def load(directory: Path, name: str, like: Like | None = None) -> Any:
    """The tree in the file `name` of the checkpoint, on the CPU.

    What several ranks wrote is put together, or shared out among the present ones as `like` says.
    Digests are verified first; no code is ever run. Raises CheckpointError naming the file.
    """
    manifest = read_manifest(directory)
    if name not in manifest.files:
        hint = suggestion(name, manifest.files)
        raise CheckpointError(f"checkpoint {directory} holds no {name}. {hint}")
    source = verify_file(manifest, name)
    try:
        tree = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{directory / name} cannot be loaded: {error}") from error
    return _filled(manifest, name, tree, like) if INDEX in manifest.files else tree


def _filled(manifest: Manifest, name: str, tree: Any, like: Like | None) -> Any:
    """The tree with the tensors that the ranks' files hold."""
    from noether.checkpoint import sharding  # late: it takes long

    stored = sharding.read_index(manifest)
    targets: dict[str, torch.Tensor] = {}

    def allocate(path: TreePath, tensor: torch.Tensor) -> torch.Tensor:
        if (kept := stored.get(tensor_name(name, path))) is None:
            return tensor
        model = None if like is None else like(path, kept.size)
        made = torch.empty(kept.size) if model is None else torch.empty_like(model)
        targets[tensor_name(name, path)] = made = made.detach().to(kept.dtype)
        return made

    filled = mapped(tree, allocate)
    sharding.load(manifest, {key: stored[key] for key in targets}, targets)
    return filled


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
        except UnreachableError:
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
    with suppress(OSError, ValueError):
        return read(path / REASON).decode().strip()
    return "set aside before"


def _repair(folder: Path, name: str, storage: Storage) -> None:
    """LATEST is for people and scripts; where nothing can be written it is left as it is."""
    path = folder / LATEST
    with suppress(OSError), reaching():
        if not path.is_file() or path.read_bytes().strip() != name.encode():
            replace_text(path, f"{name}\n", storage)
