"""One built-in callback as the tests of the whole catalogue take it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from noether import Callback


@dataclass(frozen=True)
class Case:
    """A callback that says when it runs, and the options of its entry in YAML."""

    callback: Callback
    required: Mapping[str, Any] = field(default_factory=dict)
    """What an entry must say, and no more."""
    full: Mapping[str, Any] = field(default_factory=dict)
    """Every option that the factory takes, and `name`; none of them its default."""
    results: Mapping[str, Any] | None = None
    """What its data pass comes to, if it has one."""
    metrics: tuple[str, ...] = ()
    """Metrics that the run reports besides those that it declares to read."""
    raises: tuple[type[Exception], ...] = ()
    """What it raises on purpose, of runs that it is not made for."""
    beside: tuple[Callback, ...] = ()
    """Callbacks that it needs beside it in a run."""
    datasets: Mapping[str, Any] = field(default_factory=dict)
    """Evaluation sets that it needs in a run, if not `val` of inputs and targets."""
    timed: bool = False
    """Whether it tells of time or of this machine, which no other run has alike."""
    usual: tuple[str, ...] = ()
    """Options of `full` that are their default all the same: no other value goes with the rest."""
    observes: bool = False
    """Whether it looks at what is outside of the snapshot, and so says another thing each time."""
