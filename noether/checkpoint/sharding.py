"""Tensors of several ranks in one checkpoint: each rank writes its part, any number of them read.

torch.distributed.checkpoint plans who writes and reads what. Files and index are ours: its own
index is a pickle, which would run code when it is loaded.
"""

import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan
from torch.distributed.checkpoint.state_dict_loader import load as load_planned
from torch.distributed.checkpoint.state_dict_saver import save as save_planned
from torch.futures import Future

from noether import remote
from noether.checkpoint.manifest import INDEX, Manifest
from noether.checkpoint.verification import verify_file
from noether.errors import CheckpointError

Record = Mapping[str, Any]
"""A file's size and digest."""


@dataclass(frozen=True, slots=True)
class Written:
    """What one rank has written."""

    places: Mapping[MetadataIndex, int]
    """The number in its file of each part of a tensor."""
    file: str
    record: Record | None
    """None: it had nothing to write."""


@dataclass(slots=True)
class Writer:
    """What torch.distributed.checkpoint asks of a storage, on one rank of a saving group."""

    begin: Callable[[], Path]
    """Called on rank 0: makes the directory to write in."""
    write: Callable[[list[Tensor], Path], Record]
    complete: Callable[[Path, str, Mapping[str, Record]], None]
    """Called on rank 0 with the directory, the index, and the records of the ranks' files."""
    directory: Path | None = None

    def storage_meta(self) -> None:
        return None

    def set_up_storage_writer(self, is_coordinator: bool) -> None:  # noqa: FBT001
        self.directory = self.begin() if is_coordinator else None

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        where = [f"{self.directory}/rank-{rank}.pt" for rank in range(len(plans))]
        return [replace(plan, storage_data=path) for plan, path in zip(plans, where, strict=True)]

    def write_data(self, plan: SavePlan, planner: Any) -> Future[Written]:
        path = remote.path(plan.storage_data)
        parts = [_compact(planner.resolve_data(item)) for item in plan.items]
        record = self.write(parts, path) if parts else None
        places = {item.index: number for number, item in enumerate(plan.items)}
        return _done(Written(places, path.name, record))

    def finish(self, metadata: Metadata, results: Sequence[Written]) -> None:
        assert self.directory is not None
        records = {each.file: each.record for each in results if each.record is not None}
        self.complete(self.directory, _index(metadata, results), records)


def save(tensors: dict[str, Tensor], writer: Writer, group: Any) -> None:
    """Write what this rank has of the tensors, together with all others of the group.

    Tensors that are not shared out are equal on all ranks; one of them writes each. Raises
    CheckpointError naming the ranks that failed, on all of them.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        storage: Any = writer
        save_planned(tensors, storage_writer=storage, planner=planner, process_group=group)
    except CheckpointException as error:
        failed = sorted(error.failures.items())
        named = "; ".join(f"rank {rank}: {_first_line(why)}" for rank, (why, _) in failed)
        raise CheckpointError(named) from failed[0][1][0]
    except RuntimeError as error:  # of a collective
        raise CheckpointError(f"a rank is lost: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _compact(tensor: Tensor) -> Tensor:
    # torch.save writes the whole storage under a view.
    tensor = tensor.detach()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _index(metadata: Metadata, results: Sequence[Written]) -> str:
    places = {
        (index.fqn, tuple(index.offset or ())): (each.file, number)
        for each in results
        for index, number in each.places.items()
    }
    tensors = {
        name: {
            "dtype": str(kept.properties.dtype).removeprefix("torch."),
            "size": list(kept.size),
            "parts": [
                [*places[name, tuple(part.offsets)], list(part.offsets), list(part.sizes)]
                for part in kept.chunks
            ],
        }
        for name, kept in metadata.state_dict_metadata.items()
        if isinstance(kept, TensorStorageMetadata)
    }
    return json.dumps(tensors)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Part:
    """A box of a tensor, and where it lies."""

    file: str
    number: int
    offsets: torch.Size
    sizes: torch.Size


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in the ranks' files."""

    dtype: torch.dtype
    size: torch.Size
    parts: tuple[Part, ...]
    """Those that hold anything."""


def read_index(manifest: Manifest) -> dict[str, Stored]:
    """The tensors in the ranks' files of a checkpoint, by name.

    Raises CheckpointError where the index is damaged.
    """
    path, source = manifest.directory / INDEX, verify_file(manifest, INDEX)
    try:
        found = json.loads(source.read_bytes() if isinstance(source, Path) else source.read())
        stored = {str(name): _stored(**kept) for name, kept in found.items()}
        _check_once([p for kept in stored.values() for p in kept.parts if math.prod(p.sizes)])
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no index of tensors: {error!r}") from error
    return stored


def _check_once(parts: Sequence[Part]) -> None:
    places = Counter((part.file, part.number) for part in parts)
    if twice := [place for place, times in places.items() if times > 1]:
        raise ValueError(f"{twice[0]} is there for several parts")


