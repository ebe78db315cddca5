"""What the model is worth on a data set."""

from typing import Any

import torch

from noether.callback import Callback, DataPass, factory
from noether.effects import Log
from noether.state import ModelView, TrainState


@factory
def offline_loss(
    *,
    dataset: str,
    batch_size: int | None = None,
    weights: str = "live",
    limit: int | None = None,
) -> Callback:
    """Log `loss/{dataset}/{loss}`: the run's loss over a whole data set, sample-weighted.

    Each time the schedule fires, in evaluation mode, without gradients, in the run's precision.
    `batch_size` defaults to training's micro-batch. With the `weights` of an average, `ema` say,
    the metric is `ema/loss/{dataset}/{loss}`. `limit`: the first so many batches only.

    >>> offline_loss(dataset="val").name
    'offline_loss/val'
    """

    metric = f"{_prefix(weights)}loss/{dataset}"

    def log_losses(state: TrainState) -> Log:
        return Log({f"{metric}/{name}": value for name, value in state.results.items()})

    return Callback(
        f"{_prefix(weights)}offline_loss/{dataset}",
        on_schedule=log_losses,
        data=DataPass(dataset, _losses, "mean", batch_size, weights, limit),
        reads=(),
        writes=(f"{metric}/*",),
    )


def _prefix(weights: str) -> str:
    return "" if weights == "live" else f"{weights}/"


def _losses(model: ModelView, batch: Any) -> Any:
    return model.loss(batch)


@factory
def accuracy(
    *,
    dataset: str,
    batch_size: int | None = None,
    weights: str = "live",
    limit: int | None = None,
) -> Callback:
    """Log `accuracy/{dataset}`: the share of samples whose largest output is their label.

    Batches are (inputs, labels): outputs of shape (batch, classes), labels of shape (batch,).
    `batch_size`, `weights` and `limit` as for `offline_loss`.

    >>> accuracy(dataset="val").writes
    ('accuracy/val',)
    """

    metric = f"{_prefix(weights)}accuracy/{dataset}"

    def log_accuracy(state: TrainState) -> Log | None:
        return Log({metric: state.results["correct"]}) if state.results else None

    return Callback(
        metric,
        on_schedule=log_accuracy,
        data=DataPass(dataset, _correct, "mean", batch_size, weights, limit),
        reads=(),
        writes=(metric,),
    )


def _correct(model: ModelView, batch: Any) -> dict[str, torch.Tensor]:
    return {"correct": model.predict(batch).argmax(-1) == batch[1]}
