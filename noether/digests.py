"""sha256 of what is being written, computed beside the writing."""

import hashlib
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

PIECE = 1 << 20
"""Bytes that are handed over at once; what comes in smaller parts is digested in place."""
WAITING = 32
"""Pieces that may wait to be digested."""


@dataclass(slots=True)
class Digest:
    """A sha256 that large data reach in a thread of their own, which ends with `hexdigest`."""

    sha256: Any = field(default_factory=hashlib.sha256)
    thread: Thread | None = None
    todo: SimpleQueue[memoryview | None] = field(default_factory=SimpleQueue)
    done: SimpleQueue[bytearray] = field(default_factory=SimpleQueue)
    held: int = 0
    """Pieces of memory in use."""

    def update(self, data: memoryview) -> None:
        """Add `data`, which the caller may change afterwards."""
        if self.thread is None and data.nbytes < PIECE:
            self.sha256.update(data)
            return
        if self.thread is None:
            self.thread = Thread(target=_follow, args=(self,), daemon=True)
            self.thread.start()
        data = data.cast("B")
        for start in range(0, data.nbytes, PIECE):
            self.todo.put(_copied(self, data[start : start + PIECE]))

    def hexdigest(self) -> str:
        """The digest of everything so far; nothing can be added after it."""
        close(self)
        digest: str = self.sha256.hexdigest()
        return digest


def close(digest: Digest) -> None:
    """Let the thread finish what waits, and end."""
    if digest.thread is not None:
        digest.todo.put(None)
        digest.thread.join()
        digest.thread = None
        while not digest.done.empty():
            KEPT.put(digest.done.get())


KEPT: SimpleQueue[bytearray] = SimpleQueue()
"""Memory kept from digest to digest: new memory costs as much time as filling it."""


def _copied(digest: Digest, piece: memoryview) -> memoryview:
    held = memoryview(_memory(digest))[: piece.nbytes]
    held[:] = piece
    return held


def _memory(digest: Digest) -> bytearray:
    try:
        return digest.done.get(block=digest.held == WAITING)
    except Empty:
        digest.held += 1
    try:
        return KEPT.get_nowait()
    except Empty:
        return bytearray(PIECE)


def _follow(digest: Digest) -> None:
    while (piece := digest.todo.get()) is not None:
        digest.sha256.update(piece)
        assert isinstance(piece.obj, bytearray)
        digest.done.put(piece.obj)
