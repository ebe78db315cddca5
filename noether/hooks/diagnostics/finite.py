"""A watch for numbers that are none."""

import math
from collections.abc import Iterator

from torch import Tensor

from noether.callback import Callback, factory
from noether.effects import Effect, Say, Stop
from noether.hooks.diagnostics.named import sizes
from noether.schedules import Schedule, every, once_at_end
from noether.state import TrainState

Parts = Iterator[tuple[str, Tensor]]


@factory
def nonfinite_guard(
    *,
    losses: bool = True,
    gradients: bool = True,
    weights: bool = True,
    metrics: bool = False,
    schedule: Schedule | None = None,
) -> Callback:
    """Stop where there is a NaN or an infinite number, and name the first that has one.

    Looks, in this order, at the losses, the gradients, the weights and buffers of the model, and
    the last value of each metric; not at metrics by default, since some are rightly undefined. The
    step itself is for `on_nonfinite` to decide: losses and gradients of an update that it skipped
    are not looked at, and where it raises, this callback tells what was wrong. Of a gradient that
    was NaN clipping by norm makes all of them NaN; then the first one is named.

    Runs on `schedule`, by default every 100 updates and on the closing tick, where it only tells.
    Each time it goes through all these numbers on the device, and waits for it once.

    Raises ValueError where there is nothing to look at.

    >>> str(nonfinite_guard().schedule)
    'every(updates=100) | once_at_end'
    """
    sources = {_losses: losses, _gradients: gradients, _weights: weights}
    looked_at = [source for source, wanted in sources.items() if wanted]
    if not looked_at and not metrics:
        raise ValueError("nonfinite_guard: all options are false; set one at least")

    def guard(state: TrainState) -> list[Effect]:
        bad = _first([part for source in looked_at for part in source(state)])
        if bad is None and metrics:
            bad = _metric(state)
        if bad is None:
            return []
        reason = f"{bad} is not finite at update {state.now.update}"
        return [Say(reason), *([Stop(reason)] if state.event != "end" else [])]

    return Callback(
        "nonfinite_guard",
        on_schedule=guard,
        schedule=every(updates=100) | once_at_end if schedule is None else schedule,
        reads=(),
        reads_optional=("*",) if metrics else (),
        writes=(),
        critical=True,
    )


def _losses(state: TrainState) -> Parts:
    if state.performed:
        yield from ((f"loss {name}", loss) for name, loss in state.losses.items())


def _gradients(state: TrainState) -> Parts:
    if state.performed:
        yield from ((f"the gradient of {n}", g) for n, g in state.model.gradients.items())


def _weights(state: TrainState) -> Parts:
    yield from ((f"parameter {name}", p) for name, p in state.model.parameters.items())
    yield from ((f"buffer {name}", b) for name, b in state.model.buffers.items())


def _first(parts: list[tuple[str, Tensor]]) -> str | None:
    """The name of the first that isn't finite; the one place that waits for the device."""
    real = [(name, tensor) for name, tensor in parts if tensor.numel() and _inexact(tensor)]
    if not real:
        return None
    # The largest absolute value is finite where all are, and NaN where one is.
    finite = sizes([tensor for _, tensor in real], math.inf).isfinite().tolist()
    return next((name for (name, _), fine in zip(real, finite, strict=True) if not fine), None)


def _metric(state: TrainState) -> str | None:
    names = (name for name in sorted(state.metrics) if not math.isfinite(state.metrics[name]))
    return next((f"metric {name}" for name in names), None)


def _inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
