"""The single steps made with model and optimizer."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import noether
from noether import Callback, TrainState
from tests.strategies import samples, squared_error


class Parts(torch.nn.Module):
    """Parameters of these number types, each of which has a gradient of its own size."""

    def __init__(self, types: list[torch.dtype]) -> None:
        super().__init__()
        self.parts = torch.nn.ParameterList(
            torch.full((2, number), 0.5, dtype=dtype) for number, dtype in enumerate(types, 1)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        sizes = [number * part.float().square().sum() for number, part in enumerate(self.parts, 1)]
        return torch.stack(sizes).sum() + 0 * inputs[:, :1]


@pytest.mark.parametrize(
    "types", [[torch.float32] * 3, [torch.float32, torch.float64], [torch.bfloat16, torch.float32]]
)
def test_the_norm_is_that_of_all_gradients_as_one_vector(types: list[torch.dtype]) -> None:
    found: list[float] = []

    def look(state: TrainState) -> None:
        assert state.model.grad_norm is not None
        found.append(float(state.model.grad_norm))

    def loss(model: Any, batch: Any) -> Tensor:
        mean: Tensor = model(batch[0]).mean()
        return mean

    noether.train(
        Parts(types),
        samples(4),
        loss=loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        until={"updates": 1},
        batch_size=4,
        callbacks=Callback("look", before_update=look),
        defaults=False,
    )
    squares = [2 * number * float(number) ** 2 for number in range(1, len(types) + 1)]
    assert found == [pytest.approx(math.sqrt(sum(squares)), rel=1e-4)]  # a part's norm has its type


def test_what_the_optimizer_does_not_hold_adds_up_no_gradients() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    sizes: list[float] = []

    def look(state: TrainState) -> None:
        sizes.append(float(state.model.gradients["0.weight"].norm()))

    noether.train(
        model,
        samples(4),
        loss=squared_error,
        optimizer=lambda parameters: torch.optim.SGD(model[1].parameters(), lr=0.0),
        until={"updates": 3},
        batch_size=4,
        shuffle=False,
        callbacks=Callback("look", before_update=look),
        defaults=False,
    )
    assert sizes[1:] == sizes[:1] * 2


def test_a_loss_function_that_leaves_training_mode_does_not_end_it() -> None:
    modes: list[bool] = []

    def loss(model: Any, batch: Any) -> Tensor:
        modes.append(model.training)
        model.eval()
        return squared_error(model, batch)

    noether.train(
        torch.nn.Linear(3, 2),
        samples(8),
        loss=loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        until={"updates": 4},
        batch_size=4,
        defaults=False,
    )
    assert modes == [True] * 4


def test_sparse_gradients_have_the_norm_of_their_sums() -> None:
    found: list[float] = []

    def look(state: TrainState) -> None:
        assert state.model.grad_norm is not None
        assert state.model.gradients["weight"].is_sparse
        found.append(float(state.model.grad_norm))
        found.append(float(state.model.gradients["weight"].to_dense().norm()))

    noether.train(
        torch.nn.EmbeddingBag(10, 3, sparse=True),
        [torch.tensor([i, i + 1]) for i in range(8)],
        loss=lambda model, batch: model(batch).square().mean(),
        optimizer=lambda parameters: torch.optim.SparseAdam(list(parameters)),
        until={"updates": 1},
        batch_size=8,
        callbacks=Callback("look", before_update=look),
        defaults=False,
    )
    assert found[0] == pytest.approx(found[1])
