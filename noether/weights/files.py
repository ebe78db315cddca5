"""Files of weights: safetensors and torch's own, read without running anything, and written."""

import ctypes
import importlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from noether.checkpoint import unpickled
from noether.errors import CheckpointError, ConfigurationError
from noether.storage import STORAGE, Storage, aside_suffix, discard, writing
from noether.weights.names import one_line, shown

SAFETENSORS, TORCH = ".safetensors", (".pt", ".pth", ".bin")
NESTS = ("state_dict", "model", "model_state_dict")
"""Under what others keep a state dict in their checkpoints."""
LARGEST = 100_000_000
"""Bytes of a header, which is the library's own limit."""
ALIASES = "aliases"
CODES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8"},
    **{torch.bool: "BOOL", torch.complex64: "C64"},
    **{torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"},
}


def library() -> Any:
    """The safetensors package; ConfigurationError names the extra where it is not installed."""
    try:
        return importlib.import_module("safetensors")
    except ImportError as error:
        raise ConfigurationError(
            ["safetensors is not installed; pip install 'noether-callbacks[safetensors]'"]
        ) from error


def read_file(path: Path) -> dict[str, Any]:
    """What a file of weights holds by name; ConfigurationError says in a line why it can't be read.

    Nothing in the file is run. Aliases that an export recorded are there under their own names.
    """
    if not path.is_file():
        raise unreadable(path, "there is no such file" if not path.exists() else "it is no file")
    if path.suffix == SAFETENSORS:
        return _safetensors(path)
    if path.suffix not in TORCH:
        known = ", ".join((SAFETENSORS, *TORCH))
        raise unreadable(path, f"its name ends with {path.suffix or 'nothing'!r}; expected {known}")
    try:
        return _nested(unpickled(path), path)
    except CheckpointError as error:
        raise ConfigurationError([one_line(f"init_from: {error}")]) from error


def unreadable(path: Path, why: object) -> ConfigurationError:
    return ConfigurationError([one_line(f"init_from: {path} can't be read: {why}")])


# ---------------------------------------------------------------- torch


def _nested(tree: Any, path: Path) -> dict[str, Any]:
    """The state dict in what torch saved, itself or what stands under a usual name."""
    if not isinstance(tree, Mapping):
        raise unreadable(path, f"it holds a {type(tree).__name__} instead of a state dict")
    inner = (tree[name] for name in NESTS if isinstance(tree.get(name), Mapping))
    return dict(next(inner, tree))


# ---------------------------------------------------------------- safetensors


def _safetensors(path: Path) -> dict[str, Any]:
    safe_open = library().safe_open
    try:
        with open(path, "rb") as file:
            _check_header(file, os.fstat(file.fileno()).st_size)
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors | _aliased(tensors, file.metadata() or {})
    except Exception as error:
        raise unreadable(path, error or type(error).__name__) from error


def _check_header(file: BinaryIO, size: int) -> None:
    """Refuse what the library accepts or never finishes: a key that stands there twice, say."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, LARGEST):
        raise ValueError(f"its header would have {length} bytes, the file has {size}")
    json.loads(file.read(length), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"its header has the key {shown(key)} twice")
        found[key] = value
    return found


def _aliased(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The other names of tied weights, in a file that we wrote."""
    if "noether" not in metadata or ALIASES not in metadata:
        return {}
    aliases = json.loads(metadata[ALIASES], object_pairs_hook=_once)
    kept = isinstance(aliases, dict) and all(
        alias not in tensors and isinstance(name, str) and name in tensors
        for alias, name in aliases.items()
    )
    if not kept:
        raise ValueError("its aliases name tensors that it lacks, or has already")
    return {alias: tensors[name] for alias, name in aliases.items()}


def write_safetensors(
    target: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    force: bool = False,
    storage: Storage = STORAGE,
) -> None:
    """Let `target` hold the tensors, or what it held before, at every moment.

    They are contiguous, on the CPU, and share no memory. They are streamed into the file, which the
    library then opens before it gets its name. Raises OSError, FileExistsError without `force`.
    """
    aside = target.with_name(target.name + aside_suffix())
    try:
        with writing(aside, storage) as sink:
            for part in _parts(tensors, metadata):
                sink.write(part)
        with library().safe_open(aside, framework="pt"):
            pass
        if not force and os.path.lexists(target):
            raise FileExistsError(f"{target} is there already")
        storage.replace(aside, target)
    except BaseException:
        discard(aside, storage)
        raise
    storage.sync_directory(target.parent)


def _parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[Any]:
    """The file's bytes in order: length of the header, header, and data, the widest types first."""
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in ordered:
        begin, end = end, end + tensors[name].nbytes
        kind, shape = CODES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in ordered:
        if size := tensors[name].nbytes:
            # Without numpy, which is no dependency, torch gives no view of a tensor's bytes.
            array = (ctypes.c_ubyte * size).from_address(tensors[name].data_ptr())
            yield memoryview(array).cast("B")
