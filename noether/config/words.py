"""Types and values in the words of error messages."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from reprlib import repr as shown
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from noether.schedules import Schedule

WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    None: "null",
    NoneType: "null",
    object: "a value",
    Any: "a value",
    Schedule: "a schedule such as every(epochs=1)",
    Callable: "a mapping with a `kind`",
    **dict.fromkeys((list, tuple, set, frozenset, Sequence, Iterable, Collection), "a list"),
    **dict.fromkeys((dict, Mapping), "a mapping"),
}


def described(hint: Any) -> str:
    """What a type hint takes.

    >>> described(list[int] | None), described(Literal["min", "max"])
    ('a list or null', "'min' or 'max'")
    """
    origin = get_origin(hint) or hint
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(described(member) for member in get_args(hint)))
    if origin is Literal:
        return " or ".join(found(choice) for choice in get_args(hint))
    if origin in WORDS:
        return WORDS[origin]
    if is_dataclass(origin):
        return f"a mapping of {', '.join(field.name for field in fields(origin))}"
    return f"a {getattr(origin, '__name__', origin)} as a mapping with a `kind`"


def found(value: Any) -> str:
    """A document's value as it would be written, shortened.

    >>> found(None), found("no"), found({"a": 1})
    ('null', "'no'", 'a mapping')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else shown(value)
