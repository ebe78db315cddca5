"""What batch norms see of a batch is what torch's are left with, and the model stays as it is."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noether.batchnorm import batch_statistics
from tests.strategies import samples

BATCH = samples(6).inputs


class Norms(nn.Module):
    """Batch norms of every kind: called twice, not trained, without statistics."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.first = nn.Linear(3, 3)
        self.twice, self.slow = nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=0.01)
        self.fixed, self.bare = nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)
        self.unused, self.other = nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)

    def train(self, mode: bool = True) -> "Norms":  # noqa: FBT001, FBT002 as torch has it
        super().train(mode)
        self.fixed.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = self.twice(self.twice(self.first(inputs)).tanh() + inputs)
        images = self.fixed(self.bare(self.slow(inputs) + inputs))[..., None].expand(-1, -1, 2)
        outputs: Tensor = self.other(images)
        return outputs


def made() -> nn.Module:
    module = Norms()
    module(BATCH * 3)  # in training mode: statistics to begin with
    return module.eval()


def found(module: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return batch_statistics(module, lambda: module(BATCH))


def test_statistics_are_those_that_torch_is_left_with() -> None:
    module, other = made(), made()
    torch.optim.swa_utils.update_bn([BATCH], other)
    expected = dict(other.named_buffers())
    statistics = found(module)
    seen = ("twice", "slow")
    assert statistics.keys() == {
        f"{layer}.running_{which}"
        for layer in (*seen, "fixed", "unused")
        for which in ("mean", "var")
    }
    for name, value in statistics.items():
        # Torch forgets what those that see nothing had; here they keep it.
        there = expected if name.startswith(seen) else dict(module.named_buffers())
        torch.testing.assert_close(value, there[name], msg=name)


def attributes(module: nn.Module) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in vars(part).items() if not isinstance(value, dict)}
        for part in module.modules()
    ]


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_as_it_was(*, broken: bool) -> None:
    module = made()
    module.get_submodule("slow").train()
    before, plain = copy.deepcopy(module.state_dict()), attributes(module)

    def call() -> None:
        module(BATCH)
        if broken:
            raise KeyError

    try:
        batch_statistics(module, call)
    except KeyError:
        assert broken
    assert attributes(module) == plain
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_norms_over_ranks_see_the_batch_of_this_one() -> None:
    """Theirs would refuse a CPU, and wait for other ranks."""
    plain = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    shared = copy.deepcopy(plain)
    shared[1] = nn.SyncBatchNorm(3)
    before = attributes(shared)
    torch.testing.assert_close(found(shared), found(plain), rtol=0, atol=0)
    assert attributes(shared) == before
