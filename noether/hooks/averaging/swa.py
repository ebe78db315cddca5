"""The mean of the weights at the ends of the last epochs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import Tensor

from noether.callback import Callback, DataPass, factory
from noether.effects import Set
from noether.hooks.averaging.weights import Averages, Buffers, begin, move
from noether.schedules import every as each
from noether.state import ModelView, TrainState

Anneal = Literal["cos", "linear"]


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of the weights and how many are in it, when it began, and the rates before that."""

    averages: Averages
    count: int = 0
    epoch: int = 0
    rates: Mapping[str, float] | None = None


@factory
def swa(
    *,
    start: float = 0.75,
    every: int = 1,
    lr: float | None = None,
    anneal: Anneal = "cos",
    anneal_epochs: int = 10,
    buffers: Buffers = "copy",
    update_bn: str | None = None,
) -> Callback:
    """Keep the mean of the weights at the ends of epochs, as the average `swa`.

    From the end of the first epoch after the share `start` of the run's updates on, each `every`
    epochs; before that it is the weights themselves. Stochastic weight averaging, Izmailov and
    others 2018. A data pass takes it by its name; the length of the run is not changed.

    lr: the learning rate towards which that of every group goes from then on, within
        `anneal_epochs`, by half a cosine ("cos") or a straight line ("linear").
    buffers: "copy" the model's, or "average" the floating ones too. The statistics of batch norms
        are then those of other weights, or near to the mean's own.
    update_bn: the evaluation set over which they are made anew after each epoch, as by torch's
        `update_bn`: the mean over its batches, in training mode. That is the training set under
        another name, in an order without a pattern, or a part of it, whose last batch has two
        samples at least. To save passes before the mean begins: `after(epochs=30)(swa(...))`.

    Raises ValueError for numbers out of range, and at the start for a run of unknown length.

    >>> list(swa().averages)
    ['swa']
    """
    _check(start, every, lr, anneal, anneal_epochs, buffers)
    init = begin({"swa": None})

    def first(state: TrainState) -> Mean:
        return Mean(init(state))

    def check(state: TrainState, kept: Mean) -> tuple[Mean, None]:
        if state.total.update is None:
            raise ValueError("swa needs a run of known length: until={'epochs': 10}, say")
        return kept, None

    def average(state: TrainState, kept: Mean) -> tuple[Mean, list[Set]]:
        if state.now.update < start * (state.total.update or math.inf):
            move(kept.averages.weights["swa"], state.model, 1.0, buffers)
            return kept, []
        if kept.rates is None:
            rates = {name: values["lr"] for name, values in state.hyper.items()}
            kept = Mean(kept.averages, 0, state.now.epoch, rates)
        passed = state.now.epoch - kept.epoch
        if passed % every == 0:
            move(kept.averages.weights["swa"], state.model, 1 / (kept.count + 1), buffers)
            kept = Mean(kept.averages, kept.count + 1, kept.epoch, kept.rates)
        share = min((passed + 1) / anneal_epochs, 1.0)
        return kept, [] if lr is None else _rates(kept.rates or {}, lr, _gone(share, anneal))

    return Callback(
        "swa",
        init=first,
        before_training=check,
        after_epoch=average,
        **({} if update_bn is None else _anew(update_bn)),
        reads=(),
        writes=(),
        averages={"swa": _mean},
    )


def _anew(dataset: str) -> dict[str, Any]:
    """The fields of a callback that makes the statistics of batch norms anew."""
    if not isinstance(dataset, str):
        raise ValueError(
            f"swa: update_bn is {dataset!r}; expected the name of an evaluation set: give the "
            "training set among `datasets` too, and name it here"
        )
    data = DataPass(dataset, _statistics, reduce="mean", weights="swa", alone=True)
    return {"data": data, "on_schedule": _replace_statistics, "schedule": each(epochs=1)}


def _statistics(model: ModelView, batch: Any) -> dict[str, Tensor]:
    # Of one row: however many samples it has, a batch counts once, as for torch.
    return {name: found[None] for name, found in model.batch_statistics(batch).items()}


def _replace_statistics(state: TrainState, kept: Mean) -> tuple[Mean, None]:
    mean = _mean(kept)
    found = {name: value.to(mean[name]) for name, value in state.results.items()}
    averages = replace(kept.averages, weights={"swa": {**mean, **found}})
    return replace(kept, averages=averages), None


def _mean(kept: Mean) -> Mapping[str, Tensor]:
    return kept.averages.weights["swa"]


def _gone(share: float, anneal: Anneal) -> float:
    """How much of the way to the other rate is gone."""
    return share if anneal == "linear" else (1 - math.cos(math.pi * share)) / 2


def _rates(base: Mapping[str, float], lr: float, share: float) -> list[Set]:
    return [Set(f"lr/{name}", rate + (lr - rate) * share) for name, rate in base.items()]


def _check(
    start: float, every: int, lr: float | None, anneal: str, epochs: int, buffers: str
) -> None:
    if not 0 <= start < 1 or every < 1 or epochs < 1 or not 0 <= (lr or 0) < math.inf:
        raise ValueError(
            f"swa: start {start}, every {every}, lr {lr}, anneal_epochs {epochs}; expected a share "
            "below 1, 1 or more, a rate of 0 or more, and 1 or more"
        )
    if anneal not in get_args(Anneal) or buffers not in get_args(Buffers):
        known = (*get_args(Anneal), *get_args(Buffers))
        raise ValueError(f"swa: anneal {anneal!r}, buffers {buffers!r}; expected some of {known}")
