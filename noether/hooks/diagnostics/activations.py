"""What the submodules of a model give, in numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from noether.callback import Callback, DataPass, factory
from noether.effects import Log
from noether.hooks.outputs.names import prefix, texts
from noether.state import ModelView, TrainState

Stat = Literal["mean", "std", "zero_share", "kurtosis"]


@factory
def activation_stats(
    *,
    dataset: str,
    modules: Sequence[str] = ("*",),
    stats: Sequence[Stat] = ("mean", "std", "zero_share", "kurtosis"),
    batch_size: int | None = None,
    weights: str = "live",
    limit: int | None = None,
) -> Callback:
    """Log `activation/{module}/{stat}`: what submodules give for the samples of a data set.

    Of those whose dotted names match one of `modules`, over all numbers of their outputs, as if
    they were there at once: the mean, the standard deviation, the share of exact zeros, and the
    kurtosis (the fourth central moment by the square of the second: 3 for a normal distribution).
    In evaluation mode; of a module called twice in a batch the last output, of one that gives a
    tuple the first tensor; other outputs are left out. A small set, or a `limit`, will do.

    `batch_size`, `weights` and `limit` as for `offline_loss`. Raises ValueError for an unknown
    statistic; LookupError, in the pass, where no module matches.

    >>> activation_stats(dataset="val", modules=["head"], stats=["std"]).writes
    ('activation/*/std',)
    """
    patterns = texts("activation_stats: modules", modules)
    wanted = texts("activation_stats: stats", stats)
    _check(patterns, wanted)
    before = prefix(weights)

    def moments(model: ModelView, batch: Any) -> dict[str, Any]:
        outputs = model.record(batch, patterns)
        found = {name: _tensor(output) for name, output in outputs.items()}
        found = {name: _moments(output) for name, output in found.items() if output is not None}
        if not found:
            raise LookupError(f"activation_stats: no module matches {' or '.join(patterns)}")
        return found

    def log_stats(state: TrainState) -> Log | None:
        metrics = {
            f"{before}activation/{module}/{stat}": value
            for module, found in state.results.items()
            for stat, value in _stats(found).items()
            if stat in wanted
        }
        return Log(metrics) if metrics else None

    return Callback(
        f"{before}activation_stats/{dataset}",
        on_schedule=log_stats,
        data=DataPass(dataset, moments, merged, batch_size, weights, limit),
        reads=(),
        writes=tuple(f"{before}activation/*/{stat}" for stat in wanted),
        on_error="warn",
    )


def _check(modules: Sequence[str], stats: Sequence[str]) -> None:
    known = get_args(Stat)
    if not stats or not set(stats) <= set(known):
        raise ValueError(f"activation_stats: stats is {list(stats)}; expected some of {known}")
    if not modules:
        raise ValueError("activation_stats: modules is empty; expected one pattern at least")


def _tensor(output: Any) -> Tensor | None:
    parts = output if isinstance(output, tuple | list) else (output,)
    tensors = (part for part in parts if isinstance(part, Tensor))
    found = next(tensors, None)
    return found if found is not None and found.is_floating_point() else None


def _moments(output: Tensor) -> Tensor:
    """How many numbers, their mean, sums of powers of what they are from it, and the zeros."""
    numbers = output.detach().flatten().double()
    count = torch.full_like(numbers.sum(), numbers.numel())
    mean = numbers.sum() / count.clamp(min=1)
    apart = numbers - mean
    powers = [apart.pow(power).sum() for power in (2, 3, 4)]
    return torch.stack([count, mean, *powers, (numbers == 0).sum().double()])


def merged(one: Tensor, other: Tensor) -> Tensor:
    """The moments of two sets of numbers together.

    Powers of the numbers themselves would add up by themselves, but lose all digits where the mean
    is large. Formulas: P. Pébay, Sandia report SAND2008-6212 (2008), equations 1.5 to 1.7.
    """
    a, mean, a2, a3, a4, zeros = one.unbind()
    b, other_mean, b2, b3, b4, other_zeros = other.unbind()
    count = a + b
    share, d = b / count.clamp(min=1), other_mean - mean
    keep = 1 - share
    second = a2 + b2 + d**2 * a * share
    third = a3 + b3 + d**3 * a * share * (keep - share) + 3 * d * (keep * b2 - share * a2)
    fourth = (
        a4
        + b4
        + d**4 * a * share * (keep**2 - keep * share + share**2)
        + 6 * d**2 * (keep**2 * b2 + share**2 * a2)
        + 4 * d * (keep * b3 - share * a3)
    )
    return torch.stack([count, mean + d * share, second, third, fourth, zeros + other_zeros])


def _stats(moments: Tensor) -> Mapping[str, Tensor]:
    count, mean, second, _, fourth, zeros = moments.unbind()
    return {
        "mean": mean,
        "std": (second / count).sqrt(),
        "zero_share": zeros / count,
        "kurtosis": count * fourth / second**2,
    }
