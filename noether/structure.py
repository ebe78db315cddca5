"""Options of a document as keyword arguments, checked strictly against a signature's hints."""

import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path as FilePath
from reprlib import repr as shown
from types import NoneType, SimpleNamespace
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError
from cattrs.v import IterableValidationNote

from noether.document import Path
from noether.errors import suggestion
from noether.schedules import Schedule, parse

Parameters: TypeAlias = Mapping[str, inspect.Parameter]
KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
LISTS: Mapping[Any, Callable[[Iterable[Any]], Any]] = {
    **dict.fromkeys((list, *map(get_origin, (list[Any],))), list),
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    get_origin(Iterable[Any]): tuple,
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong, and the path of keys and indices to where."""

    path: Path
    message: str

    def under(self, *path: str | int) -> "Mistake":
        """The same mistake seen from further out."""
        return Mistake((*path, *self.path), self.message)
