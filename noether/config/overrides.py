"""`key=value` on the command line: a document with parts replaced, and where each part is from."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from noether.config.document import Document, Path, read
from noether.config.words import found
from noether.errors import ConfigurationError, Problem, suggestion


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts of a configuration stand: lines of the file, overrides after them."""

    name: str
    lines: Mapping[Path, int]
    overrides: Mapping[Path, tuple[int, str]]

    def of(self, path: Path) -> tuple[int, int, str]:
        """Sorting key and address of the nearest part that stands somewhere."""
        outwards = [path[:length] for length in range(len(path), -1, -1)]
        for part in outwards:
            if part in self.overrides:
                rank, text = self.overrides[part]
                return 1, rank, text
        for part in outwards:
            if part in self.lines:
                return 0, self.lines[part], f"{self.name}:{self.lines[part]}"
        return 0, 1, f"{self.name}:1"


def overridden(document: Document, name: str, overrides: Iterable[str]) -> tuple[Any, Places]:
    """The document's value with the overrides in it, and the places of its parts.

    Raises ConfigurationError with every override that cannot be read or leads nowhere.

    >>> document = read("run: {seed: 1}", "here")
    >>> overridden(document, "here", ["run.seed=2"])[0]
    {'run': {'seed': 2}}
    """
    value = copy.deepcopy(document.value)
    replaced: dict[Path, tuple[int, str]] = {}
    problems: list[Problem] = []
    for rank, text in enumerate(overrides):
        where = f"override {text!r}"
        try:
            path = replace_part(value, text, where)
            replaced[path] = rank, where
        except ConfigurationError as error:
            problems.extend(error.problems)
        except LookupError as error:
            problems.append(Problem(str(error), where))
    if problems:
        raise ConfigurationError(problems)
    return value, Places(name, document.lines, replaced)


def replace_part(value: Any, text: str, where: str) -> Path:
    """Put the value of `key=value` into place; gives the path to it."""
    key, equals, written = text.partition("=")
    if not equals or not key:
        raise LookupError("expected key=value, `run.seed=1` say")
    *parents, last = key.split(".")
    path: Path = ()
    for part in parents:
        step = existing(value, part, path)
        value, path = value[step], (*path, step)
    if isinstance(value, list):
        last_step = existing(value, last, path)
    elif isinstance(value, dict):
        last_step = last
    else:
        raise LookupError(f"{dotted(path) or 'the file'} is {found(value)}, so it has no {last!r}")
    value[last_step] = read(written, where).value
    return (*path, last_step)


def existing(value: Any, part: str, path: Path) -> str | int:
    """The key or index that `part` means; an item of a list by its index, name or kind."""
    if isinstance(value, list):
        names = [str(index) for index in range(len(value))]
        if part in names:
            return int(part)
        called = [entry_name(item) for item in value]
        if called.count(part) == 1:
            return called.index(part)
        names = [name for name in called if name] or names
    elif isinstance(value, dict):
        if part in value:
            return part
        names = list(value)
    else:
        names = []
    raise LookupError(f"{dotted(path) or 'the file'} has no {part!r}; {suggestion(part, names)}")


def entry_name(entry: Any) -> str:
    """What an entry of a list is called: its `name`, else the last word of its `kind`."""
    if not isinstance(entry, Mapping):
        return ""
    return str(entry.get("name") or str(entry.get("kind", "")).rpartition(".")[2])


def dotted(path: Path) -> str:
    """A path as overrides write it."""
    return ".".join(map(str, path))
