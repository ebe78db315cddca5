"""Writing a checkpoint so that it is complete or absent, whatever happens meanwhile."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.serialization import config

from noether.checkpoint.encoding import ELSEWHERE, mapped, tensor_name
from noether.checkpoint.encoding import Path as TreePath
from noether.checkpoint.manifest import (
    FORMAT,
    INDEX,
    LATEST,
    MANIFEST,
    candidates,
    entries,
    parsed,
    sealed,
)
from noether.errors import CheckpointError
from noether.storage import STORAGE, Storage, aside_suffix, discard, replace_text, writing


def commit(
    folder: Path,
    files: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    storage: Storage = STORAGE,
) -> Path:
    """Write the trees in `files` as a checkpoint directory of `folder`, and point LATEST to it.

    `manifest` holds `update` and whatever else describes the checkpoint (`progress`, `claims`).
    Raises CheckpointError, its cause the first error: nothing half written stays, and what was
    committed before stands. An error after the rename leaves the new one in place as well.
    """
    try:
        return _commit(folder, files, manifest, storage)
    except CheckpointError:
        raise
    except Exception as error:
        raise _failed(folder, manifest, error) from error


def _failed(folder: Path, manifest: Mapping[str, Any], error: Exception) -> CheckpointError:
    update = manifest.get("update")
    return CheckpointError(f"checkpoint of update {update} cannot be written to {folder}: {error}")


def _commit(
    folder: Path, files: Mapping[str, Any], manifest: Mapping[str, Any], storage: Storage
) -> Path:
    begun = _begin(folder, manifest, storage)
    try:
        _complete(begun, _write(files, begun.aside, storage), storage)
    except BaseException:
        discard(begun.aside, storage, first=MANIFEST)
        raise
    return _announce(begun, storage)


def commit_together(
    folder: Path,
    files: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    spread: Callable[[str, TreePath, Tensor], bool],
    group: Any,
    first: Callable[[], Any],
    storage: Storage = STORAGE,
) -> None:
    """Write the trees of all ranks of `group` as one checkpoint, whatever else `commit` says.

    The tensors that `spread` picks are shared out among the ranks, or equal on all of them: each
    rank writes a part. All else is rank 0's, which does `first` before. Raises
    CheckpointError naming the ranks that failed, on all of them.
    """
    from noether.checkpoint.sharding import Record, Writer, save  # late: it takes long

    begun: list[_Begun] = []
    tensors: dict[str, Tensor] = {}
    rest = {name: _without(tensors, name, tree, spread) for name, tree in files.items()}

    def begin() -> Path:
        first()
        begun.append(_begin(folder, manifest, storage))
        return begun[0].aside

    def complete(aside: Path, index: str, records: Mapping[str, Record]) -> None:
        more = {**_write(rest, aside, storage), INDEX: _write_text(aside / INDEX, index, storage)}
        _complete(begun[0], {**records, **more}, storage)
        _announce(begun.pop(), storage)

    try:
        save(tensors, Writer(begin, partial(_save, storage=storage), complete), group)
    except BaseException as error:
        for each in begun:
            discard(each.aside, storage, first=MANIFEST)
        if isinstance(error, CheckpointError):
            raise _failed(folder, manifest, error) from error.__cause__
        raise


def _without(
    taken: dict[str, Tensor],
    file: str,
    tree: Any,
    spread: Callable[[str, TreePath, Tensor], bool],
) -> Any:
    """The tree with the tensors that are spread taken out of it."""

    def left(path: TreePath, tensor: Tensor) -> Tensor:
        if not spread(file, path, tensor) and tensor.shape != ELSEWHERE:
            return tensor
        taken[tensor_name(file, path)] = tensor
        return torch.empty(ELSEWHERE)

    return mapped(tree, left)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A checkpoint being written."""

    aside: Path
    """The target itself, where no rename is atomic."""
    target: Path
    content: Mapping[str, Any]


def _begin(folder: Path, manifest: Mapping[str, Any], storage: Storage) -> _Begun:
    if not folder.exists():
        storage.mkdir(folder)
        storage.sync_directory(folder.parent)
    target = _free(folder, manifest["update"])
    aside = target
    if storage.atomic_rename:
        aside = target.with_name(target.name + aside_suffix())
    begun = _Begun(aside, target, {**manifest, **_described(folder, target, manifest)})
    storage.mkdir(aside)
    return begun


def _complete(begun: _Begun, records: Mapping[str, Any], storage: Storage) -> None:
    """Write the manifest, and let the directory be there."""
    _write_manifest(begun.aside, {**begun.content, "files": dict(records)}, storage)
    storage.sync_directory(begun.aside)
    if storage.atomic_rename:
        storage.rename(begun.aside, begun.target)


def _announce(begun: _Begun, storage: Storage) -> Path:
    folder = begun.target.parent
    storage.sync_directory(folder)
    replace_text(folder / LATEST, f"{begun.target.name}\n", storage)
    return begun.target


def _write(files: Mapping[str, Any], aside: Path, storage: Storage) -> dict[str, Any]:
    return {name: _save(tree, aside / name, storage) for name, tree in files.items()}


def _free(folder: Path, update: int) -> Path:
    taken = {entry.name for entry in entries(folder)}
    names = (f"step-{update}{'' if copy == 1 else f'-{copy}'}" for copy in count(1))
    return folder / next(name for name in names if name not in taken)


def _described(folder: Path, target: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    claims = list(manifest.get("claims", ()))
    return {
        "format": FORMAT,
        "name": target.name,
        "serial": 1 + max((m.serial for m in candidates(folder).manifests), default=0),
        "progress": manifest.get("progress", {}),
        "claims": claims,
        "best": any(claim.get("keep_best") is not None for claim in claims),
        "noether": _noether_version(),
        "torch": str(torch.__version__),
        "committed": int(time.time()),
    }


def _save(tree: Any, path: Path, storage: Storage) -> dict[str, Any]:
    # Its sha256 stands in the manifest: a checksum for each tensor would be computed for nothing.
    plain = config.patch({"save.compute_crc32": False})  # type: ignore[attr-defined]
    with writing(path, storage) as sink, plain:
        try:
            torch.save(tree, sink)  # type: ignore[arg-type]  # it needs only write and flush
        except RuntimeError:
            if sink.error is not None:  # torch masks it, an interrupt too, by `unexpected pos`
                raise sink.error from None
            raise
    return sink.record


def _write_text(path: Path, text: str, storage: Storage) -> dict[str, Any]:
    with writing(path, storage) as sink:
        sink.write(text.encode())
    return sink.record


def _write_manifest(aside: Path, content: Mapping[str, Any], storage: Storage) -> None:
    parsed(aside, content)  # what could not be read again is not written
    text = sealed(content)
    if storage.atomic_rename:
        _write_text(aside / MANIFEST, text, storage)
    else:  # nobody may see the half of it
        storage.put(aside / MANIFEST, text.encode())


def _noether_version() -> str:
    try:
        return version("noether-callbacks")
    except PackageNotFoundError:  # run from its source tree
        return "unknown"
