"""Invented snapshots: a run as hooks see it, each snapshot a frozen value of its own."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from hypothesis import strategies as st
from torch import Tensor

from noether.progress import Progress
from noether.schedules import Tick
from noether.state import UNKNOWN, TrainState
from noether.testing.models import squared_error, tiny, view
from noether.testing.walks import METRICS, Walk, metric_values, progress_walks

States: TypeAlias = tuple[TrainState, ...]

GROUPS = (("default",), ("body", "head"))
"""Names of the optimizer's parameter groups."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A run, and what is the same in all of its snapshots."""

    walk: Walk
    module: torch.nn.Module
    loss: Callable[[Any, Any], Any]
    groups: tuple[str, ...]
    rank: int
    skips: bool
    """Whether updates of a loss that isn't finite are not performed."""


def snapshots(
    *,
    sessions: bool = True,
    within: bool = False,
    metrics: Collection[str] = METRICS,
    model: torch.nn.Module | None = None,
    loss: Callable[[Any, Any], Any] = squared_error,
) -> st.SearchStrategy[States]:
    """The snapshots of invented runs, from the opening tick to the closing one.

    With `within` also those of each micro-batch and of the gradients before the step. Weights and
    gradients are random, shaped as those of `model`, by default a small network from (n, 3) to
    (n, 2); losses are any number, as are `metrics`, fresh in some ticks and stale in others.

    >>> from hypothesis import given
    >>> @given(snapshots())
    ... def there_are_weights_throughout(states):
    ...     assert all("head.weight" in state.model.parameters for state in states)
    >>> there_are_weights_throughout()
    """
    module = tiny() if model is None else model
    runs = progress_walks(sessions=sessions, metrics=metrics)
    return _snapshots(runs, module, loss, within)


@st.composite
def _snapshots(
    draw: st.DrawFn,
    runs: st.SearchStrategy[Walk],
    module: torch.nn.Module,
    loss: Callable[[Any, Any], Any],
    within: bool,  # noqa: FBT001
) -> States:
    walk = draw(runs)
    rank = draw(st.integers(0, walk.ranks - 1))
    groups, skips = draw(st.sampled_from(GROUPS)), draw(st.booleans())
    recording = Recording(walk, module, loss, groups, rank, skips)
    states: list[TrainState] = []
    for last, tick in pairwise((walk.ticks[0], *walk.ticks)):
        if tick.event == "update":
            made = list(_update(recording, tick, draw(metric_values), last.metrics))
            states.extend(made if within else made[-1:])
        else:
            states.append(_standing(recording, tick))
    return tuple(states)


def _standing(recording: Recording, tick: Tick) -> TrainState:
    """The snapshot of an opening or a closing tick."""
    now, closing = tick.now, tick.event == "end"
    model = view(recording.module, recording.loss, now.update, gradients=closing)
    reason = f"reached {now.update} updates" if closing else None
    return replace(_base(recording, tick), model=model, reason=reason)


def _update(
    recording: Recording, tick: Tick, value: float, known: Mapping[str, float]
) -> Iterator[TrainState]:
    """The snapshots of one update: each micro-batch, the gradients, and the tick at last."""
    state = replace(_base(recording, tick), losses=_losses(value))
    micro_batches = [counts[recording.rank] for counts in recording.walk.micro_batches(tick)]
    performed = math.isfinite(value) or not recording.skips
    early = replace(
        state,
        model=view(recording.module, recording.loss, tick.before.update, gradients=True),
        metrics=known,
        fresh=frozenset(),
    )
    for samples in micro_batches:
        outputs = torch.full((samples, 2), value)
        yield replace(early, event="accumulation_step", now=tick.before, outputs=outputs)
    if performed:
        yield replace(early, event="before_update", now=coming(tick))
    yield replace(
        state,
        performed=performed,
        outputs=torch.full((micro_batches[-1], 2), value),
        model=view(recording.module, recording.loss, tick.now.update, gradients=True),
        timings=_timings(tick),
    )


def coming(tick: Tick | TrainState) -> Progress:
    """The counts an update will have reached; clock and feed are read with its tick only."""
    return replace(tick.now, seconds=tick.before.seconds, counters=tick.before.counters)


def _base(recording: Recording, tick: Tick) -> TrainState:
    """What a snapshot has of its tick and of its run."""
    rates = {"lr": 0.1 * 0.9**tick.now.update, "momentum": 0.9, "weight_decay": 0.01}
    return TrainState(
        tick.event,
        tick.before,
        tick.now,
        total=tick.total or UNKNOWN,
        metrics=tick.metrics,
        fresh=tick.fresh,
        hyper={group: dict(rates) for group in recording.groups},
        dataset_lengths={"train": 100, "val": 10},
        rank=recording.rank,
        world_size=recording.walk.ranks,
    )


def _losses(value: float) -> dict[str, Tensor]:
    """Two losses and their total, 0-dimensional."""
    fit, penalty = torch.tensor(value), torch.tensor(0.25)
    return {"total": fit + penalty, "fit": fit, "penalty": penalty}


def _timings(tick: Tick) -> dict[str, float]:
    """The tick's time, in equal parts; samples loaded while they were waited for."""
    part = (tick.now.seconds - tick.before.seconds) / 5
    parts = dict.fromkeys(("data_wait", "forward", "backward", "step", "pause"), part)
    return {**parts, "getitem": part / 2, "collate": part / 2}
