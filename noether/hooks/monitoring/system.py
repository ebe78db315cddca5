"""The machine: its memory, its processors, its disks."""

import importlib
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from noether.callback import Callback, factory
from noether.effects import Do, Effect, Log
from noether.hooks.monitoring import devices
from noether.schedules import Schedule, every
from noether.state import TrainState

GIB = 1 << 30


@factory
def peak_memory(*, reset: bool = False) -> Callback:
    """Log the most memory so far in GiB: `memory/peak_allocated/{I}`, `memory/peak_reserved/{I}`.

    These are the GPU's of the model; for a model on a CPU it is `memory/peak_rss/{I}`, that of the
    process. Over ranks the largest. With `reset` a GPU's peaks begin anew at each firing, for all
    who look at them.

    >>> peak_memory().writes
    ('memory/peak_allocated/{I}', 'memory/peak_reserved/{I}', 'memory/peak_rss/{I}')
    """

    def log(state: TrainState) -> list[Effect]:
        device = devices.gpu(state)
        if device is None:
            return [Log({"memory/peak_rss/{I}": _resident() / GIB}, over_ranks="max")]
        peaks = {
            "memory/peak_allocated/{I}": torch.cuda.max_memory_allocated(device) / GIB,
            "memory/peak_reserved/{I}": torch.cuda.max_memory_reserved(device) / GIB,
        }
        return [Log(peaks, over_ranks="max"), *([Do("reset_peak_memory")] if reset else [])]

    return Callback(
        "peak_memory",
        on_schedule=log,
        reads=(),
        writes=("memory/peak_allocated/{I}", "memory/peak_reserved/{I}", "memory/peak_rss/{I}"),
        on_error="warn",
    )


def _resident() -> int:
    """The most memory this process has had, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@factory
def system_metrics(
    *,
    cpu: bool = True,
    memory: bool = True,
    disk: bool = True,
    gpu: bool = True,
    schedule: Schedule | None = None,
) -> Callback:
    """Log how busy the machine is, in percent: `system/cpu`, `/memory`, `/disk`, `/gpu/{n}/*`.

    Runs on `schedule`, by default each minute. The disk is that of the working directory; of each
    GPU `utilization`, `memory` and, in watts, `power`. Each rank's own machine is looked at, the
    mean is logged. Needs psutil, for GPUs nvidia-ml-py; without a GPU or its library nothing is
    said of them.

    Raises ValueError where psutil is not installed.

    >>> str(system_metrics().schedule)
    'every(minutes=1)'
    """
    psutil = _library("psutil")
    if psutil is None:
        raise ValueError("system_metrics needs psutil: pip install 'noether-callbacks[hw]'")

    def log(state: TrainState) -> Log | None:
        found: dict[str, float] = {}
        if cpu:
            found["system/cpu"] = psutil.cpu_percent()
        if memory:
            found["system/memory"] = psutil.virtual_memory().percent
        if disk:
            found["system/disk"] = psutil.disk_usage(".").percent
        if gpu:
            found |= dict(_gpus())
        return Log(found) if found else None

    def begin(state: TrainState) -> None:
        psutil.cpu_percent()  # the first reading has nothing to measure from

    return Callback(
        "system_metrics",
        before_training=begin,
        on_schedule=log,
        schedule=every(minutes=1) if schedule is None else schedule,
        reads=(),
        writes=("system/*",),
        on_error="warn",
    )


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _used(library: Any, handle: Any) -> float:
    memory = library.nvmlDeviceGetMemoryInfo(handle)
    return float(100 * memory.used / memory.total)


def _busy(library: Any, handle: Any) -> float:
    return float(library.nvmlDeviceGetUtilizationRates(handle).gpu)


def _watts(library: Any, handle: Any) -> float:
    return float(library.nvmlDeviceGetPowerUsage(handle) / 1000)


_READINGS = {"memory": _used, "utilization": _busy, "power": _watts}


def _gpus() -> Iterator[tuple[str, float]]:
    """What each GPU of the machine says; nothing where there is none."""
    library = _library("pynvml")
    if library is None:
        return
    try:
        library.nvmlInit()
    except library.NVMLError:
        return
    try:
        for number in range(library.nvmlDeviceGetCount()):
            handle = library.nvmlDeviceGetHandleByIndex(number)
            for name, reading in _READINGS.items():
                # A part of a divided GPU, say, does not tell everything.
                with suppress(library.NVMLError):
                    yield f"system/gpu/{number}/{name}", reading(library, handle)
    finally:
        library.nvmlShutdown()
