"""A training that remembers wherever a training can: what `torture.py` kills.

    python benchmarks/victim.py SERIES [UPDATES]

trains it by itself, or goes on with it.
"""

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

import noether
from noether import (
    Callback,
    Log,
    Save,
    Set,
    TrainState,
    chain,
    cooldown,
    every,
    hooks,
    on_plateau,
    once_at_end,
    stateful,
)

FEATURES, CLASSES = 16, 4
SAMPLES, VALIDATION = 92, 24
"""The last update of an epoch is smaller; no micro-batch has a single sample (BatchNorm)."""
BATCH, ACCUMULATE = 16, 2
DECAY = 0.1
BEST = "best_model.loss.val.total"
"""The tag of its best checkpoint."""

Told = Callable[[str, int], None]
"""Hears of "start", "update" and "end", and which update that is."""


@dataclass(frozen=True)
class Blobs:
    """Labelled points, those for training moved by noise from all three global generators."""

    inputs: torch.Tensor
    labels: torch.Tensor
    moved: bool

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = self.inputs[index]
        if self.moved:
            inputs = inputs + 0.1 * torch.randn(FEATURES)
            inputs = inputs * random.uniform(0.9, 1.1) + float(numpy.random.normal(0.0, 0.1))
        return inputs, self.labels[index]


def blobs(length: int, seed: int, *, moved: bool) -> Blobs:
    """Points around the same centres, whatever the seed."""
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (length,), generator=drawn)
    spread = torch.randn(length, FEATURES, generator=drawn)
    return Blobs(centres[labels] + 1.5 * spread, labels, moved)


def network() -> torch.nn.Module:
    """A network with weights, buffers, and random numbers of its own."""
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 128),
        torch.nn.BatchNorm1d(128),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(128, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, CLASSES),
    )


def cross_entropy(model: Any, batch: Any) -> torch.Tensor:
    inputs, labels = batch
    return torch.nn.functional.cross_entropy(model(inputs), labels)


@dataclass(frozen=True, slots=True)
class Walked:
    """How far the first layer has gone, step by step."""

    last: torch.Tensor
    length: float = 0.0
    turns: tuple[int, ...] = ()
    """The latest updates in which it went further than on average."""


def _at_start(state: TrainState) -> Walked:
    return Walked(state.model.parameters["0.weight"].detach().clone())


@stateful(init=_at_start, reads=(), writes=("walked",))
def walked(state: TrainState, before: Walked) -> tuple[Walked, Log]:
    """Log at every update how far the first layer has walked: any step lost or made twice shows."""
    here = state.model.parameters["0.weight"].detach().clone()
    step, update = float((here - before.last).norm()), state.now.update
    length = before.length + step
    turns = (*before.turns, update)[-5:] if step * update > length else before.turns
    return Walked(here, length, turns), Log({"walked": length})


def _decay_less(state: TrainState, decay: float) -> tuple[float, Set]:
    return decay / 2, Set("weight_decay", decay / 2)


def _whole_decay(state: TrainState) -> float:
    return DECAY


def _keep_plateau(state: TrainState) -> Save:
    return Save("plateau", keep_last=1)


def pipeline(tell: Told) -> Any:
    """Callbacks and schedules that remember, evaluate, save and set."""
    stalled = on_plateau("loss/val/total", patience=2)
    return chain(
        Callback(
            "whereabouts",
            before_training=lambda state: tell("start", state.now.update),
            after_update=lambda state: tell("update", state.now.update),
            on_schedule=lambda state: tell("end", state.now.update),
            schedule=once_at_end,
            reads=(),
            writes=(),
        ),
        walked,
        hooks.ema(decay=0.95, warmup=True),
        (every(updates=9) | once_at_end)(hooks.offline_loss(dataset="val")),
        every(epochs=2)(hooks.offline_loss(dataset="val", weights="ema")),
        hooks.best_checkpoint(metric="loss/val/total"),
        hooks.progress(schedule=every(updates=50) | once_at_end),
        Callback(
            "decay",
            init=_whole_decay,
            on_schedule=_decay_less,
            schedule=stalled,
            reads=("loss/val/total",),
        ),
        Callback(
            "plateau",
            on_schedule=_keep_plateau,
            schedule=cooldown(stalled, updates=40),
            reads=("loss/val/total",),
        ),
        hooks.checkpoint(schedule=every(updates=5) | once_at_end),
    )


def train(
    series: Path,
    updates: int,
    tell: Told,
    *,
    resume: str = "auto",
    workers: int = 0,
    async_save: bool = False,
    seed: int = 0,
) -> None:
    """Train to the end, or go on; the same for all ranks."""
    torch.set_num_threads(1)
    noether.train(
        network(),
        blobs(SAMPLES, 1, moved=True),
        loss=cross_entropy,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, weight_decay=DECAY),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=updates
        ),
        until={"updates": updates},
        batch_size=BATCH,
        accumulate=ACCUMULATE,
        clip_norm=1.0,
        callbacks=pipeline(tell),
        datasets={"val": blobs(VALIDATION, 2, moved=False)},
        run_dir=series,
        resume=resume,
        workers=workers,
        async_save=async_save,
        defaults={"train_time": False, "peak_memory": False},  # no two runs have them alike
        seed=seed,
    )


if __name__ == "__main__":
    train(Path(sys.argv[1]), int([*sys.argv, "603"][2]), lambda where, update: None)
