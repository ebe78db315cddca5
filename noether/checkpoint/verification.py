"""Whether a checkpoint's files are what its manifest says, by their sizes and digests."""

import hashlib
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from noether.checkpoint.manifest import Manifest, read_manifest, unreadable
from noether.errors import CheckpointError
from noether.storage import is_local, reaching


def verify(directory: Path) -> Manifest:
    """The manifest of the checkpoint at `directory`, all of whose files fit their digests.

    Raises CheckpointError naming the first file that does not. Copies of remote files are held
    until `let_go`, or until another checkpoint is verified.
    """
    if not is_local(directory):
        let_go()
    manifest = read_manifest(directory)
    for name in manifest.files:
        verify_file(manifest, name)
    return manifest


def _as_it_is(file: BinaryIO) -> Any:
    return file


def verify_file(
    manifest: Manifest, name: str, *, watched: Callable[[BinaryIO], Any] = _as_it_is
) -> Path | BinaryIO:
    """What to read a file from that fits its digest: its path, or a local copy of a remote one.

    Raises CheckpointError naming the file otherwise. `watched` gives what is read in its place.
    """
    path, record = manifest.directory / name, manifest.files[name]
    if is_local(path):
        sized_file(manifest, name)
    source, size, found = _digested(path, watched)
    if size != record.get("bytes"):
        raise CheckpointError(f"{path} has {size} bytes instead of {record.get('bytes')}")
    if found != record.get("sha256"):
        raise CheckpointError(f"{path} is damaged: its sha256 is not the manifest's")
    return source


HELD: dict[str, tuple[BinaryIO, int, str]] = {}
"""Copies of the remote files that have been verified, so that loading fetches nothing again."""


def let_go() -> None:
    """Give back the room that copies of remote files take."""
    while HELD:
        HELD.popitem()[1][0].close()


def _digested(path: Path, watched: Callable[[BinaryIO], Any]) -> tuple[Path | BinaryIO, int, str]:
    """What to read a file from, its size and digest."""
    try:
        if is_local(path):
            with open(path, "rb", buffering=0) as file:
                found = hashlib.file_digest(watched(file), "sha256").hexdigest()
                return path, file.tell(), found
        if str(path) not in HELD:
            copy = _fetched(path)
            HELD[str(path)] = copy, *_digest_of(copy)
    except OSError as error:
        raise unreadable(path, error) from error
    copy, size, found = HELD[str(path)]
    copy.seek(0)
    return copy, size, found


def _digest_of(file: Any) -> tuple[int, str]:
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()
    return file.tell(), found


def _fetched(path: Path) -> BinaryIO:
    copy: BinaryIO = TemporaryFile()  # noqa: SIM115
    try:
        with reaching(), path.open("rb") as remote:
            shutil.copyfileobj(remote, copy, 1 << 20)
    except BaseException:
        copy.close()
        raise
    return copy


def verify_sizes(manifest: Manifest) -> None:
    """Raise CheckpointError where a file is not there, or not as long as it was written."""
    for name, record in manifest.files.items():
        path = manifest.directory / name
        try:
            with reaching():
                size = path.stat().st_size
        except OSError as error:
            raise unreadable(path, error) from error
        if size != record.get("bytes"):
            raise CheckpointError(f"{path} has {size} bytes instead of {record.get('bytes')}")


def sized_file(manifest: Manifest, name: str) -> Path:
    """The path of one file that has its size, whatever is in it; raises CheckpointError."""
    path, size = manifest.directory / name, manifest.files[name].get("bytes")
    try:
        found = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
        raise CheckpointError(f"{path} cannot be read: it is no file")
    if found.st_size != size:
        raise CheckpointError(f"{path} has {found.st_size} bytes instead of {size}")
    return path
