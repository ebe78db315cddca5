import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from noether import Log, Progress
from noether.testing.traces import storages, trace


@dataclass(frozen=True)
class Pair:
    one: Any
    other: Any


VALUES: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: 1,
    lambda: 1.0,
    lambda: math.nan,
    lambda: -0.0,
    lambda: "1",
    lambda: b"1",
    lambda: (1, 2),
    lambda: [1, 2],
    lambda: {1, 2},
    lambda: {"a": 1},
    lambda: {"a": math.nan},
    lambda: torch.tensor([1.0, math.nan]),
    lambda: torch.tensor([[1.0, math.nan]]),
    lambda: torch.tensor([1.0, 2.0]),
    lambda: torch.tensor([1, 2]),
    lambda: torch.zeros(0),
    lambda: torch.tensor(1.0),
    lambda: torch.eye(2).to_sparse(),
    lambda: torch.ones(4, 3).T[::2],
    lambda: np.ones(3),
    lambda: Pair(1, 2),
    lambda: Progress(update=3),
    lambda: Log({"a": torch.tensor(1.0)}),
    lambda: math.sin,
]


def test_equal_values_have_equal_traces_and_no_others() -> None:
    for position, make in enumerate(VALUES):
        for other, made in enumerate(VALUES):
            assert (trace(make()) == trace(made())) is (position == other), (make(), made())


def test_a_mapping_is_not_told_from_one_in_another_order() -> None:
    assert trace({"a": 1, "b": 2}) == trace({"b": 2, "a": 1})


def test_a_scalar_of_numpy_is_the_number() -> None:
    assert trace(np.float64(0.5)) == trace(0.5)


def test_what_tensors_hold_can_be_left_out() -> None:
    one, other = {"a": (torch.zeros(2), 1)}, {"a": (torch.ones(2), 1)}
    assert trace(one) != trace(other)
    assert trace(one, tensors=False) == trace(other, tensors=False)
    assert trace(one, tensors=False) != trace({"a": (torch.zeros(2), 2)}, tensors=False)


def test_what_cannot_be_pickled_is_traced_by_its_type() -> None:
    assert trace(lambda: 1) == trace(lambda: 2)


@pytest.mark.parametrize(
    "inside",
    [
        lambda t: t,
        lambda t: t.detach(),
        lambda t: t[1:],
        lambda t: {"a": [t]},
        lambda t: Pair(1, (t,)),
    ],
)
def test_tensors_are_found_wherever_they_are_held(inside: Callable[[Any], Any]) -> None:
    held = torch.ones(3)
    assert list(storages(inside(held))) == [held.untyped_storage().data_ptr()]
    assert not set(storages(inside(held.clone()))) & set(storages(held))
