"""Averages of the weights, against a calculation of their own, and passes made with them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import Callback, ConfigurationError, DataPass, TrainState, chain, every, hooks
from tests.strategies import net, samples, sgd, squared_error

DATA = samples(24)
VAL = samples(7, seed=2)


def trained(*callbacks: Any, module: Any = None, **options: Any) -> TrainState:
    given: dict[str, Any] = {
        "until": {"epochs": 2},
        "batch_size": 6,
        "datasets": {"val": VAL},
        "defaults": False,
        "optimizer": sgd,
        **options,
    }
    module = net(norm=True) if module is None else module
    return noether.train(module, DATA, loss=squared_error, callbacks=chain(*callbacks), **given)


class Weights(list[dict[str, torch.Tensor]]):
    """Weights and buffers after each update."""

    def note(self, state: TrainState) -> None:
        held = {**state.model.parameters, **state.model.buffers}
        self.append({name: value.detach().clone() for name, value in held.items()})

    def callback(self) -> Callback:
        return Callback("weights", before_training=self.note, after_update=self.note)


def averaged(seen: Weights, decays: list[float]) -> dict[str, torch.Tensor]:
    """decay * average + (1 - decay) * weights of each update; buffers as they are."""
    kept = dict(seen[0])
    for weights, decay in zip(seen[1:], decays, strict=True):
        for name, value in weights.items():
            mixed = "running" not in name and "num_batches" not in name
            kept[name] = decay * kept[name] + (1 - decay) * value if mixed else value
    return kept


def kept_by(final: TrainState, name: str) -> dict[str, torch.Tensor]:
    return dict(final.memories["ema"].weights[name])


@pytest.mark.parametrize(
    ("options", "decays"),
    [
        ({}, [0.8] * 8),
        ({"start": 3}, [0.0] * 3 + [0.8] * 5),
        ({"every": 2}, [1.0, 0.8] * 4),
        ({"warmup": True}, [min(0.8, (1 + u) / (10 + u)) for u in range(8)]),
    ],
    ids=["plain", "start", "every", "warmup"],
)
def test_an_average_is_what_its_formula_says(options: Any, decays: list[float]) -> None:
    seen = Weights()
    final = trained(seen.callback(), hooks.ema(decay=0.8, **options))
    expected = averaged(seen, decays)
    for name, value in kept_by(final, "ema=0.8").items():
        if options.get("every") and "running" in name:
            continue  # copied at its own updates only
        torch.testing.assert_close(value, expected[name], msg=name)


def test_several_decays_make_an_average_each() -> None:
    seen = Weights()
    final = trained(seen.callback(), hooks.ema(decay=[0.5, 0.9]))
    for decay in (0.5, 0.9):
        expected = averaged(seen, [decay] * 8)
        torch.testing.assert_close(kept_by(final, f"ema={decay}"), expected)


def test_buffers_are_averaged_where_that_is_asked_but_never_integers() -> None:
    final = trained(hooks.ema(decay=0.9, buffers="average"))
    kept = kept_by(final, "ema=0.9")
    live = final.model.buffers
    assert not torch.equal(kept["1.running_mean"], live["1.running_mean"])
    assert int(kept["1.num_batches_tracked"]) == int(live["1.num_batches_tracked"]) == 8


def test_a_skipped_update_moves_no_average() -> None:
    calls: list[int] = []

    def broken_from_the_third(model: Any, batch: Any) -> torch.Tensor:
        calls.append(0)
        loss = squared_error(model, batch)
        return loss * float("nan") if len(calls) > 2 else loss

    seen = Weights()
    final = noether.train(
        net(),
        DATA,
        loss=broken_from_the_third,
        optimizer=sgd,
        until={"updates": 5},
        batch_size=6,
        on_nonfinite="skip",
        callbacks=[seen.callback(), hooks.ema(decay=0.9)],
        defaults=False,
    )
    assert final.memories["ema"].updates == 2
    expected = averaged(Weights(seen[:3]), [0.9, 0.9])
    torch.testing.assert_close(kept_by(final, "ema=0.9"), expected)


@pytest.mark.parametrize("name", ["ema", "ema=0.7"])
def test_a_pass_with_an_average_equals_a_model_that_has_these_weights(name: str) -> None:
    module = net(norm=True)
    live = every(epochs=1)(hooks.offline_loss(dataset="val"))
    mean = every(epochs=1)(hooks.offline_loss(dataset="val", weights=name))
    final = trained(live, mean, hooks.ema(decay=0.7), module=module)
    other = copy.deepcopy(module).eval()
    other.load_state_dict(kept_by(final, "ema=0.7"))
    batch = VAL.inputs, VAL.targets
    with torch.no_grad():
        expected = float(squared_error(other, batch))
        present = float(squared_error(module.eval(), batch))
    assert final.metrics[f"{name}/loss/val/total"] == pytest.approx(expected)
    assert final.metrics["loss/val/total"] == pytest.approx(present)
    assert expected != pytest.approx(present)


def test_whatever_of_the_model_a_pass_looks_at_has_the_average() -> None:
    """Its parts called by themselves, its parameters, and the loss."""
    module = net()
    found: list[dict[str, Any]] = []

    def look(model: Any, batch: Any) -> dict[str, Any]:
        layer: Any = module[0]  # type: ignore[index]
        held = model.parameters["0.weight"]
        return {"part": layer(batch[0]), "held": held[None], "own": layer.weight[None]}

    watcher = Callback(
        "watcher",
        on_schedule=lambda state: found.append(dict(state.results)),
        data=DataPass("val", look, weights="ema"),
        schedule=every(epochs=2),
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    final = trained(hooks.ema(decay=0.7), watcher, module=module)
    kept = kept_by(final, "ema=0.7")
    (results,) = found
    assert torch.equal(results["held"][0], kept["0.weight"])
    assert torch.equal(results["own"][0], kept["0.weight"])
    part = torch.nn.functional.linear(VAL.inputs, kept["0.weight"], kept["0.bias"])
    torch.testing.assert_close(results["part"], part)
    assert not torch.equal(module.state_dict()["0.weight"], before["0.weight"])


def test_passes_with_averages_leave_training_as_it_is() -> None:
    plain, watched = net(dropout=0.5), net(dropout=0.5)
    trained(module=plain)
    trained(
        hooks.ema(decay=0.9),
        every(updates=1)(hooks.offline_loss(dataset="val", weights="ema")),
        module=watched,
    )
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_an_average_survives_a_resume(tmp_path: Path) -> None:
    def run(epochs: int, **options: Any) -> TrainState:
        callbacks = (hooks.ema(decay=0.9, warmup=True), every(epochs=1)(hooks.checkpoint()))
        return trained(*callbacks, until={"epochs": epochs}, **options)

    whole = run(4, run_dir=tmp_path / "whole")
    run(2, run_dir=tmp_path)
    checkpoint = max((tmp_path / "1" / "checkpoints").glob("*/manifest.json")).parent
    resumed = run(4, run_dir=tmp_path, resume=checkpoint)
    assert resumed.memories["ema"].updates == whole.memories["ema"].updates == 16
    torch.testing.assert_close(
        kept_by(resumed, "ema=0.9"), kept_by(whole, "ema=0.9"), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("weights", "told"),
    [("emma", "Did you mean ema?"), ("ema=0.8", "Did you mean ema=0.9?"), ("swa", "live")],
)
def test_weights_that_nobody_keeps_are_refused_before_training(weights: str, told: str) -> None:
    loss = every(epochs=1)(hooks.offline_loss(dataset="val", weights=weights))
    with pytest.raises(ConfigurationError) as caught:
        trained(hooks.ema(decay=0.9), loss)
    assert weights in str(caught.value)
    assert told in str(caught.value)


def test_of_several_averages_one_has_to_be_named() -> None:
    loss = every(epochs=1)(hooks.offline_loss(dataset="val", weights="ema"))
    with pytest.raises(ConfigurationError, match=r"ema=0\.\d"):
        trained(hooks.ema(decay=[0.9, 0.5]), loss)


@pytest.mark.parametrize(
    "options",
    [
        *({"decay": 1.0}, {"decay": 0.0}, {"decay": []}, {"decay": [0.9, 0.9]}),
        *({"decay": 0.9, "start": -1}, {"decay": 0.9, "every": 0}),
    ],
)
def test_bad_options_are_refused_by_name(options: Any) -> None:
    with pytest.raises(ValueError, match=r"decay|start|every"):
        hooks.ema(**options)


def begin_first(state: TrainState) -> Any:
    return {name: value.detach().clone() for name, value in state.model.parameters.items()}


def losses(model: Any, batch: Any) -> Any:
    return model.loss(batch)


def test_a_user_may_keep_weights_of_their_own_for_passes() -> None:
    def first(state: TrainState, kept: Any) -> tuple[Any, None]:
        return kept, None

    keeper = noether.stateful(begin_first, reads=(), writes=(), averages={"begun": dict})(first)
    seen: list[float] = []
    watcher = Callback(
        "watcher",
        on_schedule=lambda state: seen.append(float(state.results["total"])),
        data=DataPass("val", losses, "mean", weights="begun"),
        schedule=every(updates=1),
    )
    trained(keeper, watcher, module=net())
    assert len(seen) == 8
    assert len(set(seen)) == 1
