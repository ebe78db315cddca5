"""Values to and from what `torch.load(weights_only=True)` reads: tensors and plain types."""

import dataclasses
import json
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from inspect import unwrap
from types import FunctionType, MethodType
from typing import Any, NoReturn

import torch
from torch import Tensor, strided

from noether.errors import CheckpointError, suggestion

TAG = "__dataclass__"
FIELDS = "fields"
_SCALARS = (bool, int, float, str, type(None))
_MAPPINGS = (dict, OrderedDict, Counter)
Path = tuple[Any, ...]
"""The keys and numbers that lead to a place in a tree."""


def encode(value: Any, where: str) -> Any:
    """`value` rebuilt from plain types: what is stored of a memory or a state dict.

    Tensors are detached, not copied. Raises TypeError that names `where` and the path inside it.

    >>> encode({"best": (0.5, [1, 2])}, "memory of callback 'x'")
    {'best': (0.5, [1, 2])}
    """
    return _encode(value, where, ())


def _encode(value: Any, where: str, path: Path) -> Any:
    kind = type(value)
    if isinstance(value, Tensor):
        return _tensor(value, where, path)
    if kind in _SCALARS:
        return value
    if kind is list or kind is tuple:
        return kind(_encode(item, where, (*path, i)) for i, item in enumerate(value))
    if kind in _MAPPINGS:
        return _mapping(value, where, path)
    if is_frozen(kind):
        return _tagged(kind.__qualname__, _fields(value), where, path)
    return _number(value, where, path)


def _tensor(value: Tensor, where: str, path: Path) -> Tensor:
    value = value.detach()
    if hasattr(value, "placements"):  # shared out among the ranks
        return value
    if type(value) is not Tensor:
        _refuse(value, where, path)
    # torch.save writes the whole storage under a view.
    if value.layout is strided and value.untyped_storage().nbytes() > value.nbytes:
        return value.clone()
    return value


def _mapping(value: Any, where: str, path: Path) -> Any:
    items = {
        _key(key, where, path): _encode(item, where, (*path, key)) for key, item in value.items()
    }
    if type(value) is dict:
        # A mapping that itself has the tag as a key must not be taken for a dataclass.
        return {TAG: "", FIELDS: items} if TAG in items else items
    rebuilt = type(value)(items)
    if type(value) is OrderedDict:  # a module's state dict carries its `_metadata` so
        vars(rebuilt).update(_encode(vars(value), where, path))
    return rebuilt


def _key(key: Any, where: str, path: Path) -> Any:
    return key if type(key) in _SCALARS else _number(key, where, (*path, f"key {key!r}"))


def _tagged(name: str, fields: dict[str, Any], where: str, path: Path) -> Any:
    return {
        TAG: name,
        FIELDS: {key: _encode(item, where, (*path, key)) for key, item in fields.items()},
    }


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _number(value: Any, where: str, path: Path) -> Any:
    numpy = sys.modules.get("numpy")  # who has not imported it has no scalar of it
    if numpy is not None and isinstance(value, numpy.generic):
        number = value.item()
        if type(number) in _SCALARS:
            return number
    return _refuse(value, where, path)


def _refuse(value: Any, where: str, path: Path) -> NoReturn:
    place = f"{where} at {'.'.join(map(str, path))}" if path else where
    raise TypeError(
        f"{place} is a {_full_name(type(value))}, which a checkpoint cannot hold: use tensors, "
        "numbers, strings, booleans, None, and tuples, lists, dicts and frozen dataclasses of these"
    )


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def mapped(tree: Any, function: Callable[[Path, Tensor], Any], path: Path = ()) -> Any:
    """An encoded tree with what `function` makes of each tensor, and of its place, instead of it.

    >>> mapped({"a": [Tensor(2), 3]}, lambda path, tensor: path)
    {'a': [('a', 0), 3]}
    """
    if isinstance(tree, Tensor):
        return function(path, tree)
    kind = type(tree)
    if kind is list or kind is tuple:
        return kind(mapped(item, function, (*path, i)) for i, item in enumerate(tree))
    if kind not in _MAPPINGS:
        return tree
    rebuilt = kind({key: mapped(item, function, (*path, key)) for key, item in tree.items()})
    if kind is OrderedDict:
        vars(rebuilt).update(vars(tree))
    return rebuilt


