"""Writing a checkpoint so that it is complete or absent, whatever happens meanwhile."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from noether.checkpoint.manifest import FORMAT, LATEST, MANIFEST, candidates, parsed, sealed
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
        raise CheckpointError(
            f"checkpoint of update {manifest.get('update')} cannot be written to {folder}: {error}"
        ) from error


def _commit(
    folder: Path, files: Mapping[str, Any], manifest: Mapping[str, Any], storage: Storage
) -> Path:
    if not folder.exists():
        storage.mkdir(folder)
        storage.sync_directory(folder.parent)
    target = _free(folder, manifest["update"])
    aside = target.with_name(target.name + aside_suffix())
    content = {**manifest, **_described(folder, target, manifest)}
    try:
        storage.mkdir(aside)
        records = {name: _save(tree, aside / name, storage) for name, tree in files.items()}
        _write_manifest(aside, {**content, "files": records}, storage)
        storage.sync_directory(aside)
        storage.rename(aside, target)
    except BaseException:
        discard(aside, storage)
        raise
    storage.sync_directory(folder)
    replace_text(folder / LATEST, f"{target.name}\n", storage)
    return target


def _free(folder: Path, update: int) -> Path:
    path, copy = folder / f"step-{update}", 1
    while path.exists():
        copy += 1
        path = folder / f"step-{update}-{copy}"
    return path


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
    }


def _save(tree: Any, path: Path, storage: Storage) -> dict[str, Any]:
    with writing(path, storage) as sink:
        try:
            torch.save(tree, sink)  # type: ignore[arg-type]  # it needs only write and flush
        except RuntimeError:
            if sink.error is not None:  # torch masks it, an interrupt too, by `unexpected pos`
                raise sink.error from None
            raise
    return {"bytes": sink.size, "sha256": sink.sha256.hexdigest()}


def _write_manifest(aside: Path, content: Mapping[str, Any], storage: Storage) -> None:
    parsed(aside, content)  # what could not be read again is not written
    with writing(aside / MANIFEST, storage) as sink:
        sink.write(sealed(content).encode())


def _noether_version() -> str:
    try:
        return version("noether-callbacks")
    except PackageNotFoundError:  # run from its source tree
        return "unknown"
