"""Paths on remote file systems, by fsspec, and how files are written there."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

from noether.digests import PIECE
from noether.errors import ConfigurationError
from noether.storage import STORAGE, Storage, is_local, reaching

URL = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.-]+):(?P<rest>[/:].*)", re.DOTALL)
LAYERED = (
    *("archive", "async_wrapper", "blockcache", "cached", "dir", "filecache", "generic"),
    *("libarchive", "reference", "simplecache", "tar", "zip"),
)
"""File systems of fsspec that lie upon another one, which their options name."""


def is_url(text: object) -> bool:
    """Whether it names a remote file system; a URL that a Path has taken for a path also does.

    >>> is_url("s3://bucket/digits"), is_url("runs/digits")
    (True, False)
    """
    return URL.match(str(text)) is not None


def path(text: str) -> Path:
    """The path that a text names: a local one, or one of a file system that fsspec knows.

    What is remote has the methods of a Path. Raises ConfigurationError where it can't be used.

    >>> path("runs/digits")
    PosixPath('runs/digits')
    """
    if not is_url(text):
        return Path(text)
    if (wrong := mistake(text)) is not None:
        raise ConfigurationError([f"{text!r} {wrong}"])
    from upath import UPath  # late: an extra, and it takes long

    return cast(Path, UPath(re.sub(r"(?<=[^/:])/+$", "", text)))


def mistake(text: str) -> str | None:
    """What is wrong with a URL; nothing is connected to."""
    found = URL.match(text)
    assert found is not None
    if "::" in text or found["protocol"] in LAYERED:
        return "is a file system upon another one; name the one where the files lie"
    if not found["rest"].startswith("//"):
        return "has lost a slash: write PROTOCOL://, in a str, which a Path can't hold"
    if not text.isprintable():
        return "has characters that can't be printed"
    if find_spec("upath") is None or find_spec("fsspec") is None:
        return "is a URL, which needs the extra `remote`: pip install 'noether-callbacks[remote]'"
    from fsspec import get_filesystem_class  # late: an extra

    try:
        get_filesystem_class(found["protocol"])
    except (ImportError, ValueError) as error:
        return f"cannot be used: {error}"
    return None


def storage_of(path: Path) -> Storage:
    """How files are written where a path lies."""
    return STORAGE if is_local(path) else REMOTE


Function = Callable[..., Any]


def _reaching(function: Function) -> Function:
    @wraps(function)
    def called(*arguments: Any) -> Any:
        with reaching():
            return function(*arguments)

    return called


@_reaching
def _mkdir(path: Any) -> None:
    above = path.parent
    if above != path and not above.exists():
        _mkdir(above)
    # Not with its parents: on an object store that would make a bucket of a misspelt name.
    if above != path:
        path.mkdir(exist_ok=True)


@_reaching
def _create(path: Any) -> BinaryIO:
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    file: BinaryIO = path.open("wb")
    return file


@_reaching
def _write(file: BinaryIO, data: bytes | memoryview) -> int:
    # A file of fsspec holds all it is given at once in memory before it uploads a part.
    view = memoryview(data).cast("B")
    for start in range(0, view.nbytes, PIECE):
        file.write(view[start : start + PIECE])
    return view.nbytes


@_reaching
def _close(file: BinaryIO) -> None:
    file.close()


def _rename(source: Path, target: Path) -> None:
    raise OSError(f"{source} cannot be renamed: what is written there is written in its place")


@_reaching
def _remove(path: Any) -> None:
    path.fs.rm_file(path.path)


def _rmdir(path: Any) -> None:
    # Most object stores have no directories; where there are some, an empty one says nothing.
    with suppress(Exception):
        path.fs.rmdir(path.path)


def _free(path: Path) -> int:
    raise OSError(f"{path} doesn't tell its room")


@_reaching
def _put(path: Any, data: bytes) -> None:
    path.fs.pipe_file(path.path, data)


def _nothing(_: Any) -> None:
    """What is closed is stored."""


REMOTE = Storage(
    mkdir=_mkdir,
    create=_create,
    write=_write,
    fsync=_nothing,
    close=_close,
    sync_directory=_nothing,
    rename=_rename,
    replace=_rename,
    remove=_remove,
    rmdir=_rmdir,
    free=_free,
    put=_put,
    atomic_rename=False,
)
