import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import noether
from noether import Callback, TrainState, every, hook, hooks
from noether.hooks.diagnostics.histograms import _histogram
from tests.strategies import net, samples, sgd, squared_error


def train(folder: Path, *callbacks: Callback, **options: Any) -> TrainState:
    given: dict[str, Any] = {"loss": squared_error, "optimizer": sgd, "until": {"updates": 4}}
    given |= {"batch_size": 4, "defaults": False, "callbacks": list(callbacks), **options}
    return noether.train(given.pop("model", None) or net(), samples(12), run_dir=folder, **given)


def written(folder: Path) -> dict[str, Any]:
    outputs = (folder / "1" / "outputs").iterdir()
    return {path.name: torch.load(path, weights_only=True) for path in outputs}


numbers = st.floats(-100, 100, width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])


@given(numbers=st.lists(numbers, min_size=1, max_size=40), bins=st.integers(1, 9))
@example(numbers=[math.nan], bins=4)
@example(numbers=[2.0, 2.0, math.inf], bins=4)
def test_counts_and_edges_are_those_of_numpy(numbers: list[float], bins: int) -> None:
    found = _histogram(torch.tensor(numbers), bins)
    finite = numpy.array([x for x in numbers if math.isfinite(x)], dtype=float)
    span = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    _, edges = numpy.histogram(finite, bins, range=span)
    assert found["edges"].tolist() == pytest.approx(edges.tolist(), rel=1e-9, abs=1e-9)
    assert int(found["nonfinite"]) == len(numbers) - len(finite)
    assert int(found["counts"].sum()) == len(finite)
    # A number that lies on an edge may be counted on either side of it.
    up_to = found["counts"].cumsum(0).tolist()
    for edge, count in zip(edges[1:], up_to, strict=True):
        assert (finite < edge - 1e-9).sum() <= count <= (finite <= edge + 1e-9).sum()


def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    held = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    whole = _histogram(held, 7)
    monkeypatch.setitem(_histogram.__globals__, "PIECE", 64)
    parts = _histogram(held, 7)
    assert torch.equal(whole["counts"], parts["counts"])
    assert whole["counts"].tolist() == numpy.histogram(held.double(), 7)[0].tolist()


def test_a_file_holds_what_there_was_before_the_step(tmp_path: Path) -> None:
    seen: list[dict[str, dict[str, Tensor]]] = []

    def note(state: TrainState) -> None:
        weights = {name: p.detach().clone() for name, p in state.model.parameters.items()}
        grads = {name: grad.clone() for name, grad in state.model.gradients.items()}
        seen.append({"parameters": weights, "gradients": grads})

    noting = every(updates=2)(hook(point="before_update")(note))
    train(tmp_path, every(updates=2)(hooks.histograms(bins=5)), noting)
    found = written(tmp_path)
    assert sorted(found) == ["histograms_E0_U2_S8.pt", "histograms_E1_U4_S16.pt"]
    for before, file in zip(seen, (found[name] for name in sorted(found)), strict=True):
        assert file.keys() == before.keys()
        for kind, tensors in before.items():
            assert file[kind].keys() == tensors.keys()
            for name, tensor in tensors.items():
                counts, edges = numpy.histogram(tensor.double().numpy(), 5)
                assert file[kind][name]["counts"].tolist() == counts.tolist()
                assert file[kind][name]["edges"].tolist() == pytest.approx(edges.tolist())
                assert int(file[kind][name]["nonfinite"]) == 0


@pytest.mark.parametrize(
    ("wanted", "other"), [("parameters", "gradients"), ("gradients", "parameters")]
)
def test_what_is_not_wanted_is_not_there(wanted: str, other: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {other: False, "patterns": ["0.*", "3.bias"]}
    train(tmp_path, every(updates=4)(hooks.histograms(**options)).named("spread"))
    (found,) = written(tmp_path).items()
    assert found[0].startswith("spread_E1_U4")
    assert found[1].keys() == {wanted}
    assert set(found[1][wanted]) == {"0.weight", "0.bias", "3.bias"}


def test_parameters_without_a_gradient_or_numbers_are_left_out(tmp_path: Path) -> None:
    model: Any = net()
    model[0].requires_grad_(False)
    model.register_parameter("none", torch.nn.Parameter(torch.zeros(0)))
    train(tmp_path, every(updates=4)(hooks.histograms()), model=model)
    (file,) = written(tmp_path).values()
    assert set(file["parameters"]) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert set(file["gradients"]) == {"3.weight", "3.bias"}


def test_nothing_changes(tmp_path: Path) -> None:
    plain, watched = net(), net()
    train(tmp_path / "plain", model=plain)
    train(tmp_path / "watched", every(updates=1)(hooks.histograms()), model=watched, strict=True)
    pairs = zip(plain.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_an_update_that_was_skipped_writes_nothing(tmp_path: Path) -> None:
    calls: list[int] = []

    def loss(model: Any, batch: Any) -> Tensor:
        calls.append(1)
        return squared_error(model, batch) * (math.nan if len(calls) == 2 else 1)

    train(tmp_path, every(updates=2)(hooks.histograms()), loss=loss, on_nonfinite="skip")
    assert list(written(tmp_path)) == ["histograms_E1_U4_S16.pt"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bins": 0}, "bins is 0"),
        ({"patterns": []}, "patterns is empty"),
        ({"patterns": "head"}, "patterns is 'head'"),
        ({"parameters": False, "gradients": False}, "set one at least"),
    ],
)
def test_a_bad_option_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"histograms: .*{named}"):
        hooks.histograms(**options)
