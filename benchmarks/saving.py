"""How long training stands still for a checkpoint: 50 MB of weights with AdamW.

Beside `torch.save` of the same content, alone and followed by a flush to the disk, and beside
`torch.distributed.checkpoint.async_save`. All alternate in one process, within a real run.
"""

import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from measured import Reading, Row, compared, quiet

import noether
from noether import Callback, TrainState, chain, every, hooks, perform

BASE = "torch.save"
EVERY = 4
"""Updates between two saves."""
ORDER = (BASE, "torch.save, flushed", "dcp.async_save", "noether").index
WARM = 2
"""Saves that do not count: until they are over, the disk's cache still takes new memory."""
REST = 0.6
"""Seconds after which whatever is written in the background is written."""

Times = dict[str, list[Reading]]


def model() -> torch.nn.Module:
    """12.6 million weights."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(12)))


def timed(times: Times, name: str, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """What the function gives, its time noted under the name."""
    time.sleep(REST)
    cpu, wall = time.process_time(), time.perf_counter()
    found = function(*args, **more)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    times[name].append({"wall, ms": 1e3 * wall, "CPU, ms": 1e3 * cpu})
    return found


def flushed(content: Any, path: Path) -> None:
    """`torch.save`, then a flush to the disk."""
    with open(path, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def in_background(times: Times, content: Any, path: Path) -> None:
    """torch's own way; only the call counts, not the writing that goes on after it."""
    timed(times, "dcp.async_save", dcp.async_save, content, checkpoint_id=path).result()


def others(times: Times, folder: Path, module: torch.nn.Module, optimizer: list[Any]) -> Callback:
    """A hook that saves as others do, between our saves."""
    ways = [
        lambda *given: timed(times, BASE, torch.save, *given),
        lambda *given: timed(times, "torch.save, flushed", flushed, *given),
        lambda *given: in_background(times, *given),
    ]
    last: dict[int, Path] = {}

    def save(state: TrainState) -> None:
        content = {"weights": module.state_dict(), "optimizer": optimizer[0].state_dict()}
        turn = state.now.update // EVERY
        for number in sorted(range(len(ways)), key=lambda number: (number + turn) % len(ways)):
            path = folder / f"{number} {turn}.pt"
            ways[number](content, path)
            # A run keeps its last checkpoint until the next is safe: so does each way here.
            remove(last.get(number))
            last[number] = path

    return Callback("others", on_schedule=save, schedule=every(updates=EVERY, start=EVERY - 2))


def remove(path: Path | None) -> None:
    """Remove a file or a folder, so that no way has more of the disk's cache than another."""
    if path is not None and path.is_dir():
        shutil.rmtree(path)
    elif path is not None:
        path.unlink()


def run(folder: Path, saves: int, name: str, *, async_save: bool) -> Times:
    """Train, and save in all ways."""
    times: Times = defaultdict(list)
    module, made = model(), list[Any]()

    def adamw(parameters: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.AdamW(parameters))
        return made[0]

    saving = hooks.checkpoint(schedule=every(updates=EVERY))
    with mock.patch.object(perform, "save", measuring(times, name)), quiet():
        noether.train(
            module,
            torch.utils.data.TensorDataset(torch.randn(8 * EVERY * saves + 8, 1024)),
            loss=lambda model, batch: model(batch[0]).square().mean(),
            optimizer=adamw,
            until={"updates": EVERY * saves + 1},
            batch_size=8,
            callbacks=chain(saving, others(times, folder, module, made)),
            run_dir=folder / "runs",
            async_save=async_save,
            defaults=False,
        )
    return times


def measuring(times: Times, name: str) -> Callable[..., Any]:
    """noether's own save, its time noted whenever something is to be saved."""
    save = perform.save

    def measured(world: Any, carry: Any, requests: Any, **more: Any) -> Any:
        if not requests:
            return save(world, carry, requests, **more)
        return timed(times, name, save, world, carry, requests, **more)

    return measured


def measure(rounds: int, updates: int) -> list[Row]:
    """As many saves as rounds, after those that do not count."""
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    rows = []
    try:
        for group, background in (("written at once", False), ("in the background", True)):
            with tempfile.TemporaryDirectory() as folder:
                times = run(Path(folder), rounds + WARM, "noether", async_save=background)
            counted = {name: times[name][WARM : WARM + rounds] for name in sorted(times, key=ORDER)}
            rows += compared(counted, BASE, group)
    finally:
        dist.destroy_process_group()
    return rows
