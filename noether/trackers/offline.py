"""What offline runs of Weights & Biases have written: a process that is killed takes the rest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

BLOCK, HEAD, START = 32768, 7, 7
"""Bytes of a block, of what is before each part in it, and of what is before the first."""
FULL, FIRST, LAST = 1, 2, 4


def last_step(folder: Path, run: str) -> int:
    """The last step that the files of a run hold, of all its sessions; -1: none."""
    files = folder.glob(f"offline-run-*/run-{run}.wandb")
    records = (record for path in files for record in read(path))
    steps = (r.history.step.num for r in records if r.WhichOneof("record_type") == "history")
    return max(steps, default=-1)


def read(path: Path) -> Iterator[Any]:
    """The records of a file, as far as they are whole."""
    from wandb.proto import wandb_internal_pb2

    kinds: Any = wandb_internal_pb2
    with open(path, "rb") as file:
        for data in chunks(file):
            yield kinds.Record.FromString(data)


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: blocks of parts, each behind a head.

    A head is a checksum of 4 bytes, the size of the part in 2, and its kind in one.

    >>> from io import BytesIO
    >>> torn = b":W&B..." + b"....\\x02\\x00\\x01ab" + b"....\\x09\\x00\\x01torn"
    >>> list(chunks(BytesIO(torn)))
    [b'ab']
    """
    place, whole = file.seek(START), b""
    while True:
        left = BLOCK - place % BLOCK
        if left < HEAD:
            if len(file.read(left)) < left:
                return
            place += left
            continue
        head = file.read(HEAD)
        size, kind = int.from_bytes(head[4:6], "little"), head[6:]
        part = file.read(size)
        if len(head) < HEAD or len(part) < size:
            return
        place += HEAD + size
        whole = part if kind[0] in (FULL, FIRST) else whole + part
        if kind[0] in (FULL, LAST):
            yield whole
