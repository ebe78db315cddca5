import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import noether
from noether import Callback, TrainState, every, hook, hooks
from tests.strategies import net, samples, sgd, squared_error

KINDS = ("gradient", "weight", "update", "update_to_weight")
Tensors = dict[str, Tensor]


def train(*callbacks: Callback, **options: Any) -> TrainState:
    given: dict[str, Any] = {"loss": squared_error, "optimizer": sgd, "until": {"updates": 6}}
    given |= {"batch_size": 4, "defaults": False, "callbacks": list(callbacks), **options}
    return noether.train(given.pop("model", None) or net(), samples(12), **given)


class Watch:
    """The weights at each update, the opening one among them, and the gradients before each."""

    def __init__(self) -> None:
        self.weights: list[Tensors] = []
        self.gradients: list[Tensors] = []
        self.metrics: list[Mapping[str, float]] = []

    def callbacks(self) -> list[Callback]:
        def weights(state: TrainState) -> None:
            held = state.model.parameters.items()
            self.weights.append({name: p.detach().double() for name, p in held})

        def gradients(state: TrainState) -> None:
            held = state.model.gradients.items()
            self.gradients.append({name: g.double() for name, g in held})

        def metrics(state: TrainState) -> None:
            self.metrics.append({name: state.metrics[name] for name in state.fresh})

        return [
            Callback("weights", before_training=weights, after_update=weights),
            hook(point="before_update")(gradients),
            Callback("metrics", on_schedule=metrics, schedule=every(updates=1)),
        ]


def watched(made: Callback, **options: Any) -> Watch:
    watch = Watch()
    train(made, *watch.callbacks(), **options)
    return watch


def size(tensors: Tensors, norm: float) -> float:
    numbers = [abs(x) for tensor in tensors.values() for x in tensor.flatten().tolist()]
    whole: float = max(numbers) if norm == math.inf else sum(x**norm for x in numbers) ** (1 / norm)
    return whole


def expected(before: Tensors, after: Tensors, gradients: Tensors, norm: float) -> dict[str, float]:
    update = size({name: after[name] - before[name] for name in after}, norm)
    weight = size(after, norm)
    return {
        "norms/gradient": size(gradients, norm),
        "norms/weight": weight,
        "norms/update": update,
        "norms/update_to_weight": update / weight,
    }


def part(tensors: Tensors, name: str) -> Tensors:
    return {name: tensors[name]}


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, math.inf])
def test_norms_are_those_of_the_weights_as_one_vector_and_of_each(norm: float) -> None:
    watch = watched(every(updates=2)(hooks.norms(norm=norm, per_parameter=True)))
    for update, (before, after) in enumerate(pairwise(watch.weights), 1):
        found = watch.metrics[update - 1]
        if update % 2:
            assert found == {}
            continue
        gradients = watch.gradients[update - 1]
        whole = expected(before, after, gradients, norm)
        assert len(found) == 4 + 4 * len(after)
        for key, value in whole.items():
            assert found[key] == pytest.approx(value, rel=1e-4)
        for name in after:
            each = expected(part(before, name), part(after, name), part(gradients, name), norm)
            for key, value in each.items():
                assert found[f"{key}/{name}"] == pytest.approx(value, rel=1e-3)


def test_the_gradient_of_the_run_is_the_one_before_clipping() -> None:
    free, clipped = (
        watched(every(updates=1)(hooks.norms(per_parameter=True)), until={"updates": 1}, **given)
        for given in ({}, {"clip_norm": 0.01})
    )
    assert clipped.metrics[0]["norms/gradient"] == free.metrics[0]["norms/gradient"]
    gradients = clipped.gradients[0]
    assert size(gradients, 2) == pytest.approx(0.01, rel=1e-3)
    for name, gradient in gradients.items():
        assert clipped.metrics[0][f"norms/gradient/{name}"] == pytest.approx(float(gradient.norm()))


def test_patterns_choose_parameters_by_name_and_take_gradients_clipped() -> None:
    made = every(updates=1)(hooks.norms(patterns=["0.*", "*.bias"]))
    watch = watched(made, clip_norm=0.01)
    names = ["0.weight", "0.bias", "3.bias"]
    chosen = [{name: each[name] for name in names} for each in watch.weights]
    for update, (before, after) in enumerate(pairwise(chosen)):
        gradients = {name: watch.gradients[update][name] for name in names}
        assert watch.metrics[update] == pytest.approx(
            expected(before, after, gradients, 2), rel=1e-4
        )


@pytest.mark.parametrize("left_out", ["gradients", "weights", "updates"])
def test_what_is_not_wanted_is_not_logged(left_out: str) -> None:
    options: dict[str, Any] = {left_out: False}
    made = hooks.norms(**options)
    keys = {f"norms/{kind}" for kind in KINDS if kind != left_out.removesuffix("s")}
    keys -= {"norms/update_to_weight"} if left_out != "gradients" else set()
    assert set(train(every(updates=1)(made)).metrics) == keys == set(made.writes or ())


def test_frozen_parameters_are_left_out() -> None:
    model = net()
    model.get_submodule("0").requires_grad_(False)
    final = train(every(updates=6)(hooks.norms(per_parameter=True)), model=model)
    assert {key.split("/")[-1] for key in final.metrics} == {*KINDS, "3.weight", "3.bias"}
    trained = model.get_submodule("3").parameters()
    weight = math.sqrt(sum(float(p.detach().square().sum()) for p in trained))
    assert final.metrics["norms/weight"] == pytest.approx(weight, rel=1e-5)


def test_half_precision_does_not_overflow() -> None:
    model = torch.nn.Linear(3, 2).half()
    with torch.no_grad():
        model.weight.fill_(60000.0)

    def loss(model: Any, batch: Any) -> Tensor:
        penalty: Tensor = model.bias.float().square().sum() + 0 * model.weight.float().sum()
        return penalty

    final = train(every(updates=1)(hooks.norms()), model=model, loss=loss)
    assert final.metrics["norms/weight"] == pytest.approx(60000 * math.sqrt(6), rel=1e-3)


def test_an_update_that_was_skipped_logs_nothing() -> None:
    calls: list[int] = []

    def loss(model: Any, batch: Any) -> Tensor:
        calls.append(1)
        return squared_error(model, batch) * (math.nan if len(calls) == 2 else 1)

    watch = watched(every(updates=1)(hooks.norms()), loss=loss, on_nonfinite="skip")
    assert [len(found) for found in watch.metrics] == [4, 0, 4, 4, 4, 4]


def test_nothing_is_kept_from_update_to_update_and_nothing_changes() -> None:
    plain, watched = net(), net()
    train(model=plain)
    final = train(every(updates=1)(hooks.norms(per_parameter=True)), model=watched, strict=True)
    assert final.memories == {"norms": None}
    pairs = zip(plain.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_patterns_that_match_nothing_are_named_and_the_run_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(every(updates=1)(hooks.norms(patterns=["haed.*"]))).now.update == 6
    assert "no name matches haed.*; there are: 0.weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"norm": 0.0}, "norm is 0.0"),
        ({"norm": math.nan}, "norm is nan"),
        ({"patterns": "head.*"}, "patterns is 'head.*'"),
        ({"patterns": []}, "patterns is empty"),
        ({"gradients": False, "weights": False, "updates": False}, "set one at least"),
    ],
)
def test_a_bad_option_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^norms: .*{re.escape(named)}"):
        hooks.norms(**options)
