"""Pictures of what the model does with the same few samples, or with those of an update."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from noether.callback import Callback, DataPass, factory
from noether.effects import Write
from noether.hooks.outputs.names import chosen, prefix, stamp
from noether.state import ModelView, TrainState


@factory
def images(
    *,
    dataset: str | None = None,
    source: str | None = None,
    plot: Callable[..., Any] | None = None,
    count: int = 4,
    weights: str = "live",
) -> Callback:
    """Write `{name}_E{e}_U{u}_S{s}.png`: what `plot` draws of `count` samples.

    It returns an image of shape (channels, height, width), a matplotlib figure, best a `Figure` of
    its own, which nobody has to close, or None.

    dataset: the evaluation set whose first samples they are. `plot(model, batch)` gets them as one
        batch, in evaluation mode, without gradients. `weights` as for `offline_loss`.
    source: instead, what the loss function returns beside the loss by that name. `plot(samples)`
        gets the first samples of it, of the update's last micro-batch on the first rank; without
        `plot` they are images themselves, and drawn side by side.

    Raises ValueError unless exactly one of `dataset` and `source` is given, or for a count below 1.

    >>> images(dataset="val", plot=lambda model, batch: model(batch)[0]).name
    'images/val'
    >>> images(source="reconstruction").name
    'images/reconstruction'
    """
    _check(dataset, source, plot, count, weights)
    if source is not None:
        return _of_update(source, plot or _side_by_side, count)
    return _of_set(str(dataset), plot, count, weights)


def _of_set(dataset: str, plot: Any, count: int, weights: str) -> Callback:
    def drawn(model: ModelView, batch: Any) -> dict[str, Any]:
        image = plot(model, batch)
        return {} if image is None else {"image": [image]}

    def write(state: TrainState) -> Write | None:
        return _file(state, state.results["image"][0]) if state.results else None

    return Callback(
        f"{prefix(weights)}images/{dataset}",
        on_schedule=write,
        data=DataPass(dataset, drawn, batch_size=count, weights=weights, limit=1),
        reads=(),
        writes=(),
        on_error="warn",
    )


def _of_update(source: str, plot: Callable[..., Any], count: int) -> Callback:
    def write(state: TrainState) -> Write | None:
        if state.event != "update":
            return None
        found = chosen(state.outputs, [source], (), "images")[source]
        image = plot(_first(source, found, count))
        return None if image is None else _file(state, image)

    return Callback(f"images/{source}", on_schedule=write, reads=(), writes=(), on_error="warn")


def _first(source: str, found: Any, count: int) -> Tensor:
    if not isinstance(found, Tensor) or not found.ndim:
        raise TypeError(
            f"images: output {source!r} is {found!r}; expected a tensor with a row for each sample"
        )
    return found.detach()[:count]


def _side_by_side(samples: Tensor) -> Tensor:
    if samples.ndim not in (3, 4):
        raise TypeError(
            f"images: samples of shape {tuple(samples.shape[1:])} are no images; expected "
            "(channels, height, width) or (height, width), or give a plot"
        )
    return torch.cat(tuple(samples), dim=-1)


def _file(state: TrainState, image: Any) -> Write:
    return Write(f"{{name}}_{stamp(state)}.png", image)


def _check(dataset: str | None, source: str | None, plot: Any, count: int, weights: str) -> None:
    given = {"dataset": dataset, "source": source}
    said = {name: value for name, value in given.items() if value is not None}
    if len(said) != 1:
        found = said or "nothing"
        raise ValueError(f"images: found {found}; expected one of dataset, source")
    if dataset is not None and plot is None:
        raise ValueError(f"images: dataset {dataset!r} has no plot; expected a function that draws")
    if source is not None and weights != "live":
        raise ValueError(f"images: weights {weights!r} are for a dataset; a source has live ones")
    if count < 1:
        raise ValueError(f"images: count is {count}; expected 1 or more")
