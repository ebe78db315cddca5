"""Row 58: what a process has is the same before and after many runs, however they ended."""

import gc
import itertools
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import noether
from noether import Callback, TrainState
from noether.testing.traces import trace
from tests.faults.runs import train
from tests.feeding import Numbered

pytestmark = pytest.mark.deep
RUNS = 100


def at(update: int, act: Callable[[], object]) -> Callback:
    def do(state: TrainState) -> None:
        if state.now.update == update:
            act()

    return Callback("acting", after_update=do)


def fail() -> None:
    raise ValueError("broken")


def raise_signal(number: int) -> Callable[[], None]:
    return lambda: signal.raise_signal(number)


ENDS: dict[str, dict[str, Any]] = {
    "done": {},
    "failed": {"act": fail},
    "preempted": {"act": raise_signal(signal.SIGTERM)},
    "interrupted": {"act": raise_signal(signal.SIGINT)},
    "refused": {"until": {"updates": -1}},
    "without a directory": {"series": None},
    "done already": {"series": "done"},
    "a broken set": {"train_set": object()},
}


def lived(folder: Path, number: int, how: str, workers: int) -> None:
    """One run that ends in that way."""
    options = dict(ENDS[how])
    name = options.pop("series", f"{how} {number}")
    series = None if name is None else folder / name
    acting = at(5, options.pop("act", lambda: None))
    with suppress(ValueError, TypeError, SystemExit, KeyboardInterrupt, RuntimeError):
        if series is None:
            without_directory(workers)
        else:
            train(series, acting, workers=workers, **options)


def without_directory(workers: int) -> None:
    model = torch.nn.Linear(3, 2)
    noether.train(
        model,
        Numbered(11),
        loss=lambda model, batch: model(batch[0]).square().mean(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        until={"updates": 3},
        workers=workers,
    )


def had() -> dict[str, Any]:
    """What a run may not leave behind."""
    gc.collect()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "kernel threads": len(os.listdir("/proc/self/task")),
        "children": multiprocessing.active_children(),
        "handlers": [signal.getsignal(number) for number in numbers],
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads of torch": torch.get_num_threads(),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [0, 2])
def test_many_runs_leave_nothing_behind(tmp_path: Path, workers: int) -> None:
    train(tmp_path / "done", workers=workers)  # what is made once is no leftover
    before = had()
    ways = itertools.islice(itertools.cycle(ENDS), RUNS if not workers else RUNS // 4)
    for number, how in enumerate(ways):
        lived(tmp_path, number, how, workers)
        after = had()
        for name, value in before.items():
            assert after[name] == value, f"{name} after {how}"


@pytest.mark.parametrize("how", ["done", "failed", "preempted"])
def test_a_run_leaves_the_callers_random_numbers(tmp_path: Path, how: str) -> None:
    model = torch.nn.Linear(3, 2)  # draws its weights
    random.seed(1)
    numpy.random.seed(2)
    torch.manual_seed(3)
    before = trace((random.getstate(), numpy.random.get_state(), torch.get_rng_state()))
    with suppress(noether.HookError, SystemExit):
        noether.train(
            model,
            Numbered(11),
            loss=lambda model, batch: model(batch[0]).square().mean(),
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            until={"updates": 3},
            callbacks=[at(2, ENDS[how].get("act", lambda: None))],
        )
    after = trace((random.getstate(), numpy.random.get_state(), torch.get_rng_state()))
    assert after == before
