"""Pictures of what was predicted beside what is true."""

from collections.abc import Iterator
from importlib.util import find_spec
from math import ceil
from typing import Any

import torch
from torch import Tensor

PANELS, POINTS, CLASSES = 9, 5_000, 20
"""Numbers of a row that are drawn, points of each, and classes whose counts are written."""
MOST = 1_000
"""Classes of which counts are drawn."""
SIDE = 3.2
"""Inches of a panel."""


def check_drawing(who: str) -> None:
    """Raise ValueError where nothing can be drawn."""
    if find_spec("matplotlib") is None:
        raise ValueError(f"{who} needs matplotlib: pip install 'noether-callbacks[figures]'")


def compared(predicted: Tensor, true: Tensor, name: str) -> Any:
    """A matplotlib figure: counts by class for classes, else points beside the diagonal.

    Of classes `true` has shape (samples,) and whole numbers, and `predicted` a score for each class
    or classes themselves; samples of a class below 0 are left out. Otherwise both have one shape,
    (samples, ...), and each number of a row is a panel of its own, up to nine.

    Raises ValueError where the shapes don't fit, or what is given can't be drawn.
    """
    if problem := _problem(predicted, true):
        raise ValueError(f"{name} is not drawn: {problem}")
    if _are_classes(true) and predicted.ndim == 2 and predicted.shape[1] > 1:
        return _confusion(predicted.argmax(1), true, predicted.shape[1], name)
    if predicted.ndim == true.ndim + 1 and predicted.shape[-1] == 1:
        predicted = predicted.squeeze(-1)
    if predicted.shape != true.shape:
        raise ValueError(
            f"{name} is not drawn: it has shape {tuple(predicted.shape)}, the targets "
            f"{tuple(true.shape)}; a plot takes two of one shape, or classes and their scores"
        )
    if _are_classes(true) and _are_classes(predicted):
        return _confusion(predicted, true, 0, name)
    return _points(predicted, true, name)


def _problem(predicted: Any, true: Any) -> str | None:
    for each in (predicted, true):
        if not isinstance(each, Tensor):
            return "it takes tensors"
        if each.is_complex() or not each.numel():
            return "it is complex" if each.numel() else "there are no numbers"
    return None


def _are_classes(values: Tensor) -> bool:
    return not values.is_floating_point() and values.ndim == 1


def _confusion(predicted: Tensor, true: Tensor, classes: int, name: str) -> Any:
    predicted, true = predicted.cpu()[true.cpu() >= 0], true.cpu()[true.cpu() >= 0]
    size = max(classes, 1, *(1 + int(each.max()) for each in (predicted, true) if len(each)))
    if size > MOST or (predicted < 0).any():
        raise ValueError(f"{name} is not drawn: expected classes from 0 to {MOST - 1}")
    counts = torch.bincount(true.long() * size + predicted.long(), minlength=size * size)
    counts = counts.view(size, size)
    figure, (axes,) = _panels(1, SIDE + 0.25 * min(size, CLASSES))
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row, column in _cells(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, int(counts[row, column]), ha="center", va="center", color=colour)
    ticks = range(size) if size <= CLASSES else ()
    axes.set(xlabel="predicted", ylabel="true", xticks=ticks, yticks=ticks)
    axes.set_title(f"{name}, {int(counts.diagonal().sum())} of {len(true)} right", fontsize="small")
    return figure


def _cells(counts: Tensor) -> Iterator[tuple[int, int]]:
    """The places of counts that are written: of few classes all that are not empty."""
    if len(counts) <= CLASSES:
        yield from ((int(row), int(column)) for row, column in counts.nonzero())


def _points(predicted: Tensor, true: Tensor, name: str) -> Any:
    rows = [each.detach().double().cpu().flatten(1) for each in _with_rows(predicted, true)]
    found, wanted = (each[:: ceil(len(each) / POINTS) or 1, :PANELS] for each in rows)
    figure, panels = _panels(found.shape[1], SIDE)
    for column, axes in enumerate(panels):
        across, up = wanted[:, column], found[:, column]
        axes.scatter(across.numpy(), up.numpy(), s=6, alpha=0.5, linewidths=0)
        finite = across[across.isfinite()]
        middle = float(finite.mean()) if len(finite) else 0.0
        axes.axline((middle, middle), slope=1, color="grey", lw=0.8)
        off = (rows[0][:, column] - rows[1][:, column]).abs().mean()
        title = name if len(panels) == 1 else f"{name}/{column}"
        axes.set(xlabel="true", ylabel="predicted")
        axes.set_title(f"{title}, off by {off:.3g} on average", fontsize="small")
    return figure


def _with_rows(*values: Tensor) -> Iterator[Tensor]:
    """The same with a row for each sample, where that is a single number."""
    return (each if each.ndim > 1 else each.unsqueeze(1) for each in values)


def _panels(count: int, side: float) -> tuple[Any, list[Any]]:
    """A figure of its own, which no list of open ones holds, and its panels."""
    from matplotlib.figure import Figure

    columns = min(count, 3)
    lines = ceil(count / columns)
    figure = Figure(figsize=(columns * side, lines * side), layout="constrained")
    return figure, [figure.add_subplot(lines, columns, place + 1) for place in range(count)]
