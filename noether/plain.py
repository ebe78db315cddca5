"""Values as JSON writes them; what JSON has no word for is spelt out."""

import math
from collections.abc import Mapping
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
