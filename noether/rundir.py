"""Run directories: numbered in their series, owned by one process, with a status for others."""

import fcntl
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from noether.errors import CheckpointError, RunLockedError
from noether.plain import plain
from noether.storage import STORAGE, Storage, aside_suffix, discard, is_alive, replace_text, writing

STATUS = "status.json"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
OWNED = re.compile(rb"pid (\d{1,9}) on (.+)\n")


def new_run(series: Path, taken: Iterable[int] = ()) -> Path:
    """Make the next numbered run directory of `series`; two processes never get the same.

    Its number is above those that are `taken`, too.

    Raises CheckpointError when it cannot be made.
    """
    try:
        series.mkdir(parents=True, exist_ok=True)
        run = _next(series, taken)
        (run / CHECKPOINTS).mkdir()
        for directory in (run, series):
            STORAGE.sync_directory(directory)
    except OSError as error:
        raise CheckpointError(f"no run directory can be made in {series}: {error}") from error
    return run


def _next(series: Path, taken: Iterable[int]) -> Path:
    numbers = [int(path.name) for path in series.iterdir() if is_numbered(path.name)]
    following = count(max([*numbers, *taken], default=0) + 1)
    return next(run for number in following if _made(run := series / str(number)))


def _made(directory: Path) -> bool:
    try:
        directory.mkdir()
    except FileExistsError:  # another process was faster
        return False
    return True


def is_numbered(name: str) -> bool:
    """Whether it can be the name of a run directory."""
    return name.isascii() and name.isdigit() and not name.startswith("0")


def runs(series: Path) -> list[Path]:
    """The run directories of `series`, newest first."""
    if not series.is_dir():
        return []
    found = (path for path in series.iterdir() if is_numbered(path.name) and path.is_dir())
    return sorted(found, key=lambda path: int(path.name), reverse=True)


_held: set[int] = set()


def _close_held() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


# A forked loader worker that outlives a killed owner would go on holding the lock.
os.register_at_fork(after_in_child=_close_held)


@dataclass(frozen=True, slots=True)
class Lock:
    """A run directory that no other process can lock until `release`, or this one's end."""

    run: Path
    descriptor: int

    def release(self) -> None:
        """Give the run directory back; nothing happens the second time, or in a forked child."""
        if self.descriptor in _held:
            _held.remove(self.descriptor)
            # Closing alone waits for a worker that is being forked just now.
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            os.close(self.descriptor)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock(run: Path) -> Lock:
    """Own the run directory; the kernel frees it when the process ends, however it ends.

    Raises RunLockedError naming the owner when there is one, and CheckpointError when the
    directory cannot be written.
    """
    path = run / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise CheckpointError(f"run directory {run} cannot be locked: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Written over the last owner, so that it always names one.
        named = f"pid {os.getpid()} on {os.uname().nodename}\n".encode()
        os.pwrite(descriptor, named, 0)
        os.ftruncate(descriptor, len(named))
    except BlockingIOError as error:
        owner = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise RunLockedError(
            f"run directory {run} is in use by {owner or 'another process'}: wait for it, or start "
            "a run of its own"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise CheckpointError(f"run directory {run} cannot be locked: {error}") from error
    _held.add(descriptor)
    return Lock(run, descriptor)


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that owns a run directory, or did so last."""

    pid: int
    host: str
    owns: bool | None
    """Whether it still does; None where that cannot be told from here."""


def owner(run: Path) -> Owner | None:
    """Who owns the run directory, told without locking it; None where nobody ever did."""
    path = run / LOCK
    try:
        # An attempt to lock it, however short, could refuse a process that starts just then.
        found = OWNED.fullmatch(path.read_bytes()[:1000]) if path.is_file() else None
        return None if found is None else _owner(path, int(found[1]), found[2])
    except OSError:
        return None


def _owner(path: Path, pid: int, host: bytes) -> Owner:
    here = host == os.uname().nodename.encode()
    return Owner(pid, host.decode(errors="replace"), _opened(pid, path.stat()) if here else None)


def _opened(pid: int, file: os.stat_result) -> bool | None:
    """Whether a process of this host has the file open."""
    if not os.path.isdir("/proc/self/fd"):  # a system without it
        return None if is_alive(pid) else False
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except FileNotFoundError:
        return False
    except OSError:  # a process of somebody else
        return None
    return any(_is_file(f"/proc/{pid}/fd/{number}", file) for number in descriptors)


def _is_file(path: str, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except OSError:
        return False


def write_status(run: Path, **fields: Any) -> None:
    """Let `status.json` hold `fields` and nothing else, at once; raises OSError."""
    replace_text(run / STATUS, json.dumps(plain(fields), indent=1) + "\n")


def read_status(run: Path) -> dict[str, Any]:
    """What `status.json` holds; empty when there is none. Raises CheckpointError if damaged."""
    path = run / STATUS
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is no status: it holds {fields!r}")
    return fields


def probe(run: Path) -> None:
    """Write a few bytes where checkpoints will go; raises CheckpointError if that fails."""
    folder = run / CHECKPOINTS
    probe_folder(folder if folder.is_dir() else run, f"run directory {run}")


def probe_folder(folder: Path, name: str, storage: Storage = STORAGE) -> None:
    """Write a few bytes in a folder; raises CheckpointError, which calls it `name`."""
    path = folder / f".probe{aside_suffix()}"
    try:
        with writing(path, storage) as sink:
            sink.write(b"noether")
    except OSError as error:
        raise CheckpointError(f"{name} cannot be written: {error}") from error
    finally:
        discard(path, storage)
