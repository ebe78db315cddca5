"""Random augmentation depends on seed, epoch and sample alone."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import noether
from noether import TrainState, every, hooks
from noether.checkpoint import newest
from noether.feed import fetch
from tests.strategies import net, sgd, squared_error

Drawn = dict[int, list[float]]


@dataclass(slots=True)
class Noisy:
    """A data set that draws from all three generators, and notes what each sample drew."""

    length: int = 10
    drawn: Drawn = field(default_factory=lambda: defaultdict(list))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = [random.random(), float(torch.rand(())), float(numpy.random.rand())]
        self.drawn[index] += numbers
        return torch.tensor(numbers), torch.zeros(2)


def trained(data: Any, **options: Any) -> TrainState:
    given: dict[str, Any] = {
        "until": {"epochs": 2},
        "batch_size": 4,
        "defaults": False,
        **options,
    }
    return noether.train(net(), data, loss=squared_error, optimizer=sgd, **given)


def drawn(**options: Any) -> Drawn:
    data = Noisy()
    trained(data, **options)
    return dict(data.drawn)


@pytest.mark.parametrize(
    "options",
    [{"accumulate": 2}, {"batch_size": 2}, {"shuffle": False}],
    ids=["accumulated", "smaller", "in order"],
)
def test_a_sample_draws_the_same_however_it_falls_into_batches(options: dict[str, Any]) -> None:
    assert drawn(**options) == drawn()


def test_each_epoch_each_sample_and_each_seed_draws_anew() -> None:
    one, other = drawn(), drawn(seed=1)
    numbers = [n for found in (one, other) for sample in found.values() for n in sample]
    assert len(set(numbers)) == len(numbers) == 2 * 10 * 2 * 3


def test_a_run_resumed_in_mid_epoch_draws_as_the_unbroken_one(tmp_path: Path) -> None:
    saving = hooks.checkpoint(schedule=every(updates=1))
    whole, data = drawn(), Noisy()
    trained(data, callbacks=saving, run_dir=tmp_path, until={"updates": 2})
    found = newest(tmp_path / "1" / "checkpoints")
    assert found is not None
    random.seed(99)
    torch.manual_seed(99)
    trained(data, callbacks=saving, run_dir=tmp_path, resume=found.directory)
    assert dict(data.drawn) == whole


def test_training_draws_the_same_beside_a_data_set_that_draws() -> None:
    """Dropout sees no difference."""

    @dataclass(frozen=True)
    class Wasteful:
        waste: int

        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            torch.rand(self.waste)
            return torch.full((3,), float(index)), torch.ones(2)

    losses = []
    for waste in (0, 5):
        model = net()
        noether.train(
            *(model, Wasteful(waste)),
            loss=squared_error,
            optimizer=sgd,
            until={"epochs": 2},
            batch_size=4,
            defaults=False,
        )
        losses.append(model.state_dict())
    for name, value in losses[0].items():
        assert torch.equal(value, losses[1][name]), name


def test_a_set_that_gives_batches_is_seeded_by_its_first_sample() -> None:
    class Batched:
        def __getitems__(self, indices: Sequence[int]) -> list[float]:
            return [random.random() for _ in indices]

    first, _ = fetch(Batched(), [3, 4], list, seed=1, epoch=2)
    assert first == fetch(Batched(), [3, 4], list, seed=1, epoch=2)[0]
    assert first != fetch(Batched(), [4, 3], list, seed=1, epoch=2)[0]
