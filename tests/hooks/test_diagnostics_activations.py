from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats  # type: ignore[import-untyped]
from torch import Tensor

import noether
from noether import Callback, TrainState, every, hooks
from noether.hooks.diagnostics.activations import _moments, _stats, merged
from tests.strategies import net, samples, sgd, squared_error

STATS = ("mean", "std", "zero_share", "kurtosis")


def train(*callbacks: Callback, model: Any = None, val: Any = None, **options: Any) -> TrainState:
    given: dict[str, Any] = {"loss": squared_error, "optimizer": sgd, "until": {"epochs": 1}}
    given |= {"batch_size": 4, "defaults": False, "callbacks": list(callbacks)}
    given |= {"datasets": {"val": samples(7, seed=3) if val is None else val}, **options}
    return noether.train(model or net(), samples(8), **given)


def activations(model: Any, inputs: Tensor) -> dict[str, Tensor]:
    """What each layer of a sequential model gives, by hand."""
    model.eval()
    found = {}
    with torch.no_grad():
        for name, layer in model.named_children():
            inputs = found[name] = layer(inputs)
    return found


def expected(numbers: Any) -> dict[str, float]:
    array = numpy.asarray(numbers, dtype=float).ravel()
    return {
        "mean": array.mean(),
        "std": array.std(),
        "zero_share": (array == 0).mean(),
        "kurtosis": scipy_stats.kurtosis(array, fisher=False),
    }


@settings(max_examples=15)
@given(n=st.integers(1, 9), size=st.integers(1, 10))
def test_they_are_those_of_all_outputs_at_once(n: int, size: int) -> None:
    val = samples(n, seed=3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    made = hooks.activation_stats(dataset="val", batch_size=size)
    final = train(every(epochs=1)(made), model=model, val=val)
    found = activations(model, val.inputs)
    assert set(final.metrics) == {f"activation/{name}/{stat}" for name in found for stat in STATS}
    for name, outputs in found.items():
        for stat, value in expected(outputs).items():
            metric = final.metrics[f"activation/{name}/{stat}"]
            assert metric == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True)


parts = st.lists(
    st.lists(st.integers(-3, 3).map(float), max_size=6), min_size=1, max_size=5
).filter(lambda lists: len({x for part in lists for x in part}) > 1)


@given(parts=parts, shift=st.sampled_from([0.0, 1e6]))
def test_moments_of_parts_join_into_those_of_the_whole(
    parts: list[list[float]], shift: float
) -> None:
    numbers = [torch.tensor(part, dtype=torch.float64) + shift for part in parts]
    joined = _moments(numbers[0])
    for part in numbers[1:]:
        joined = merged(joined, _moments(part))
    found = {stat: float(value) for stat, value in _stats(joined).items()}
    assert found == pytest.approx(expected(torch.cat(numbers)), rel=1e-6, abs=1e-9)


def test_modules_are_chosen_by_pattern_and_statistics_by_name() -> None:
    made = hooks.activation_stats(dataset="val", modules=["0", "[12]"], stats=["mean", "std"])
    final = train(every(epochs=1)(made))
    keys = {f"activation/{name}/{stat}" for name in "012" for stat in ("mean", "std")}
    assert set(final.metrics) == keys


def test_no_forward_hook_stays_and_training_is_the_same() -> None:
    plain, watched = net(norm=True), net(norm=True)
    train(model=plain)
    train(every(updates=1)(hooks.activation_stats(dataset="val")), model=watched, strict=True)
    assert not any(module._forward_hooks for module in watched.modules())
    pairs = zip(plain.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


class Odd(torch.nn.Module):
    """Layers that give a tuple, whole numbers, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.whole, self.text = Pair(), Whole(), Text()
        self.last = torch.nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        self.whole(inputs)
        self.text(inputs)
        outputs: Tensor = self.last(self.pair(inputs)[1])
        return outputs


class Pair(torch.nn.Module):
    def forward(self, inputs: Tensor) -> tuple[str, Tensor, Tensor]:
        return "first", inputs + 1, inputs


class Whole(torch.nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.long()


class Text(torch.nn.Module):
    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"inputs": inputs}


def test_of_a_tuple_the_first_tensor_counts_and_other_outputs_are_left_out() -> None:
    val = samples(7, seed=3)
    made = every(epochs=1)(hooks.activation_stats(dataset="val", stats=["mean"]))
    metrics = train(made, model=Odd(), val=val).metrics
    assert set(metrics) == {"activation/pair/mean", "activation/last/mean"}
    mean = float(val.inputs.mean()) + 1
    assert metrics["activation/pair/mean"] == pytest.approx(mean, rel=1e-5)


def test_averaged_weights_have_names_of_their_own() -> None:
    live, mean = (
        every(epochs=1)(hooks.activation_stats(dataset="val", modules=["3"], weights=weights))
        for weights in ("live", "ema")
    )
    assert (live.name, mean.name) == ("activation_stats/val", "ema/activation_stats/val")
    metrics = train(live, mean, hooks.ema(decay=0.9)).metrics
    assert metrics["activation/3/mean"] != metrics["ema/activation/3/mean"]


def test_an_empty_set_logs_nothing_and_a_limit_is_kept() -> None:
    made = hooks.activation_stats(dataset="val", modules=["0"])
    assert train(every(epochs=1)(made), val=samples(0)).metrics == {}
    model, val = net(), samples(7, seed=3)
    made = hooks.activation_stats(dataset="val", modules=["0"], batch_size=2, limit=2)
    metrics = train(every(epochs=1)(made), model=model, val=val).metrics
    mean = float(activations(model, val.inputs[:4])["0"].mean())
    assert metrics["activation/0/mean"] == pytest.approx(mean, rel=1e-5)


def test_modules_that_are_not_there_are_named_and_the_run_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = hooks.activation_stats(dataset="val", modules=["haed.*"])
    assert train(every(epochs=1)(made)).now.epoch == 1
    assert "no module matches haed.*" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [{"stats": ["mode"]}, {"stats": []}, {"stats": "mean"}, {"modules": []}, {"modules": "head"}],
)
def test_a_bad_option_is_refused(options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(ValueError, match=f"activation_stats: {option} is"):
        hooks.activation_stats(dataset="val", **options)