def _stored(*, dtype: str, size: Sequence[int], parts: Sequence[Any]) -> Stored:
    kind = vars(torch).get(dtype)
    if not isinstance(kind, torch.dtype):
        raise TypeError(f"{dtype!r} is no type of numbers")
    whole, found = torch.Size(size), list(starmap(_part, parts))
    filled = sorted((p for p in found if _volume(p.sizes)), key=lambda part: part.offsets)
    if not all(_inside(part, whole) for part in found) or not _tiled(whole, filled):
        raise ValueError(f"{parts!r} are not the whole of {size}, each number once")
    return Stored(kind, whole, tuple(filled))


def _tiled(size: torch.Size, parts: Sequence[Part]) -> bool:
    """Whether sorted parts of it are the whole, and no two of them overlap."""
    if sum(_volume(part.sizes) for part in parts) != _volume(size):
        return False
    near: list[Part] = []  # those before that reach as far as a part along the first axis
    for part in parts:
        near = [other for other in near if _meet(other, part, axes=1)]
        if any(_meet(other, part) for other in near):
            return False
        near.append(part)
    return True


def _volume(sizes: Sequence[int]) -> int:
    return math.prod(sizes)


def _inside(part: Part, size: torch.Size) -> bool:
    boxes = len(part.offsets) == len(part.sizes) == len(size)
    return boxes and all(
        offset + length <= whole
        for offset, length, whole in zip(part.offsets, part.sizes, size, strict=True)
    )


def _meet(one: Part, other: Part, axes: int | None = None) -> bool:
    """Whether two parts overlap, along the first axes."""
    return all(
        start < beyond + more and beyond < start + length
        for start, length, beyond, more in zip(
            one.offsets[:axes], one.sizes[:axes], other.offsets, other.sizes, strict=False
        )
    )


def _part(file: str, number: int, offsets: Sequence[int], sizes: Sequence[int]) -> Part:
    if type(file) is not str or type(number) is not int or min((number, *offsets, *sizes)) < 0:
        raise ValueError(f"{file!r}, {number!r}, {offsets!r}, {sizes!r} is no part of a tensor")
    return Part(file, number, torch.Size(offsets), torch.Size(sizes))


@dataclass(slots=True)
class Reader:
    """What torch.distributed.checkpoint asks of a storage that is read."""

    manifest: Manifest
    stored: Mapping[str, Stored]
    opened: dict[str, Sequence[Tensor]] = field(default_factory=dict)

    def read_metadata(self) -> Metadata:
        return Metadata({name: _described(kept) for name, kept in self.stored.items()})

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool) -> None:  # noqa: FBT001
        """Nothing: files are opened when they are read."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: Any) -> Future[None]:
        for item in plan.items:
            source = self._part(item.storage_index)
            for axis, (start, length) in enumerate(
                zip(item.storage_offsets, item.lengths, strict=True)
            ):
                source = source.narrow(axis, start, length)
            target = planner.resolve_tensor(item).detach()
            target.copy_(source)
            planner.commit_tensor(item, target)
        return _done(None)

    def _part(self, index: MetadataIndex) -> Tensor:
        offset = index.offset or torch.Size()
        kept = self.stored[index.fqn]
        part = next(part for part in kept.parts if part.offsets == offset)
        if part.file not in self.opened:
            self.opened[part.file] = _tensors(self.manifest, part.file)
        tensors = self.opened[part.file]
        if part.number >= len(tensors):
            raise ValueError(f"{part.file} has {len(tensors)} tensors, no number {part.number}")
        tensor = tensors[part.number]
        if (tensor.shape, tensor.dtype) != (part.sizes, kept.dtype):
            raise ValueError(
                f"{part.file} has {tensor.dtype} of {tuple(tensor.shape)} for {index.fqn}, "
                f"not {kept.dtype} of {tuple(part.sizes)}"
            )
        return tensor


def _described(kept: Stored) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(part.offsets, part.sizes) for part in kept.parts]
    return TensorStorageMetadata(TensorProperties(kept.dtype), kept.size, chunks)


def _tensors(manifest: Manifest, file: str) -> Sequence[Tensor]:
    if file not in manifest.files:
        raise ValueError(f"{file} is not in the manifest")
    source = verify_file(manifest, file)
    mapped = isinstance(source, Path)
    found = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(found, list) or not all(isinstance(each, Tensor) for each in found):
        raise ValueError(f"{manifest.directory / file} is no list of tensors")
    return found


def load(
    manifest: Manifest, stored: Mapping[str, Stored], targets: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Fill the targets, by name, from the ranks' files; each rank reads what it needs by itself.

    Raises CheckpointError where they cannot be read.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            reader: Any = Reader(manifest, stored)
            load_planned(targets, storage_reader=reader, planner=planner, no_dist=True)
    except CheckpointException as error:
        why = next(iter(error.failures.values()))[0]
        raise CheckpointError(f"{manifest.directory} cannot be loaded: {why}") from why
    return targets


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
