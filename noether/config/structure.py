"""Options of a document as keyword arguments, checked strictly against a signature's hints."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, TypeAlias, get_type_hints

import attrs
from cattrs import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
)

from noether.config.document import Path
from noether.config.hints import Mistake, Nested, RefusedError, converter
from noether.config.words import described
from noether.errors import suggestion

Parameters: TypeAlias = Mapping[str, inspect.Parameter]
KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by name, hints in place of their text where it is known."""
    found = inspect.signature(function).parameters
    return {
        name: parameter.replace(annotation=hint(function, parameter))
        for name, parameter in found.items()
        if parameter.kind in KEYWORD
    }


def hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """What a parameter takes; `object` where there is no hint, or none that can be read here."""
    if parameter.annotation in (parameter.empty, Any):
        return object
    made = vars(function).get("__init__", function) if isinstance(function, type) else function
    names = getattr(inspect.unwrap(made), "__globals__", {})
    holder = SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        return get_type_hints(holder, names)["it"]
    except Exception:  # a name that is imported for type checkers only, torch has such
        return object


def structured(
    taken: Parameters, options: Mapping[str, Any], nested: Nested
) -> tuple[dict[str, Any], list[Mistake]]:
    """The options that are right, as values of the hinted types, and every mistake.

    >>> from noether.hooks import early_stopping
    >>> good, mistakes = structured(
    ...     parameters(early_stopping), {"metric": "loss", "patiense": 3}, lambda entry: (None, [])
    ... )
    >>> good
    {'metric': 'loss'}
    >>> [mistake.message for mistake in mistakes]
    ['missing; expected an integer', 'unknown option; Did you mean patience?']
    """
    try:
        return attempted(taken, options, nested), []
    except ClassValidationError as error:
        mistakes = list(flattened(error, taken))
    bad = {mistake.path[0] for mistake in mistakes if mistake.path}
    rest = {name: value for name, value in options.items() if name not in bad}
    return attempted({name: taken[name] for name in rest}, rest, nested), mistakes


def attempted(taken: Parameters, options: Mapping[str, Any], nested: Nested) -> dict[str, Any]:
    """Structure the options as a class with the signature's fields, which is gone afterwards."""
    form = attrs.make_class(
        "Options",
        {
            name: attrs.field(
                type=parameter.annotation,
                default=attrs.NOTHING if parameter.default is parameter.empty else None,
                alias=name,
            )
            for name, parameter in taken.items()
        },
        kw_only=True,
    )
    values: Any = converter(nested).structure(dict(options), form)
    return {name: getattr(values, name) for name in options}


def flattened(error: Exception, taken: Parameters, path: Path = ()) -> Iterator[Mistake]:
    """What cattrs collected as mistakes with their paths."""
    if isinstance(error, RefusedError):
        yield from (mistake.under(*path) for mistake in error.mistakes)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = list(inspect.signature(error.cl).parameters)
        for name in sorted(error.extra_fields):
            yield Mistake((*path, name), f"unknown option; {suggestion(name, known)}")
    elif isinstance(error, KeyError):  # what cattrs raises for a key that is not there
        expected = described(taken[str(path[0])].annotation) if len(path) == 1 else "a value"
        yield Mistake(path, f"missing; expected {expected}")
    elif isinstance(error, ClassValidationError | IterableValidationError):
        noted, others = error.group_exceptions()
        for part, note in noted:
            step = note.name if isinstance(note, AttributeValidationNote) else note.index
            yield from flattened(part, taken, (*path, step))
        for part in others:
            yield from flattened(part, taken, path)
    else:
        yield Mistake(path, str(error))
