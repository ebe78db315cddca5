"""What `Do` can do: a run's table of actions by name."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from noether.storage import aside_suffix

Actions = Mapping[str, Callable[..., Any]]


@dataclass(slots=True)
class Tools:
    """What actions leave running between one call and the next."""

    folder: Path | None = None
    """Where they write; None: nowhere."""
    profiler: Any = None


def actions(tools: Tools) -> Actions:
    """The actions that every run has.

    >>> sorted(actions(Tools()))[:2]
    ['collect_garbage', 'empty_cache']
    """
    return {
        "collect_garbage": gc.collect,
        "empty_cache": torch.cuda.empty_cache,
        "reset_peak_memory": torch.cuda.reset_peak_memory_stats,
        "start_profile": partial(start_profile, tools),
        "stop_profile": partial(stop_profile, tools),
        "record_memory": record_memory,
        "snapshot_memory": partial(snapshot_memory, tools),
    }


def start_profile(
    tools: Tools, *, with_stack: bool = False, record_shapes: bool = False, **options: Any
) -> None:
    """Begin to profile with torch.profiler, unless that goes on already."""
    if tools.profiler is None:
        given = {"with_stack": with_stack, "record_shapes": record_shapes, **options}
        tools.profiler = torch.profiler.profile(**given)
        tools.profiler.start()


def stop_profile(tools: Tools, *, name: str) -> None:
    """End the profile that goes on, and write it as a trace for Perfetto or Chrome."""
    profiler, tools.profiler = tools.profiler, None
    if profiler is not None:
        profiler.stop()
        _written(tools, f"{name}.json.gz", profiler.export_chrome_trace)


def record_memory(*, max_entries: int = 100_000) -> None:
    """Let torch remember each allocation on the GPU, as many as that; 0 ends it."""
    if torch.cuda.is_available():
        torch.cuda.memory._record_memory_history(
            "all" if max_entries else None, max_entries=max_entries
        )


def snapshot_memory(tools: Tools, *, name: str) -> None:
    """Write what is allocated on the GPU, and what was recorded, for pytorch.org/memory_viz."""
    if torch.cuda.is_available():
        _written(tools, f"{name}.pickle", torch.cuda.memory._dump_snapshot)


def _written(tools: Tools, name: str, write: Callable[[str], Any]) -> None:
    """Let `write` make a file of the folder, complete or absent."""
    if tools.folder is None:
        return
    tools.folder.mkdir(exist_ok=True)
    target = tools.folder / name.replace("/", ".")
    aside = target.with_name(aside_suffix() + target.name)  # torch looks at the end of the name
    write(str(aside))
    aside.replace(target)
