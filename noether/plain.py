"""Values as JSON writes them; what JSON has no word for is spelt out."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def plain(value: Any) -> Any:
    """`value` ready for `json.dumps`: nan, inf and -inf become strings, tuples lists.

    Raises TypeError for a key that is not a string; other values are left to `json.dumps`.

    >>> plain({"loss": float("nan"), "shape": (2, 3)})
    {'loss': 'nan', 'shape': [2, 3]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"JSON has no key {key!r}: use a string")
    return key


def flat(value: Any) -> dict[str, str]:
    """The values of a tree of mappings and lists as text, by their dotted paths.

    >>> flat({"run": {"seed": 1}, "sizes": [2, 3]})
    {'run.seed': '1', 'sizes.0': '2', 'sizes.1': '3'}
    """
    return dict(_leaves(value, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        yield path, str(value)
    for key, item in parts:
        yield from _leaves(item, f"{path}.{key}" if path else str(key))
