"""Losses and accuracies over a whole data set."""

from collections.abc import Mapping, Sequence
from glob import escape
from typing import Any

import torch

from noether.callback import Callback, DataPass, factory
from noether.effects import Log
from noether.hooks.outputs.names import chosen, number, prefix, texts
from noether.state import ModelView, TrainState


@factory
def offline_loss(
    *,
    dataset: str,
    batch_size: int | None = None,
    output_patterns_to_log: Sequence[str] | None = None,
    weights: str = "live",
    limit: int | None = None,
) -> Callback:
    """Log `loss/{dataset}/{loss}`: the run's loss over a whole data set, sample-weighted.

    Each time the schedule fires, in evaluation mode, without gradients, in the run's precision.
    `batch_size` defaults to training's micro-batch. With the `weights` of an average, `ema` say,
    the metric is `ema/loss/{dataset}/{loss}`. `limit`: the first so many batches only.

    Beside an `online_loss` of the same interval, it also logs `lossdiff/{dataset}/{loss}`: by how
    much the loss over the set is above that of training, `loss/online/{loss}/{I}` of this tick.

    output_patterns_to_log: parts of names. Of what the loss function returns beside the loss, the
        outputs whose names contain one of them are logged too, as `{output}/{dataset}`: the mean
        of their numbers. That none does is an error which names those there are.

    >>> offline_loss(dataset="val").name
    'offline_loss/val'
    >>> offline_loss(dataset="val", output_patterns_to_log=["error"]).writes
    ('loss/val/*', 'lossdiff/val/*', '*error*/val')
    """
    before = prefix(weights)
    metric = f"{before}loss/{dataset}/"
    patterns = texts("offline_loss: output_patterns_to_log", output_patterns_to_log)

    def losses(model: ModelView, batch: Any) -> dict[str, Any]:
        return _by_metric(model.loss(batch))

    def losses_and_outputs(model: ModelView, batch: Any) -> dict[str, Any]:
        named, outputs = model.loss_and_outputs(batch)
        found = chosen(outputs, (), patterns, "offline_loss")
        means = {f"{before}{name}/{dataset}": number(name, v).mean() for name, v in found.items()}
        return {**_by_metric(named), **means}

    def _by_metric(named: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{metric}{name}": loss for name, loss in named.items()}

    def log_losses(state: TrainState) -> Log | None:
        losses = {name.removeprefix(metric): loss for name, loss in state.results.items()}
        online = {name: f"loss/online/{name}/{state.label}" for name in losses}
        above = {
            f"{before}lossdiff/{dataset}/{name}": losses[name] - state.metrics[key]
            for name, key in online.items()
            if key in state.fresh
        }
        return Log({**state.results, **above}) if state.results else None

    return Callback(
        f"{before}offline_loss/{dataset}",
        on_schedule=log_losses,
        data=DataPass(
            dataset, losses_and_outputs if patterns else losses, "mean", batch_size, weights, limit
        ),
        reads=(),
        reads_optional=("loss/online/*",),
        writes=(
            f"{metric}*",
            f"{before}lossdiff/{dataset}/*",
            *(f"{before}*{escape(pattern)}*/{dataset}" for pattern in patterns),
        ),
    )


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
    metric = f"{prefix(weights)}accuracy/{dataset}"

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
