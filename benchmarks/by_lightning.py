"""The small training with Lightning."""

import logging
import tempfile
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, Timer, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from measured import Clock, Reading, quiet
from trainings import BETWEEN, DUE, OPTIMIZERS, loader, model

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(LightningModule):
    """The small model."""

    def __init__(self, optimizer: str, clock: Clock, *, logs: bool) -> None:
        super().__init__()
        self.net, self.clock, self.optimizer, self.logs = model(), clock, optimizer, logs

    def training_step(self, batch: Any, index: int) -> Any:
        loss = self.clock(self.net, batch)
        if self.logs:
            self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer](self.net.parameters())


class Waiting(Callback):
    """A callback that is hardly ever due."""

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step % DUE == 0:
            nothing()


def nothing() -> None:
    """What a callback does that only waits."""


def trained(optimizer: str, counted: int, *, logs: bool = False, **options: Any) -> Reading:
    clock = Clock(counted)
    module = Module(optimizer, clock, logs=logs)
    with quiet():
        trainer = Trainer(accelerator="cpu", devices=1, max_steps=clock.total, **options)
        trainer.fit(module, loader())
    return clock.reading()


def off(optimizer: str, counted: int) -> Reading:
    """What Lightning has for measuring its raw speed."""
    return trained(optimizer, counted, barebones=True)


def monitored(optimizer: str, counted: int) -> Reading:
    """The loss and the learning rate in a file, a progress bar, the time; no checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        watching: dict[str, Any] = {
            "logger": CSVLogger(folder),
            "log_every_n_steps": BETWEEN,
            "callbacks": [
                LearningRateMonitor(logging_interval="step"),
                TQDMProgressBar(refresh_rate=BETWEEN),
                Timer(),
            ],
        }
        return trained(optimizer, counted, logs=True, enable_checkpointing=False, **watching)


def dormant(optimizer: str, counted: int, callbacks: int) -> Reading:
    """Callbacks that are hardly ever due."""
    waiting = [Waiting() for _ in range(callbacks)]
    return trained(optimizer, counted, barebones=True, callbacks=waiting)
