"""How long training stands still for a checkpoint: 50 MB of weights with AdamW.

Beside `torch.save` of the same content, alone and followed by a flush to the disk, and beside
`torch.distributed.checkpoint.async_save`. All alternate in one process, within a real run.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

import noether
from noether import Callback, TrainState, chain, every, hooks, perform

EVERY = 4
"""Updates between two saves."""
REST = 0.6
"""Seconds after which whatever is written in the background is written."""

Times = dict[str, list[float]]


def model() -> torch.nn.Module:
    """12.6 million weights."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(12)))


def measured(times: Times, name: str, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """What the function gives, its time noted under the name."""
    time.sleep(REST)
    begun = time.perf_counter()
    found = function(*args, **more)
    times[name].append(time.perf_counter() - begun)
    return found


def flushed(content: Any, path: Path) -> None:
    """`torch.save`, then a flush to the disk."""
    with open(path, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def others(times: Times, folder: Path, module: torch.nn.Module, optimizer: list[Any]) -> Callback:
    """A hook that saves as others do, between our saves."""

    def save(state: TrainState) -> None:
        content = {"weights": module.state_dict(), "optimizer": optimizer[0].state_dict()}
        for name, way in (("torch.save", torch.save), ("flushed torch.save", flushed)):
            measured(times, name, way, content, folder / f"{name} {state.now.update}.pt")
            # A run keeps its last checkpoint until the next is safe: so does each way here.
            (folder / f"{name} {state.now.update - EVERY}.pt").unlink(missing_ok=True)
        given = {"checkpoint_id": folder / f"dcp-{len(times['dcp.async_save'])}"}
        writing = measured(times, "dcp.async_save", dcp.async_save, content, **given)
        writing.result()

    return Callback("others", on_schedule=save, schedule=every(updates=EVERY, start=EVERY - 2))


def run(times: Times, folder: Path, rounds: int, name: str, *, async_save: bool) -> None:
    """Train, and save both ways."""
    module, optimizer = model(), []

    def adamw(parameters: Any) -> torch.optim.Optimizer:
        optimizer.append(torch.optim.AdamW(parameters))
        return optimizer[0]

    save = perform.save

    def timed(world: Any, carry: Any, requests: Any, **more: Any) -> Any:
        if not requests:
            return save(world, carry, requests, **more)
        return measured(times, name, save, world, carry, requests, **more)

    vars(perform)["save"] = timed
    try:
        noether.train(
            module,
            torch.utils.data.TensorDataset(torch.randn(8 * EVERY * rounds + 8, 1024)),
            loss=lambda model, batch: model(batch[0]).square().mean(),
            optimizer=adamw,
            until={"updates": EVERY * rounds + 1},
            batch_size=8,
            callbacks=chain(
                hooks.checkpoint(schedule=every(updates=EVERY)),
                others(times, folder, module, optimizer),
            ),
            run_dir=folder / "runs",
            async_save=async_save,
            defaults=False,
        )
    finally:
        vars(perform)["save"] = save


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Print the medians, and their ratios to `torch.save`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where to write; a disk, not memory")
    options = parser.parse_args()
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    times: Times = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, way in (("noether", False), ("noether, async_save", True)):
            run(times, Path(folder), options.rounds, name, async_save=way)
    dist.destroy_process_group()
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    for name, median in medians.items():
        low, _, high = (1e3 * q for q in statistics.quantiles(times[name][1:]))
        plain, flushed = (median / medians[other] for other in ("torch.save", "flushed torch.save"))
        print(
            f"{name:22s} {1e3 * median:7.1f} ms, quartiles {low:.0f} to {high:.0f}:"
            f" {plain:.2f} of torch.save, {flushed:.2f} of it flushed"
        )


if __name__ == "__main__":
    main()
