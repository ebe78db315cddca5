"""What the model is worth on a data set."""

from typing import Any

import torch

from noether.callback import Callback, DataPass, factory
from noether.effects import Log
from noether.state import ModelView, TrainState


@factory
def offline_loss(*, dataset: str, batch_size: int | None = None) -> Callback:
    """Log `loss/{dataset}/{loss}`: the run's loss over a whole data set, sample-weighted.

    Each time the schedule fires, in evaluation mode, without gradients, in the run's precision.
    `batch_size` defaults to training's micro-batch.

    >>> offline_loss(dataset="val").name
    'offline_loss/val'
    """

    def log_losses(state: TrainState) -> Log:
        return Log({f"loss/{dataset}/{name}": value for name, value in state.results.items()})

    return Callback(
        f"offline_loss/{dataset}",
        on_schedule=log_losses,
        data=DataPass(dataset, _losses, "mean", batch_size),
        reads=(),
        writes=(f"loss/{dataset}/*",),
    )


def _losses(model: ModelView, batch: Any) -> Any:
    return model.loss(batch)


@factory
def accuracy(*, dataset: str, batch_size: int | None = None) -> Callback:
    """Log `accuracy/{dataset}`: the share of samples whose largest output is their label.

    Batches are (inputs, labels): outputs of shape (batch, classes), labels of shape (batch,).

    >>> accuracy(dataset="val").writes
    ('accuracy/val',)
    """

    def log_accuracy(state: TrainState) -> Log | None:
        return Log({f"accuracy/{dataset}": state.results["correct"]}) if state.results else None

    return Callback(
        f"accuracy/{dataset}",
        on_schedule=log_accuracy,
        data=DataPass(dataset, _correct, "mean", batch_size),
        reads=(),
        writes=(f"accuracy/{dataset}",),
    )


def _correct(model: ModelView, batch: Any) -> dict[str, torch.Tensor]:
    return {"correct": model.predict(batch).argmax(-1) == batch[1]}
