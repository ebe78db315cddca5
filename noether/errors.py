"""The errors users meet: each says what was asked, what was found, and the way out."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: what is wrong and the way out, and where it stands (`FILE:LINE`, or empty)."""

    message: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class ConfigurationError(ValueError):
    """Mistakes found before the run, all of them at once, in `problems`."""

    def __init__(self, problems: Iterable[Problem | str]) -> None:
        self.problems = tuple(p if isinstance(p, Problem) else Problem(p) for p in problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.problems,)


class HookError(RuntimeError):
    """A hook raised; the message names callback, hook and progress, the cause is the hook's own."""


class PurityError(RuntimeError):
    """A hook did what hooks may not do; found with `strict=True`."""


class NonFiniteError(RuntimeError):
    """The loss or a gradient was NaN or infinite."""


class FeedError(RuntimeError):
    """A batch was not the one that was asked for, or there was none."""


class RankError(RuntimeError):
    """This rank can't go on in step with the others, which end with it."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none could be read."""


class RunLockedError(RuntimeError):
    """Another process is using the run directory."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence for an error message: the nearest known name, or the known ones.

    >>> suggestion("epoch", ["epochs", "updates"])
    'Did you mean epochs?'
    """
    candidates = sorted(known)
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]}?"
    return f"Known here: {', '.join(candidates)}." if candidates else "There are none here."
