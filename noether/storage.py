"""The few file operations a commit is made of, as a record: a test makes any one of them fail."""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from noether.digests import Digest, close


def _create(path: Path) -> BinaryIO:
    return open(path, "xb")


def _write(file: BinaryIO, data: bytes | memoryview) -> int:
    return file.write(data)


def _fsync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _close(file: BinaryIO) -> None:
    file.close()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(path: Path) -> int:
    return shutil.disk_usage(path).free


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@dataclass(frozen=True, slots=True)
class Storage:
    """How files are written; every function raises OSError."""

    mkdir: Callable[[Path], None] = os.mkdir
    create: Callable[[Path], BinaryIO] = _create
    """Open a file that does not exist yet, for writing."""
    write: Callable[[BinaryIO, bytes | memoryview], int] = _write
    fsync: Callable[[BinaryIO], None] = _fsync
    """Flush a file to the disk."""
    close: Callable[[BinaryIO], None] = _close
    sync_directory: Callable[[Path], None] = _sync_directory
    """Flush the names in a directory to the disk."""
    rename: Callable[[Path, Path], None] = os.rename
    replace: Callable[[Path, Path], None] = os.replace
    remove: Callable[[Path], None] = os.remove
    rmdir: Callable[[Path], None] = os.rmdir
    free: Callable[[Path], int] = _free
    """Bytes that can still be written where a path lies."""
    put: Callable[[Path, bytes], None] = _put
    """Write a small file in one go, over what it held; of use where no rename is atomic."""
    atomic_rename: bool = True
    """Whether a directory can be written aside and renamed. Where it can't, it is written in its
    place, and the file without which it does not exist is written last and removed first."""


STORAGE = Storage()


def is_local(path: Any) -> bool:
    """Whether a path is one of this machine's, not one that `remote.path` made of a URL."""
    return isinstance(path, Path)


@contextmanager
def reaching() -> Iterator[None]:
    """Make whatever a remote file system raises an OSError, as the errors of a disk are."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def listed(path: Any) -> list[Path]:
    """What lies in a directory, by name; raises OSError, also where there is none."""
    if is_local(path):
        return sorted(path.iterdir())
    # `iterdir` of a remote path takes a network that is down for a directory that isn't there.
    with reaching():
        path.fs.invalidate_cache()
        found = [name.rstrip("/") for name in path.fs.ls(path.path, detail=False)]
    own = path.path.rstrip("/")
    return [path / name.rpartition("/")[2] for name in sorted(set(found)) if name != own]


def read(path: Path) -> bytes:
    """What a small file holds; raises OSError."""
    with reaching():
        return path.read_bytes()


FLUSHED = 1 << 25
"""Bytes after which the disk is asked to begin."""


@dataclass(slots=True)
class Sink:
    """What `torch.save` streams into: counts and digests what passes through."""

    file: BinaryIO
    storage: Storage
    size: int = 0
    digest: Digest = field(default_factory=Digest)
    error: BaseException | None = None
    """The first one that writing raised, whatever the caller makes of it."""
    flusher: ThreadPoolExecutor | None = None
    flushes: list[Future[None]] = field(default_factory=list)
    flushed: int = 0

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        self.digest.update(view)
        self.size += view.nbytes
        try:
            written = self.storage.write(self.file, data)
        except BaseException as error:
            self.error = self.error or error
            raise
        if self.size - self.flushed >= FLUSHED and all(each.done() for each in self.flushes):
            self._flush_beside()
        return written

    def _flush_beside(self) -> None:
        """Let the disk begin, so that less is left to wait for at the end."""
        self.flusher = self.flusher or ThreadPoolExecutor(1, "noether-flush")
        self.flushes.append(self.flusher.submit(self.storage.fsync, self.file))
        self.flushed = self.size

    def end(self) -> None:
        """Wait for what goes on beside."""
        close(self.digest)
        if self.flusher is not None:
            self.flusher.shutdown()

    def flush(self) -> None:
        """Nothing: the file is flushed once, when it is complete."""

    @property
    def record(self) -> dict[str, Any]:
        """Size and digest, once everything is written."""
        return {"bytes": self.size, "sha256": self.digest.hexdigest()}


@contextmanager
def writing(path: Path, storage: Storage = STORAGE) -> Iterator[Sink]:
    """A sink into the new file `path`, on the disk when the block ends; raises OSError."""
    file = storage.create(path)
    sink = Sink(file, storage)
    try:
        yield sink
        for each in sink.flushes:
            each.result()
        storage.fsync(file)
        storage.close(file)
    except BaseException:
        sink.end()
        with suppress(OSError):  # closing flushes again, and fails again; the first error counts
            _abandon(file)
        raise
    finally:
        sink.end()


def _abandon(file: Any) -> None:
    with reaching():
        if hasattr(file, "forced"):
            # Closed as it is, or collected, a file of fsspec would upload the half it has got.
            file.forced = True
            file.discard()
        file.close()


def replace_text(path: Path, text: str, storage: Storage = STORAGE) -> None:
    """Let `path` hold `text`, or what it held before, at every moment; raises OSError."""
    if not storage.atomic_rename:
        return storage.put(path, text.encode())
    with replacing(path, storage) as sink:
        sink.write(text.encode())
    return None


@contextmanager
def replacing(path: Path, storage: Storage = STORAGE) -> Iterator[Sink]:
    """A sink; what went into it takes the place of `path` when the block ends; raises OSError."""
    aside = path.with_name(path.name + aside_suffix())
    try:
        with writing(aside, storage) as sink:
            yield sink
        storage.replace(aside, path)
    except BaseException:
        discard(aside, storage)
        raise
    storage.sync_directory(path.parent)


def remove_tree(path: Path, storage: Storage = STORAGE, *, first: str = "") -> None:
    """Remove a file, or a directory with all it holds, beginning with the file named `first`.

    Raises OSError; then nothing but what came before is removed.
    """
    with reaching():
        is_file = path.is_symlink() or not path.is_dir()
    if is_file:
        return storage.remove(path)
    for child in sorted(listed(path), key=lambda child: (child.name != first, child)):
        remove_tree(child, storage)
    return storage.rmdir(path)


def discard(path: Path, storage: Storage = STORAGE, *, first: str = "") -> bool:
    """Remove what is at `path` if that is possible; says whether it is gone."""
    try:
        remove_tree(path, storage, first=first)
    except OSError:
        return is_local(path) and not os.path.lexists(path)
    return True


ASIDE = re.compile(r"\.tmp-(?P<pid>\d+)-(?P<host>[0-9a-f]{8})[0-9a-f]{8}$")


def _host() -> str:
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def aside_suffix() -> str:
    """`.tmp-PID-NONCE`, for what is being written; the nonce begins with a digest of the host."""
    return f".tmp-{os.getpid()}-{_host()}{secrets.token_hex(4)}"


def is_stale(name: str) -> bool:
    """Whether `name` was written aside by a process of this host that is gone, or by this one.

    This one counts as gone because a restarted container gets the same process id: ask before
    the first commit only.
    """
    found = ASIDE.search(name)
    if found is None or found["host"] != _host():
        return False
    return int(found["pid"]) == os.getpid() or not is_alive(int(found["pid"]))


def is_alive(pid: int) -> bool:
    """Whether this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
