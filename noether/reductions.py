"""How what the batches of a pass give becomes one value: joined in data-set order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import iadd
from typing import Any

import torch
from torch import Tensor

from noether.callback import DataPass, Reduce


@dataclass(frozen=True, slots=True)
class Reduction:
    """`begin` with what a batch of so many samples gave, `add` what follows in order, `end`."""

    begin: Callable[[Any, int], Any]
    add: Callable[[Any, Any], Any]
    end: Callable[[Any], Any]


def _given(value: Any, samples: int) -> Any:
    return value


def _kept(value: Any) -> Any:
    return value


def _mean_begin(value: Any, samples: int) -> tuple[Tensor, int]:
    value = torch.as_tensor(value).double()
    return (value.sum(0), len(value)) if value.ndim else (value * samples, samples)


def _joined(parts: list[Any]) -> Any:
    if all(isinstance(part, Tensor) for part in parts):
        if all(part.ndim == 0 for part in parts):
            return torch.stack(parts)
        if len({part.shape[1:] if part.ndim else None for part in parts}) == 1:
            return torch.cat(parts)
    return [item for part in parts for item in _rows(part)]


def _rows(part: Any) -> list[Any]:
    """The samples of what a batch gave; one that is no list of them counts as one."""
    if isinstance(part, Tensor):
        return list(part) if part.ndim else [part]
    return list(part) if isinstance(part, list | tuple) else [part]


def _extreme(function: Callable[[Tensor, Tensor], Tensor]) -> Reduction:
    whole = torch.amin if function is torch.minimum else torch.amax
    return Reduction(lambda value, _: whole(torch.as_tensor(value)), function, _kept)


def _merged(one: Any, other: Any) -> Any:
    if not hasattr(one, "merge_state"):
        return one + other
    one.merge_state(other)
    return one


def _complete(value: Any) -> Any:
    # A metric of torchmetrics would gather once more what holds all ranks' samples already.
    if hasattr(value, "sync_on_compute"):
        value.sync_on_compute = False
    return value


REDUCTIONS: Mapping[str, Reduction] = {
    "concat": Reduction(lambda value, _: [value], iadd, _joined),
    "mean": Reduction(
        _mean_begin,
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        lambda total: total[0] / total[1],
    ),
    "sum": Reduction(
        lambda value, _: torch.as_tensor(value).double().sum(), lambda a, b: a + b, _kept
    ),
    "min": _extreme(torch.minimum),
    "max": _extreme(torch.maximum),
    "merge": Reduction(_given, _merged, _complete),
}


def asked(data: DataPass) -> list[Reduce]:
    """The reductions that a pass asks for."""
    reduces = data.reduce
    return list(reduces.values()) if isinstance(reduces, Mapping) else [reduces]


def reduction(data: DataPass, key: str) -> Reduction:
    """The reduction of one key."""
    reduces = data.reduce
    wanted = reduces.get(key, "concat") if isinstance(reduces, Mapping) else reduces
    return REDUCTIONS[wanted] if isinstance(wanted, str) else Reduction(_given, wanted, _kept)


@dataclass(slots=True)
class Run:
    """Consecutive batches of a pass as one value per key, up to batch `last`."""

    first: int
    last: int
    values: dict[str, Any]


def extend(data: DataPass, runs: list[Run], number: int, values: Mapping[str, Any]) -> None:
    """Add what a batch gave, already begun, to the runs of this rank."""
    if runs and runs[-1].last + 1 == number:
        runs[-1] = _both(data, runs[-1], Run(number, number, dict(values)))
    else:
        runs.append(Run(number, number, dict(values)))


def _both(data: DataPass, one: Run, other: Run) -> Run:
    if one.values.keys() != other.values.keys():
        raise ValueError(
            f"batch {other.first} of {data.dataset!r} gave {sorted(other.values)}, the batches "
            f"before it {sorted(one.values)}; every batch must give the same keys"
        )
    values = {
        key: reduction(data, key).add(value, other.values[key]) for key, value in one.values.items()
    }
    return Run(one.first, other.last, values)


def moved(run: Run, device: torch.device) -> Run:
    """The run with its tensors on a device; what is no tensor or list of them stays as it is."""
    return Run(run.first, run.last, {key: _moved(v, device) for key, v in run.values.items()})


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (list, tuple):
        return type(value)(_moved(item, device) for item in value)
    return value


def finished(data: DataPass, runs: list[Run]) -> dict[str, Any]:
    """The results of all ranks' runs, joined in data-set order; empty where there are none."""
    if not runs:
        return {}
    whole = reduce(lambda a, b: _both(data, a, b), sorted(runs, key=lambda run: run.first))
    return {key: reduction(data, key).end(value) for key, value in whole.values.items()}
