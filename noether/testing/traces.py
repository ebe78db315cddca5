"""What values come to, so that they can be compared: NaN is itself, tensors are their bits."""

import dataclasses
import pickle
import sys
from collections.abc import Iterator, Mapping
from ctypes import string_at
from typing import Any

import torch
from torch import Tensor


def trace(value: Any, *, tensors: bool = True) -> Any:
    """A plain value, equal for equal values and for no others; `tensors` False: whatever they hold.

    >>> trace({"a": float("nan"), "b": (1,)}) == trace({"b": (1,), "a": float("nan")})
    True
    >>> trace(1) == trace(1.0)
    False
    """
    if isinstance(value, Tensor):
        return _bits(value) if tensors else "tensor"
    value = _number(value)
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return type(value).__name__, repr(value)
    if isinstance(value, Mapping):
        pairs = [(repr(key), trace(item, tensors=tensors)) for key, item in value.items()]
        return "mapping", sorted(pairs, key=lambda pair: pair[0])
    if isinstance(value, list | tuple):
        return type(value).__name__, [trace(item, tensors=tensors) for item in value]
    if isinstance(value, set | frozenset):
        return type(value).__name__, sorted(map(repr, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return type(value).__qualname__, trace(fields, tensors=tensors)
    return _pickled(value)


def _bits(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    flat = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
    flat = flat.cpu().contiguous()
    return str(tensor.dtype), tuple(tensor.shape), string_at(flat.data_ptr(), flat.nbytes)


def _number(value: Any) -> Any:
    """numpy's scalars as Python's: a checkpoint keeps no other."""
    numpy = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def _pickled(value: Any) -> Any:
    """What else there is, an array say; by its type alone where it can't be pickled."""
    try:
        return type(value).__qualname__, pickle.dumps(value)
    except Exception:
        return (type(value).__qualname__,)


def storages(value: Any) -> Iterator[int]:
    """Where the tensors in a value lie in memory."""
    if isinstance(value, Tensor):
        if value.layout is torch.strided and value.numel():
            yield value.untyped_storage().data_ptr()
    elif isinstance(value, Mapping):
        yield from storages(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from storages(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from storages([getattr(value, f.name) for f in dataclasses.fields(value)])
