"""A file system of fsspec as object stores are: names without directories, uploaded on closing.

It takes the place of `s3://`, and can be down: then everything raises what is no OSError, and
questions such as `exists` say no, as fsspec's do.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import fsspec
from fsspec.registry import _registry
from fsspec.spec import AbstractBufferedFile


class Down(Exception):
    """What a client of a store raises when that does not answer."""


@dataclass(slots=True)
class Bucket:
    """The one bucket that there is, `s3://bucket`."""

    objects: dict[str, bytes] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    """How often each kind of request was made."""
    fetched: Counter[str] = field(default_factory=Counter)
    """Bytes that were downloaded, by name of the object."""
    fails: Callable[[str, str], bool] = lambda kind, name: False
    """Whether a request, of this kind and name, is not answered."""

    def request(self, kind: str, name: str) -> None:
        self.asked[kind] += 1
        if self.fails(kind, name):
            raise Down(f"{kind} {name}: no route to the store")
        if name.split("/")[0] != "bucket":
            raise FileNotFoundError(f"there is no bucket {name.split('/')[0]}")

    def names(self, folder: str) -> list[str]:
        """The objects under a name, relative to the bucket."""
        start = f"bucket/{folder}/"
        return sorted(name.removeprefix(start) for name in self.objects if name.startswith(start))


BUCKET = Bucket()


class BucketFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    protocol = "s3"
    cachable = False

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002
        path = self._strip_protocol(path).rstrip("/")
        BUCKET.request("list", path)
        found: dict[str, dict[str, Any]] = {}
        for name, content in BUCKET.objects.items():
            if name == path:
                found[name] = {"name": name, "size": len(content), "type": "file"}
            elif name.startswith(f"{path}/"):
                head, deeper, _rest = name[len(path) + 1 :].partition("/")
                child, size = f"{path}/{head}", 0 if deeper else len(content)
                kind = "directory" if deeper else "file"
                found[child] = {"name": child, "size": size, "type": kind}
        if not found and path != "bucket":
            raise FileNotFoundError(path)
        return list(found.values()) if detail else sorted(found)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path).rstrip("/")
        BUCKET.request("head", path)
        if path in BUCKET.objects:
            return {"name": path, "size": len(BUCKET.objects[path]), "type": "file"}
        self.ls(path)
        return {"name": path, "size": 0, "type": "directory"}

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:  # noqa: FBT001, FBT002
        assert not create_parents, "it would make a bucket"
        BUCKET.request("mkdir", self._strip_protocol(path))

    def rmdir(self, path: str) -> None:
        raise FileNotFoundError(path)

    def rm_file(self, path: str) -> None:
        path = self._strip_protocol(path)
        BUCKET.request("delete", path)
        BUCKET.objects.pop(path, None)  # deleting what isn't there is no error

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        path = self._strip_protocol(path)
        BUCKET.request("get", path)
        if path not in BUCKET.objects:
            raise FileNotFoundError(path)
        part = BUCKET.objects[path][start:end]
        BUCKET.fetched[path.removeprefix("bucket/")] += len(part)
        return part

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return BucketFile(self, path, mode, block_size=1000)


class BucketFile(AbstractBufferedFile):  # type: ignore[misc]
    parts: list[bytes]

    def _initiate_upload(self) -> None:
        self.parts = []

    def _upload_chunk(self, final: bool = False) -> bool:  # noqa: FBT001, FBT002
        BUCKET.request("put", self.path)
        self.parts.append(self.buffer.getvalue())
        if final:
            BUCKET.objects[self.path] = b"".join(self.parts)
        return True

    def discard(self) -> None:
        self.parts = []


@contextmanager
def bucket() -> Iterator[Bucket]:
    """An empty bucket behind `s3://bucket`."""
    before = _registry.get("s3")
    fsspec.register_implementation("s3", BucketFileSystem, clobber=True)
    BUCKET.objects, BUCKET.asked, BUCKET.fetched = {}, Counter(), Counter()
    BUCKET.fails = lambda kind, name: False
    try:
        yield BUCKET
    finally:
        del _registry["s3"]
        if before is not None:
            _registry["s3"] = before
