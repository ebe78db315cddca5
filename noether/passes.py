"""A pass over an evaluation set: every sample once, in order, joined into one value per key."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noether.callback import DataPass
from noether.errors import suggestion
from noether.feed import fetch, to_device
from noether.machine import Machine, evaluating
from noether.randomness import apart

SEED = 0
"""Each pass draws the same random numbers, whenever it is made."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """Joins what batches give: `begin` with the first, `add` each other one, `end`."""

    begin: Callable[[Any, int], Any]
    add: Callable[[Any, Any], Any]
    end: Callable[[Any], Any]


def _mean_begin(value: Any, samples: int) -> tuple[Tensor, int]:
    value = torch.as_tensor(value).double()
    return (value.sum(0), len(value)) if value.ndim else (value * samples, samples)


def _keep(value: Any) -> Any:
    return value


def _joined(parts: list[Any]) -> Any:
    if all(isinstance(part, Tensor) for part in parts):
        return torch.stack(parts) if parts[0].ndim == 0 else torch.cat(parts)
    return [item for part in parts for item in (part if isinstance(part, list | tuple) else [part])]


def _extreme(function: Callable[[Tensor, Tensor], Tensor]) -> Reduction:
    whole = torch.amin if function is torch.minimum else torch.amax
    return Reduction(lambda value, _: whole(torch.as_tensor(value)), function, _keep)


REDUCTIONS: Mapping[str, Reduction] = {
    "concat": Reduction(lambda value, _: [value], lambda a, b: a + b, _joined),
    "mean": Reduction(
        _mean_begin,
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        lambda total: total[0] / total[1],
    ),
    "sum": Reduction(
        lambda value, _: torch.as_tensor(value).double().sum(), lambda a, b: a + b, _keep
    ),
    "min": _extreme(torch.minimum),
    "max": _extreme(torch.maximum),
}


def mistakes(data: DataPass, datasets: Mapping[str, Any]) -> list[str]:
    """What makes a pass impossible, found before the run."""
    found = []
    if data.dataset not in datasets:
        found.append(f"no data set is named {data.dataset!r}. {suggestion(data.dataset, datasets)}")
    kinds = [data.reduce] if isinstance(data.reduce, str) else data.reduce.values()
    found += [f"reduce {k!r}: {suggestion(k, REDUCTIONS)}" for k in kinds if k not in REDUCTIONS]
    if data.weights != "live":
        found.append(f"weights {data.weights!r} are not kept by any callback; use 'live'")
    return found


def serve(
    data: DataPass,
    dataset: Any,
    machine: Machine,
    *,
    batch_size: int,
    collate: Callable[[list[Any]], Any],
    poll: Callable[[], None],
) -> dict[str, Any]:
    """Run the pass over `dataset` and join its results; empty for an empty data set.

    The model is in evaluation mode, without gradients, in the run's precision; mode and random
    numbers of training are untouched. `poll` is called before each batch and may raise.
    """
    joined: dict[str, Any] = {}
    size = data.batch_size or batch_size
    with evaluating(machine.module), apart(SEED), torch.no_grad():
        for start in range(0, len(dataset), size):
            poll()
            indices = range(start, min(start + size, len(dataset)))
            batch = to_device(fetch(dataset, indices, collate), machine.device)
            values = data.process(machine.view, batch)
            values = {} if values is None else values
            if not isinstance(values, Mapping):
                raise TypeError(f"process of a data pass returns a mapping, not {values!r}")
            _check_keys(data, start // size, joined, values)
            _add(data, joined, values, len(indices))
    return {key: _reduction(data, key).end(value) for key, value in joined.items()}


def _check_keys(data: DataPass, number: int, joined: Any, values: Mapping[str, Any]) -> None:
    if number and joined.keys() != values.keys():
        raise ValueError(
            f"batch {number} of {data.dataset!r} gave {sorted(values)}, "
            f"the batches before it {sorted(joined)}; every batch must give the same keys"
        )


def _add(data: DataPass, joined: dict[str, Any], values: Mapping[str, Any], samples: int) -> None:
    for key, value in values.items():
        reduction = _reduction(data, key)
        part = reduction.begin(value, samples)
        joined[key] = reduction.add(joined[key], part) if key in joined else part


def _reduction(data: DataPass, key: str) -> Reduction:
    return REDUCTIONS[
        data.reduce if isinstance(data.reduce, str) else data.reduce.get(key, "concat")
    ]
