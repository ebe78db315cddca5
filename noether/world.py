"""What a session has to do with besides callbacks: all that changes, and all that is written to."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from noether.console import Console
from noether.loop import Course
from noether.machine import Machine
from noether.store import Store

Actions = Mapping[str, Callable[..., Any]]
ACTIONS: Actions = {"collect_garbage": gc.collect, "empty_cache": torch.cuda.empty_cache}


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
    actions: Actions = field(default_factory=lambda: ACTIONS)
    warned: dict[str, int] = field(default_factory=dict)
    """Errors of observers, by callback."""