ELSEWHERE = torch.Size((0, 0, 0))
"""The shape of what stands in a tree for a tensor that the ranks' files hold."""


def tensor_name(file: str, path: Path) -> str:
    """What a tensor at that place of that file's tree is called among those of all ranks.

    >>> tensor_name("weights.pt", ("head.bias",))
    '["weights.pt", "head.bias"]'
    """
    return json.dumps([file, *path])


def is_frozen(kind: type) -> bool:
    """Whether `kind` is a frozen dataclass."""
    params = getattr(kind, "__dataclass_params__", None)
    return "__dataclass_fields__" in vars(kind) and params is not None and params.frozen


def decode(tree: Any, types: Mapping[str, type]) -> Any:
    """The value that `encode` made `tree` of; dataclasses come from `types`, by qualified name.

    Nothing is imported. Raises CheckpointError naming a dataclass that `types` lacks or that has
    other fields now, and TypeError when `types` holds anything but frozen dataclasses.
    """
    kind = type(tree)
    if kind is list or kind is tuple:
        return kind(decode(item, types) for item in tree)
    if kind not in _MAPPINGS:
        return tree
    if kind is dict and TAG in tree:
        return _untagged(tree, types)
    # Not from pairs: a Counter would count them.
    rebuilt = kind({key: decode(item, types) for key, item in tree.items()})
    if kind is OrderedDict:
        vars(rebuilt).update(decode(vars(tree), types))
    return rebuilt


def _untagged(tree: dict[Any, Any], types: Mapping[str, type]) -> Any:
    name, stored = tree[TAG], tree.get(FIELDS)
    if not isinstance(name, str) or type(stored) is not dict:
        raise CheckpointError(f"a stored value is no dataclass although it is tagged {name!r}")
    fields = {key: decode(item, types) for key, item in stored.items()}
    return _rebuilt(name, fields, types) if name else fields


def _rebuilt(name: str, fields: dict[str, Any], types: Mapping[str, type]) -> Any:
    if name not in types:
        raise CheckpointError(f"stored is a {name}, which is not here. {suggestion(name, types)}")
    kind = types[name]
    if not is_frozen(kind):
        raise TypeError(f"{name} is no frozen dataclass: it cannot be rebuilt")
    known = [field.name for field in dataclasses.fields(kind)]
    if sorted(known) != sorted(fields):
        raise CheckpointError(f"{name} has the fields {known}, but stored are {list(fields)}")
    # As it was, whatever its `__init__` and `__post_init__` would make of it.
    value: Any = object.__new__(kind)
    for key, item in fields.items():
        object.__setattr__(value, key, item)
    return value


def memory_types(functions: Iterable[Callable[..., Any]]) -> dict[str, type]:
    """The frozen dataclasses that a callback's hook functions can see, by qualified name.

    These are the ones in closures, in the modules of the functions, and in the modules where
    these classes were defined. Of two with one name the nearer one counts, in this order.
    """
    found: dict[str, type] = {}
    given = list(functions)
    queue: list[Any] = [*map(unwrap, given), *given]
    seen: set[int] = set()
    for item in queue:  # grows meanwhile: breadth first, so nearer classes come first
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, type) and is_frozen(item):
            found.setdefault(item.__qualname__, item)
        queue.extend(_visible(item))
    return found


def _visible(item: Any) -> Iterator[Any]:
    if isinstance(item, FunctionType):
        yield from _enclosed(item)
        yield from _records(item.__globals__, item.__module__)
    elif isinstance(item, MethodType):
        yield from (item.__func__, type(item.__self__))
    elif isinstance(item, partial):
        yield from (item.func, *item.args, *item.keywords.values())
    elif isinstance(item, type) and is_frozen(item):
        module = sys.modules.get(item.__module__)
        yield from _records(vars(module), item.__module__) if module else ()


def _enclosed(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a cell can still be empty
            yield cell.cell_contents


def _records(names: Mapping[str, Any], module: str) -> list[type]:
    """The frozen dataclasses among `names`, those that `module` defines first."""
    kinds = [kind for kind in names.values() if isinstance(kind, type) and is_frozen(kind)]
    return sorted(kinds, key=lambda kind: kind.__module__ != module)
