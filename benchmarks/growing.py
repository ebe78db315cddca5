"""A long run, early and late: its speed, its memory and its objects should stay what they were."""

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from typing import Any

import psutil
import torch
import trainings
from measured import Row, apart, quiet, spread
from torch.utils.data import TensorDataset

import noether
from noether import Callback, Log, TrainState, chain, every, hooks

PARTS = 40
"""The run is looked at this often; early is its first quarter but the start, late is its last."""


@dataclass(frozen=True)
class Look:
    """What a look at the process finds, and both clocks before and after it."""

    came: tuple[float, float]
    went: tuple[float, float]
    memory: float
    objects: int
    files: int


@dataclass(slots=True)
class Watch:
    """A loss that looks at the process now and then."""

    part: int
    seen: int = 0
    looks: list[Look] = field(default_factory=list)

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        if self.seen % self.part == 0:
            self.looks.append(looked())
        self.seen += 1
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def looked() -> Look:
    """What there is once all garbage is collected."""
    came = clocks()
    gc.collect()
    process, objects = psutil.Process(), len(gc.get_objects())
    memory, files = process.memory_info().rss / 1e6, process.num_fds()
    return Look(came, clocks(), memory, objects, files)


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def by_hand(watch: Watch, updates: int) -> None:
    net = trainings.model()
    optimizer = trainings.OPTIMIZERS["SGD"](net.parameters())
    for batch in islice(trainings.endless(trainings.loader), updates):
        optimizer.zero_grad()
        watch(net, batch).backward()
        optimizer.step()


@every(updates=100)
def weight_norm(state: TrainState) -> Log:
    norms = [weights.norm() for weights in state.model.parameters.values()]
    return Log({"weights/norm": torch.stack(norms).norm()})


def callbacks(updates: int) -> tuple[Callback, ...]:
    """A handful beside the default ones."""
    return chain(
        weight_norm,
        hooks.ema(decay=0.999),
        every(epochs=1)(hooks.offline_loss(dataset="val")),
        hooks.best_metric(source="loss/val/total", targets=["loss/val/total"]),
        hooks.early_stopping(metric="loss/val/total", patience=10**9),
        hooks.checkpoint(schedule=every(updates=max(updates // PARTS, 1))),
    )


def ours(watch: Watch, updates: int) -> None:
    val = TensorDataset(*trainings.DATA[:1000])
    with quiet(), tempfile.TemporaryDirectory() as folder:
        noether.train(
            trainings.model(),
            trainings.DATA,
            loss=watch,
            optimizer=trainings.OPTIMIZERS["SGD"],
            until={"updates": updates},
            batch_size=trainings.BATCH,
            callbacks=callbacks(updates),
            datasets={"val": val},
            log=every(updates=100),
            track=every(updates=100),
            run_dir=folder,
        )


WAYS: dict[str, Callable[[Watch, int], None]] = {"by hand": by_hand, "noether": ours}


def watched(name: str, updates: int) -> list[Look]:
    watch = Watch(max(updates // PARTS, 1))
    WAYS[name](watch, updates)
    return watch.looks


def rows(name: str, updates: int, looks: list[Look]) -> list[Row]:
    """Early and late of one run."""
    quarter = len(looks) // 4
    found = {"early": looks[2 : quarter + 1], "late": looks[-quarter:]}
    part = max(updates // PARTS, 1)
    return [Row(f"{name}, {when}", said(part, several)) for when, several in found.items()]


def said(part: int, looks: list[Look]) -> dict[str, Any]:
    """The speed between the looks, and what the last of them found."""
    last = looks[-1]
    spans = [(b.came[0] - a.went[0], b.came[1] - a.went[1]) for a, b in pairwise(looks)]
    return {
        "updates per second": spread([part / wall for wall, _ in spans]),
        "CPU, us per update": spread([1e6 * cpu / part for _, cpu in spans]),
        "memory, MB": last.memory,
        "Python objects": last.objects,
        "open files": last.files,
    }


def measure(rounds: int, updates: int) -> list[Row]:
    """Each way in a process of its own; of several rounds each is told."""
    told = []
    for number in range(rounds):
        for name in WAYS:
            again = f", round {number + 1}" if rounds > 1 else ""
            looks = apart(partial(watched, name, updates))
            told += rows(name + again, updates, looks)
    return told
