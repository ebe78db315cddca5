"""A functional, composable callback pipeline for PyTorch training, with no inheritance."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noether import hooks, schedules
    from noether.callback import Callback, DataPass, chain, factory, hook, stateful
    from noether.config import Run, load
    from noether.effects import Do, Export, Load, Log, Save, Say, Set, Stop, Write
    from noether.errors import (
        CheckpointError,
        ConfigurationError,
        FeedError,
        HookError,
        NonFiniteError,
        PurityError,
        RankError,
        RunLockedError,
    )
    from noether.evaluation import evaluate
    from noether.inspection import inspect
    from noether.progress import Progress
    from noether.schedules import (
        Schedule,
        after,
        always,
        at,
        between,
        cooldown,
        each_session,
        every,
        first,
        never,
        on_improvement,
        on_plateau,
        once_at_end,
        once_at_start,
        skip,
        until,
        when,
        where,
    )
    from noether.signals import Preempted
    from noether.state import ModelView, TrainState
    from noether.training import train
    from noether.weights import export_weights

_SOURCES = {
    "callback": ("Callback", "DataPass", "chain", "factory", "hook", "stateful"),
    "config": ("Run", "load"),
    "effects": ("Do", "Export", "Load", "Log", "Save", "Say", "Set", "Stop", "Write"),
    "errors": (
        *("CheckpointError", "ConfigurationError", "FeedError", "HookError", "NonFiniteError"),
        *("PurityError", "RankError", "RunLockedError"),
    ),
    "evaluation": ("evaluate",),
    "inspection": ("inspect",),
    "progress": ("Progress",),
    "schedules": (
        *("Schedule", "after", "always", "at", "between", "cooldown", "each_session", "every"),
        *("first", "never", "on_improvement", "on_plateau", "once_at_end", "once_at_start"),
        *("skip", "until", "when", "where"),
    ),
    "signals": ("Preempted",),
    "state": ("ModelView", "TrainState"),
    "training": ("train",),
    "weights": ("export_weights",),
}
_MODULES = {name: module for module, names in _SOURCES.items() for name in names}

__all__ = [
    "Callback",
    "CheckpointError",
    "ConfigurationError",
    "DataPass",
    "Do",
    "Export",
    "FeedError",
    "HookError",
    "Load",
    "Log",
    "ModelView",
    "NonFiniteError",
    "Preempted",
    "Progress",
    "PurityError",
    "RankError",
    "Run",
    "RunLockedError",
    "Save",
    "Say",
    "Schedule",
    "Set",
    "Stop",
    "TrainState",
    "Write",
    "after",
    "always",
    "at",
    "between",
    "chain",
    "cooldown",
    "each_session",
    "evaluate",
    "every",
    "export_weights",
    "factory",
    "first",
    "hook",
    "hooks",
    "inspect",
    "load",
    "never",
    "on_improvement",
    "on_plateau",
    "once_at_end",
    "once_at_start",
    "schedules",
    "skip",
    "stateful",
    "train",
    "until",
    "when",
    "where",
]


def __getattr__(name: str) -> Any:
    # Late, so that the command line and schedules start without torch.
    if name in ("hooks", "schedules"):
        return importlib.import_module(f"noether.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'noether' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"noether.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
