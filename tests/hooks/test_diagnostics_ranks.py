"""Diagnostics on two ranks are those of one, however the weights lie. Functions at module level."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import every, hooks
from noether.testing.traces import trace
from tests.group import Group, groups
from tests.strategies import Samples, net, samples, sgd, squared_error

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module", name="ranked")
def _ranked() -> Iterator[Mapping[int, Group]]:
    with groups(2, 3) as made:
        yield made


@pytest.fixture(scope="module", name="two")
def _two(ranked: Mapping[int, Group]) -> Group:
    return ranked[2]


def doubled(n: int, seed: int) -> Samples:
    made = samples(n, seed=seed)
    return Samples(made.inputs.double(), made.targets.double())


def train(run_dir: str, made: list[Any], parallel: str, **options: Any) -> Any:
    given: dict[str, Any] = {"loss": squared_error, "optimizer": sgd, "until": {"updates": 4}}
    given |= {"batch_size": 4, "defaults": False, "run_dir": run_dir, "callbacks": made}
    given |= {"datasets": {"val": doubled(7, seed=3)}, "parallel": parallel, **options}
    model = given.pop("model", None) or net(dropout=0.0).double()
    return noether.train(model, doubled(8, seed=1), **given)


def watched(run_dir: str, parallel: str) -> dict[str, float]:
    made = [
        hooks.norms(per_parameter=True).named("all"),
        hooks.activation_stats(dataset="val", batch_size=2),
        hooks.loss_spike(window=3, warmup=3),
        hooks.histograms(bins=5),
    ]
    final = train(run_dir, [every(updates=2)(each) for each in made], parallel, clip_norm=0.1)
    return dict(final.metrics)


def written(folder: Path) -> dict[str, Any]:
    outputs = sorted((folder / "1" / "outputs").iterdir())
    return {path.name: torch.load(path, weights_only=True) for path in outputs}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_of_them_come_to_the_same(two: Group, tmp_path: Path, parallel: str) -> None:
    expected = watched(str(tmp_path / "one"), "ddp")
    assert len(expected) == 4 + 4 * 4 + 4 * 4 + 1
    for found in two.call(watched, str(tmp_path / "two"), parallel):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-12, nan_ok=True)
    one, both = written(tmp_path / "one"), written(tmp_path / "two")
    assert one.keys() == both.keys()
    for name, file in one.items():
        for kind, held in file.items():
            counts = {n: trace(h["counts"]) for n, h in held.items()}
            assert {n: trace(h["counts"]) for n, h in both[name][kind].items()} == counts


def largest(run_dir: str, parallel: str) -> dict[str, float]:
    made = hooks.norms(norm=math.inf, patterns=["*.weight"])
    return dict(train(run_dir, [every(updates=2)(made)], parallel, batch_size=6).metrics)


def test_norms_where_a_rank_holds_nothing_of_a_weight(
    ranked: Mapping[int, Group], tmp_path: Path
) -> None:
    expected = largest(str(tmp_path / "one"), "ddp")
    for found in ranked[3].call(largest, str(tmp_path / "three"), "fsdp"):
        assert found == pytest.approx(expected, rel=1e-9)


class Spoilt(torch.nn.Module):
    """The network, with two weights of which the first has no finite gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net(dropout=0.0).double()
        self.spare = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        nothing = (self.spare[0] - self.spare[0].detach()).abs().sqrt()
        outputs: torch.Tensor = self.net(inputs) + nothing
        return outputs


def guarded(run_dir: str, parallel: str) -> str:
    guard = hooks.nonfinite_guard(schedule=every(updates=1), gradients=False)
    try:
        train(run_dir, [guard], parallel, model=Spoilt())
    except noether.NonFiniteError:
        return "raised"
    return "went on"


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_ranks_stop_together_whichever_holds_the_bad_number(
    two: Group, tmp_path: Path, parallel: str
) -> None:
    assert two.call(guarded, str(tmp_path), parallel) == ["raised"] * 2
    journal = (tmp_path / "1" / "journal.jsonl").read_text()
    assert "parameter spare is not finite at update 1" in journal


def unused(run_dir: str) -> tuple[int, str | None]:
    model = net(dropout=0.0).double()
    model.register_parameter("spare", torch.nn.Parameter(torch.tensor([1.0, math.nan]).double()))
    final = train(run_dir, [hooks.nonfinite_guard(schedule=every(updates=2))], "fsdp", model=model)
    return final.now.update, final.reason


def test_a_bad_number_of_one_shard_ends_the_run_on_all_ranks(two: Group, tmp_path: Path) -> None:
    expected = (2, "parameter spare is not finite at update 2")
    assert two.call(unused, str(tmp_path)) == [expected] * 2
