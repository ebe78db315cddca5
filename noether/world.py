"""What a session has to do with besides callbacks: all that changes, and all that is written to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noether.actions import Actions, Tools, actions
from noether.callback import Pipeline
from noether.console import Console
from noether.loop import Course
from noether.machine import Machine
from noether.store import Store
from noether.trackers import Tracker
from noether.trackers.sending import Sender

OUTPUTS = "outputs"


@dataclass(slots=True)
class World:
    """What effects are performed upon."""

    machine: Machine
    course: Course
    seed: int
    length: int | None
    """Samples of the training set, where they are known."""
    console: Console
    store: Store | None
    pipeline: Pipeline = ()
    actions: Actions = field(default_factory=dict)
    """More than every run has, by name."""
    warned: dict[str, int] = field(default_factory=dict)
    """Errors of observers, by callback."""
    tools: Tools = field(default_factory=Tools)
    trackers: Sequence[Tracker] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    """What trackers are told of how the run was begun."""
    senders: list[Sender] = field(default_factory=list)
    """The trackers at work, on the first rank."""

    def __post_init__(self) -> None:
        # They know the tools and not the world: a circle would be freed late, in a loader's worker
        # perhaps, where the threads of its process group are missing.
        self.actions = {**actions(self.tools), **self.actions}

    def outputs(self) -> Path | None:
        """Where this rank writes its outputs; None: nowhere."""
        if self.store is None or self.machine.ranks.rank:
            return None
        return self.store.run / OUTPUTS
