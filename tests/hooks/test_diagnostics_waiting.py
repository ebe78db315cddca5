"""Diagnostics wait for the device where they are due, and nowhere else."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import noether
from noether import Callback, every, hooks
from tests.strategies import net, samples, sgd, squared_error


class Readings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often a number is read from a tensor, for which a GPU would have to be waited."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


def readings(*callbacks: Callback) -> int:
    options: dict[str, Any] = {"until": {"updates": 6}, "batch_size": 4, "defaults": False}
    options |= {"loss": squared_error, "optimizer": sgd, "callbacks": list(callbacks)}
    found = Readings()
    with found:
        noether.train(net(), samples(12), **options)
    return found.count


def made() -> dict[str, Callback]:
    return {
        "norms": hooks.norms(per_parameter=True),
        "histograms": hooks.histograms(),
        "loss_spike": hooks.loss_spike(window=4, warmup=3),
        "nonfinite_guard": hooks.nonfinite_guard(schedule=every(updates=1)),
    }


@pytest.mark.parametrize("name", sorted(made()))
def test_where_nothing_is_due_nothing_is_read(name: str) -> None:
    assert readings(every(updates=100)(made()[name])) == readings()


def test_a_due_score_is_one_reading() -> None:
    assert readings(every(updates=6)(made()["loss_spike"])) == readings() + 1
