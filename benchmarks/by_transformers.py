"""The small training with the Trainer of Hugging Face Transformers."""

import tempfile
from typing import Any

import torch
import transformers
from measured import Clock, Reading, quiet
from torch.utils.data import default_collate
from trainings import BATCH, BETWEEN, DATA, DUE, OPTIMIZERS, model
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

transformers.logging.set_verbosity_error()


class Model(torch.nn.Module):
    """The small model, which computes its loss by itself, as this trainer likes it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.net, self.clock = model(), clock

    def forward(self, inputs: Any, labels: Any) -> dict[str, Any]:
        return {"loss": self.clock(self.net, (inputs, labels))}


class Waiting(TrainerCallback):
    """A callback that is hardly ever due."""

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step % DUE == 0:
            nothing()


def nothing() -> None:
    """What a callback does that only waits."""


def named(samples: list[Any]) -> dict[str, Any]:
    """The batch, its parts by name."""
    return dict(zip(("inputs", "labels"), default_collate(samples), strict=True))


def trained(optimizer: str, counted: int, callbacks: Any = (), **options: Any) -> Reading:
    clock = Clock(counted)
    net = Model(clock)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            net,
            arguments(folder, clock.total, **options),
            data_collator=named,
            train_dataset=DATA,
            optimizers=(OPTIMIZERS[optimizer](net.parameters()), None),
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.reading()


def arguments(folder: str, updates: int, **options: Any) -> TrainingArguments:
    """Nothing but training, on the processor, with a constant learning rate."""
    return TrainingArguments(
        folder,
        max_steps=updates,
        per_device_train_batch_size=BATCH,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        use_cpu=True,
        **options,
    )


QUIET = {"logging_strategy": "no", "logging_nan_inf_filter": False, "disable_tqdm": True}


def off(optimizer: str, counted: int) -> Reading:
    """No logging, no progress bar."""
    return trained(optimizer, counted, **QUIET)


def monitored(optimizer: str, counted: int) -> Reading:
    """The mean loss and the learning rate, told beside a progress bar."""
    return trained(optimizer, counted, logging_steps=BETWEEN, disable_tqdm=False)


def dormant(optimizer: str, counted: int, callbacks: int) -> Reading:
    """Callbacks that are hardly ever due."""
    return trained(optimizer, counted, [Waiting() for _ in range(callbacks)], **QUIET)
