"""Values of a document, checked strictly against type hints."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path as FilePath
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

import attrs
from cattrs import Converter, IterableValidationError, IterableValidationNote

from noether.config.document import Path
from noether.config.words import described, found
from noether.errors import suggestion
from noether.schedules import Schedule, parse

SCALARS = (bool, int, float, str, NoneType)
LISTS: Mapping[Any, Callable[[Iterable[Any]], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    **dict.fromkeys((tuple, Sequence, Iterable, Collection), tuple),
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong, and the path of keys and indices to where."""

    path: Path
    message: str

    def under(self, *path: str | int) -> "Mistake":
        """The same mistake seen from further out."""
        return Mistake((*path, *self.path), self.message)


Nested: TypeAlias = Callable[[Mapping[str, Any]], tuple[Any, list[Mistake]]]
"""Makes the value of a `{kind: ...}` mapping that stands for an option."""


class RefusedError(ValueError):
    """A `{kind: ...}` mapping with mistakes of its own."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(mistake.message for mistake in self.mistakes))


def converter(nested: Nested) -> Converter:
    """A cattrs converter that converts nothing but text to schedule and list to tuple.

    Dataclasses and attrs classes are cattrs' own; the checks below cover all other hints.
    """
    made = Converter(forbid_extra_keys=True, detailed_validation=True)
    check = partial(checked, made, nested)
    made.register_structure_hook_func(is_checked_here, check)
    for kind in (str, bytes, int, float, bool, FilePath):  # cattrs looks these up by class first
        made.register_structure_hook(kind, check)
    return made


def is_checked_here(hint: Any) -> bool:
    return hint is Schedule or not (attrs.has(hint) or is_dataclass(hint))


def checked(made: Converter, nested: Nested, value: Any, hint: Any) -> Any:
    """The value as the hint wants it; ValueError says what was expected."""
    check = next((check for applies, check in CHECKS if applies(hint)), checked_object)
    return check(made, nested, value, hint)


def expected(hint: Any, value: Any) -> ValueError:
    return ValueError(f"expected {described(hint)}, found {found(value)}")


def checked_scalar(made: Converter, nested: Nested, value: Any, hint: Any) -> Any:
    if hint is float and type(value) is int:
        return value
    if type(value) is not (NoneType if hint is None else hint):
        raise expected(hint, value)
    return value


def checked_schedule(made: Converter, nested: Nested, value: Any, hint: Any) -> Schedule:
    if isinstance(value, Schedule):
        return value
    if not isinstance(value, str):
        raise expected(hint, value)
    return parse(value)


def checked_literal(made: Converter, nested: Nested, value: Any, hint: Any) -> Any:
    for choice in get_args(hint):
        if type(choice) is type(value) and choice == value:
            return value
    near = suggestion(str(value), [str(choice) for choice in get_args(hint)])
    hinted = f"; {near}" if near.startswith("Did") else ""
    raise ValueError(f"{expected(hint, value)}{hinted}")


def checked_enum(made: Converter, nested: Nested, value: Any, hint: type[Enum]) -> Enum:
    for member in hint:
        if type(member.value) is type(value) and member.value == value:
            return member
    raise expected(Literal[tuple(member.value for member in hint)], value)


def checked_union(made: Converter, nested: Nested, value: Any, hint: Any) -> Any:
    """The member of the value's own type, else the first that takes it."""
    members = [member for member in get_args(hint) if member is not NoneType]
    if value is None and NoneType in get_args(hint):
        return None
    if type(value) in members:
        return value
    mapped = isinstance(value, Mapping)
    errors = []
    for member in members if mapped else filter(is_checked_here, members):
        try:
            return made.structure(value, member)
        except Exception as error:
            errors.append(error)
    inner = [error for error in errors if type(error) is not ValueError]
    only = errors and len(members) == 1
    raise errors[0] if only else inner[0] if inner else expected(hint, value)


def checked_list(made: Converter, nested: Nested, value: Any, hint: Any) -> Any:
    kind = get_origin(hint) or hint
    if not isinstance(value, list | tuple):
        raise expected(hint, value)
    hints = get_args(hint) or (object,)
    if kind is tuple and hints[-1] is not ... and get_args(hint):
        if len(value) != len(hints):
            raise ValueError(f"expected {len(hints)} values, found {len(value)}")
    else:
        hints = hints[:1] * len(value)
    parts = [(index, item, hints[index]) for index, item in enumerate(value)]
    return LISTS[kind](gathered(made, parts, hint).values())


def checked_mapping(made: Converter, nested: Nested, value: Any, hint: Any) -> Any:
    if not isinstance(value, Mapping):
        raise expected(hint, value)
    _, item = get_args(hint) or (object, object)
    return gathered(made, [(key, part, item) for key, part in value.items()], hint)


def gathered(made: Converter, parts: Sequence[tuple[Any, Any, Any]], hint: Any) -> dict[Any, Any]:
    """The parts (key, value, hint) structured, by key; the mistakes of all of them at once."""
    values, errors = {}, []
    for key, part, inner in parts:
        try:
            values[key] = made.structure(part, object if inner is Any else inner)
        except Exception as error:
            error.add_note(IterableValidationNote(f"at {key}", key, inner))
            errors.append(error)
    if errors:
        raise IterableValidationError(f"in {hint}", errors, hint)
    return values


def checked_object(made: Converter, nested: Nested, value: Any, hint: Any) -> Any:
    """What an option without a checkable hint takes: anything, `{kind: ...}` made in any depth."""
    if isinstance(value, Mapping) and "kind" in value:
        return made_of(nested, value)
    if isinstance(value, list):
        return made.structure(value, list[object])
    return made.structure(value, dict[str, object]) if isinstance(value, Mapping) else value


def checked_class(made: Converter, nested: Nested, value: Any, hint: Any) -> Any:
    """An instance of a class, or a function, which a document can only give as `{kind: ...}`."""
    if isinstance(value, Mapping) and "kind" in value:
        return made_of(nested, value)
    if hint is FilePath and isinstance(value, str):
        return FilePath(value)
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise expected(hint, value)


def made_of(nested: Nested, value: Mapping[str, Any]) -> Any:
    made, mistakes = nested(value)
    if mistakes:
        raise RefusedError(mistakes)
    return made


def is_class(hint: Any) -> bool:
    return isinstance(hint, type) and hint is not object


def is_function(hint: Any) -> bool:
    return (get_origin(hint) or hint) is get_origin(Callable[..., Any])


CHECKS: Sequence[tuple[Callable[[Any], bool], Callable[..., Any]]] = (
    (lambda hint: hint is None or hint in SCALARS, checked_scalar),
    (lambda hint: hint is Schedule, checked_schedule),
    (lambda hint: get_origin(hint) is Literal, checked_literal),
    (lambda hint: is_class(hint) and issubclass(hint, Enum), checked_enum),
    (lambda hint: get_origin(hint) in (Union, UnionType), checked_union),
    (lambda hint: (get_origin(hint) or hint) in LISTS, checked_list),
    (lambda hint: (get_origin(hint) or hint) in (dict, Mapping), checked_mapping),
    (is_class, checked_class),
    (is_function, checked_class),
)
