"""What a session has to do with besides callbacks: all that changes, and all that is written to."""

from dataclasses import dataclass, field
from pathlib import Path

from noether.actions import Actions, Tools, actions
from noether.callback import Pipeline
from noether.console import Console
from noether.loop import Course
from noether.machine import Machine
from noether.store import Store

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

    def __post_init__(self) -> None:
        # They know the tools and not the world: a circle would be freed late, in a loader's worker
        # perhaps, where the threads of its process group are missing.
        self.actions = {**actions(self.tools), **self.actions}

    def outputs(self) -> Path | None:
        """Where this rank writes its outputs; None: nowhere."""
        if self.store is None or self.machine.ranks.rank:
            return None
        return self.store.run / OUTPUTS
