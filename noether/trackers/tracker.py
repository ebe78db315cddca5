"""A tracker: where a run's metrics go, as a few functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from noether.errors import ConfigurationError
from noether.progress import Progress
from noether.state import Event

FOLDER = "trackers"
"""Of a run directory, for what trackers write into it."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What a tracker is told when a session begins."""

    run: Path | None = None
    """The run directory, where there is one."""
    config: Mapping[str, Any] = field(default_factory=dict)
    now: Progress = field(default_factory=Progress)
    """Where the session goes on: what was tracked of later updates will come again."""
    resumed: bool = False
    """Whether it goes on with a run that was tracked before."""
    noted: "Position | None" = None
    """The last that this tracker was given then; it may lack it, where it keeps things for later.
    """

    @property
    def name(self) -> str | None:
        """A name for the run where people have given none: its directory's."""
        return None if self.run is None else "-".join(self.run.resolve().parts[-2:])


Position: TypeAlias = tuple[int, int]
"""An update, and which of the things it is that are tracked of it: a line, files, a line."""
ALL = 1 << 62
"""As the second of a position: all of that update."""


@dataclass(frozen=True, slots=True)
class Line:
    """The metrics of a tick, plain numbers."""

    now: Progress
    metrics: Mapping[str, float]
    event: Event = "update"


def with_counts(line: Line) -> dict[str, float]:
    """A tick's metrics, and beside the update what else counts: epochs, samples, seconds."""
    counts = {f"progress/{n}": getattr(line.now, n) for n in ("epoch", "sample", "seconds")}
    return {**line.metrics, **counts}


@dataclass(frozen=True, slots=True)
class Output:
    """A file that a callback had written: a figure, a table, tensors."""

    now: Progress
    name: str
    path: Path
    event: Event = "update"


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one metric over the run: extremes, the last value, and the best where that is known."""

    min: float
    max: float
    last: float
    best: float | None = None


@dataclass(frozen=True, slots=True)
class Tracker:
    """Functions that a thread of its own calls, one after the other; what they raise is counted.

    `begin` gives what the others get first: an open file, a client.
    """

    name: str
    begin: Callable[[Begun], Any]
    log: Callable[[Any, Line], None]
    end: Callable[[Any, Mapping[str, Summary], str], None]
    """Also gets the run's last state: done, failed or preempted."""
    show: Callable[[Any, Output], None] | None = None
    """For files that callbacks write; None: it takes none."""
    holds: Callable[[Any], int] | None = None
    """Asked in a resumed run, after `begin`: the last update that is there, -1 for none. What is
    missing of earlier sessions follows from the journal; what is there does not come again, also
    where this session finds other values. None: all that this session logs comes, and no more."""
    check: Callable[[Path | None], Any] = lambda run_dir: None
    """Called with the run's series before anything else; raises ConfigurationError where something
    is missing."""


def needs(library: str, extra: str) -> None:
    """Import a library that an extra brings; raises ConfigurationError where that fails.

    Here and not on the tracker's thread, beside which workers may be forked.
    """
    try:
        import_module(library)
    except ImportError as error:
        raise ConfigurationError(
            [f"tracker {extra} needs {library}: pip install 'noether-callbacks[{extra}]' ({error})"]
        ) from error


def place(path: str | None, name: str, run: Path | None) -> Path:
    """Where a tracker writes: its `path`, else a file or folder of the run directory."""
    if path is not None:
        return Path(path)
    if run is None:
        raise ConfigurationError(
            [f"tracker {name} has no place to write to; give it a path, or the run a run_dir"]
        )
    return run / FOLDER / name
