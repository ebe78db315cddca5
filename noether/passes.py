"""A pass over an evaluation set: every sample once, joined into one value per key."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from noether.averages import having
from noether.callback import DataPass, Pipeline
from noether.distributed import gathered
from noether.errors import RankError, suggestion
from noether.feed import copied, kind, to_device
from noether.feed.fetches import PASS_SEED, portable
from noether.feed.serving import Batch
from noether.feed.windows import unserved
from noether.machine import Machine, evaluating
from noether.randomness import apart, seed_all
from noether.reductions import REDUCTIONS, Run, asked, extend, finished, moved, reduction


def mistakes(data: DataPass, datasets: Mapping[str, Any]) -> Iterator[str]:
    """What makes a pass impossible, found before the run."""
    if data.dataset not in datasets:
        yield f"no data set is named {data.dataset!r}. {suggestion(data.dataset, datasets)}"
    for wanted in asked(data):
        if not callable(wanted) and wanted not in REDUCTIONS:
            yield f"reduce {wanted!r}: {suggestion(str(wanted), REDUCTIONS)}"
    if data.batch_size is not None and kind(datasets.get(data.dataset)) == "batches":
        yield f"batch_size {data.batch_size}: {data.dataset!r} is a DataLoader with its own batches"


def unservable(datasets: Mapping[str, Any]) -> Iterator[str]:
    """The evaluation sets that can't be gone through."""
    for name, dataset in datasets.items():
        if kind(dataset) is None:
            yield f"data set {name!r} is {unserved(dataset)}"


@dataclass(slots=True)
class Passing:
    """One callback's pass under way."""

    data: DataPass
    weights: Mapping[str, torch.Tensor] | None
    """Those to make it with; None: the live ones."""
    runs: list[Run] = field(default_factory=list)
    """What the batches of this rank gave so far."""
    error: Exception | None = None
    """What went wrong in it; it is left out from then on."""


def serve(
    callbacks: Pipeline,
    batches: Iterable[Batch],
    machine: Machine,
    *,
    poll: Callable[[], None],
    weights: Mapping[str, Mapping[str, torch.Tensor] | None],
) -> dict[str, Any]:
    """Run the passes of callbacks that read the same; gives each one's results, or its error.

    Each is made with the `weights` of its callback, None for the live ones.

    The model is in evaluation mode, without gradients, in the run's precision; mode and random
    numbers of training are untouched. An error on one rank is the error of all. `poll` is called
    before each batch and may raise.
    """
    passing = {c.name: Passing(c.data, weights[c.name]) for c in callbacks if c.data is not None}
    machine.share_buffers()
    with evaluating(machine.module), apart(PASS_SEED), torch.no_grad():
        try:
            for number, samples, batch in batches:
                poll()
                batch = to_device(batch, machine.device)
                for position, each in enumerate(passing.values(), 1):
                    # What one pass does to its batch, or draws, is not for another to see.
                    seed_all(PASS_SEED + number)
                    own = batch if position == len(passing) else copied(batch)
                    _process(each, machine, number, samples, own)
        except RankError:
            raise
        except Exception as error:
            for each in passing.values():
                each.error = each.error or error
                _keep_step(each.data, machine, error)
    return {name: _results(each, machine) for name, each in passing.items()}


def _process(passing: Passing, machine: Machine, number: int, samples: int, batch: Any) -> None:
    """Let one pass see a batch."""
    if passing.error is not None:
        return
    try:
        values = _processed(passing, machine, batch)
        if samples:
            _add(passing, number, samples, {} if values is None else values)
    except Exception as error:
        passing.error = error
        _keep_step(passing.data, machine, error)


def _keep_step(data: DataPass, machine: Machine, error: Exception) -> None:
    """Where each forward pass takes all ranks together, one that breaks off can't go on."""
    if machine.lockstep:
        raise RankError(
            f"the pass over {data.dataset!r} failed on rank {machine.ranks.rank}, for whose part "
            f"of the model the others wait: {type(error).__name__}: {error}"
        ) from error


def _processed(passing: Passing, machine: Machine, batch: Any) -> Any:
    process, weights, view = passing.data.process, passing.weights, machine.view
    if weights is None or view is None:
        return process(view, batch)
    parameters = {name: weights[name] for name in view.parameters if name in weights}
    buffers = {name: weights[name] for name in view.buffers if name in weights}
    averaged = replace(
        view, parameters={**view.parameters, **parameters}, buffers={**view.buffers, **buffers}
    )
    return having(machine.module, weights, lambda: process(averaged, batch))


def _add(passing: Passing, number: int, samples: int, values: Any) -> None:
    data = passing.data
    if not isinstance(values, Mapping):
        raise TypeError(f"process of a data pass returns a mapping, not {values!r}")
    if data.offload:
        values = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    begun = {key: reduction(data, key).begin(value, samples) for key, value in values.items()}
    extend(data, passing.runs, number, begun)


def _results(passing: Passing, machine: Machine) -> Any:
    """The results of all ranks as one, or the first rank's error."""
    if machine.ranks.size > 1:
        _exchange(passing, machine)
    if passing.error is not None:
        return passing.error
    try:
        return finished(passing.data, passing.runs)
    except Exception as error:
        return error


def _exchange(passing: Passing, machine: Machine) -> None:
    """Take over the other ranks' runs and errors."""
    cpu = torch.device("cpu")
    error = None if passing.error is None else portable(passing.error)
    found = gathered(machine.ranks, (error, [moved(run, cpu) for run in passing.runs]))
    device = cpu if passing.data.offload else machine.device
    passing.error = next((error for error, _ in found if error is not None), None)
    passing.runs = [moved(run, device) for _, runs in found for run in runs]
