"""What a `{kind: ...}` mapping says: a factory with checked options, not called yet."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from noether.config.hints import Mistake
from noether.config.resolve import resolve
from noether.config.structure import parameters, structured
from noether.config.words import found
from noether.errors import ConfigurationError, Problem


@dataclass(frozen=True, slots=True)
class Recipe:
    """A factory and its options; calling it makes the thing, nested recipes first."""

    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    awaits: str | None = None
    """The parameter that the caller supplies: an optimizer's parameters, say."""
    where: str = field(default="", compare=False)

    def __call__(self, *supplied: Any) -> Any:
        """Make it; what the factory refuses is a ConfigurationError with the file's line."""
        given = {} if self.awaits is None else {self.awaits: supplied[0]}
        options = made(dict(self.options), *supplied)
        try:
            return self.function(**given, **options)
        except Exception as error:
            name = getattr(self.function, "__qualname__", repr(self.function))
            raise ConfigurationError([Problem(f"{name}: {error}", self.where)]) from error


def made(value: Any, *supplied: Any) -> Any:
    """`value` with every recipe in it made."""
    if isinstance(value, Recipe):
        return value(*supplied)
    if isinstance(value, dict):
        return {key: made(item, *supplied) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(made(item, *supplied) for item in value)
    return value


def read_recipe(
    entry: Any,
    allow: Collection[str],
    *,
    supplied: str | None = None,
    inner: bool = False,
    where: str = "",
) -> tuple[Recipe | None, list[Mistake]]:
    """The recipe of an entry, or its mistakes.

    `supplied` is what the caller will give: to the parameter of that name, else to the first; of
    inner recipes only to one of that name.
    """
    try:
        function = named(entry, allow)
    except LookupError as error:
        path = ("kind",) if isinstance(entry, Mapping) and "kind" in entry else ()
        return None, [Mistake(path, str(error))]
    taken = parameters(function)
    awaits = supplied
    if supplied not in taken:
        awaits = None if inner or supplied is None else next(iter(taken), None)
    taken = {name: parameter for name, parameter in taken.items() if name != awaits}
    options = {name: value for name, value in entry.items() if name != "kind"}
    nested = partial(read_recipe, allow=allow, supplied=supplied, inner=True, where=where)
    values, mistakes = structured(taken, options, nested)
    return (None if mistakes else Recipe(function, values, awaits, where)), mistakes


def named(entry: Any, allow: Collection[str]) -> Callable[..., Any]:
    """The factory of an entry; LookupError says what is wrong with it."""
    if not isinstance(entry, Mapping):
        raise LookupError(f"expected a mapping with a `kind`, found {found(entry)}")
    if "kind" not in entry:
        raise LookupError("kind is missing; name the factory, `kind: noether.hooks.progress` say")
    return resolve(entry["kind"], allow)
