"""A configuration rewritten step by step, each part still known by where the file says it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from noether.config.document import Path
from noether.config.hints import Mistake


class Addresses(Protocol):
    """Where the parts of a configuration stand."""

    def of(self, path: Path) -> tuple[int, int, str]:
        """Sorting key and address of the nearest part that stands somewhere."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Where the parts stand after some were moved."""

    before: Addresses
    moved: Mapping[Path, Path]
    """Paths as they were, by paths as they are; what is in a part has moved with it."""

    def of(self, path: Path) -> tuple[int, int, str]:
        """Sorting key and address of the nearest part that stands somewhere."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.moved:
                return self.before.of((*self.moved[path[:length]], *path[length:]))
        return self.before.of(path)


@dataclass(slots=True)
class Stage:
    """What a step made of a configuration; the paths of mistakes and notes are those before it."""

    config: Any
    moved: dict[Path, Path] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    notes: list[Mistake] = field(default_factory=list)
