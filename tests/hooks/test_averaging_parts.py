"""Averages of parts of a model, their files, and means over epochs."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import SWALR, AveragedModel

from noether import Callback, HookError, TrainState, every, hooks, once_at_end
from tests.hooks.test_averaging import Weights, averaged, trained
from tests.strategies import net, sgd


def test_parts_have_averages_of_their_own_which_passes_take() -> None:
    seen = Weights()
    ema = hooks.ema(decay=[0.5, 0.9], model_paths=["3", None])
    passing = hooks.offline_loss(dataset="val", weights="ema=0.5.3")
    final = trained(seen.callback(), ema, every(epochs=1)(passing))
    assert list(ema.averages) == ["ema=0.5.3", "ema=0.5", "ema=0.9.3", "ema=0.9"]
    whole = averaged(seen, [0.5] * 8)
    part = final.memories["ema"].weights["ema=0.5.3"]
    assert part.keys() == {"3.weight", "3.bias"}
    for name, value in part.items():
        torch.testing.assert_close(value, whole[name])
    assert "ema=0.5.3/loss/val/total" in final.metrics


def test_averages_are_written_when_that_is_asked(tmp_path: Path) -> None:
    ema = hooks.ema(decay=0.5, schedule=every(updates=5) | once_at_end)
    final = trained(ema, run_dir=tmp_path)
    found = load_file(tmp_path / "1" / "weights" / "ema=0.5.safetensors")
    for name, value in final.memories["ema"].weights["ema=0.5"].items():
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("paths", [[], ["0", "0"], [""], "0"])
def test_paths_are_different_names(paths: Any) -> None:
    with pytest.raises(ValueError, match="model_paths"):
        hooks.ema(decay=0.9, model_paths=paths)


def test_a_part_that_is_not_there_is_told_at_the_start() -> None:
    with pytest.raises(HookError, match="no part 'head'; it has 0, 1, 3"):
        trained(hooks.ema(decay=0.9, model_paths=["head"]))


def test_a_policy_for_buffers_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="buffers is 'mix'"):
        hooks.ema(decay=0.9, buffers="mix")  # type: ignore[arg-type]


def test_averages_may_be_kept_on_another_device() -> None:
    """The meta device stands for another one: it has shapes, but no values."""
    made: Any = hooks.ema(decay=0.5, device="meta")
    final = trained(hooks.ema(decay=0.5))
    state = replace(final, event="update", before=final.now)
    begun = made.init(state)
    assert begun.home == "cpu"
    assert devices(begun) == {"meta"}
    assert devices(made.after_update(state, begun)[0]) == {"meta"}

    resumed, _ = made.after_update(state, final.memories["ema"])  # the model's, as it is read
    assert (resumed.updates, resumed.home) == (9, "cpu")
    assert devices(resumed) == {"meta"}


def devices(kept: Any) -> set[str]:
    return {value.device.type for value in kept.weights["ema=0.5"].values()}


def test_averages_on_the_models_own_device_are_as_without_one() -> None:
    passing = every(epochs=1)(hooks.offline_loss(dataset="val", weights="ema=0.9"))
    plain, placed = (trained(hooks.ema(decay=0.9, device=d), passing) for d in (None, "cpu"))
    assert placed.metrics == plain.metrics
    assert any(name.startswith("ema=0.9/") for name in plain.metrics)


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "cuda:-1"])
def test_a_device_that_is_none_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="ema: device is"):
        hooks.ema(decay=0.9, device=device)


# ---------------------------------------------------------------- swa


@pytest.mark.parametrize(("start", "each"), [(0.5, 1), (0.25, 2), (0.0, 1)])
def test_a_mean_is_torchs(start: float, each: int) -> None:
    """The oracle is torch's AveragedModel, updated at the ends of the same epochs."""
    theirs: list[AveragedModel] = []
    live = net(norm=True)

    def note(state: TrainState) -> None:
        if state.now.update < start * 32:
            return
        first = next(e for e in range(1, 9) if 4 * e >= start * 32)
        if not theirs:
            theirs.append(AveragedModel(live))
        if (state.now.epoch - first) % each == 0:
            theirs[0].update_parameters(live)

    made = hooks.swa(start=start, every=each)
    final = trained(Callback("note", after_epoch=note), made, module=live, until={"epochs": 8})
    expected = dict(theirs[0].module.named_parameters())
    kept = made.averages["swa"](final.memories["swa"])
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value.detach(), rtol=1e-4, atol=1e-6)


def test_before_the_start_the_mean_is_the_weights_at_an_epochs_end() -> None:
    live = net(norm=True)
    made = hooks.swa(start=0.9)
    final = trained(made, module=live, until={"epochs": 2})
    assert final.memories["swa"].count == 1
    half = trained(hooks.stop_at(epoch=1), made, module=(live := net(norm=True)))
    kept = made.averages["swa"](half.memories["swa"])
    assert all(torch.equal(kept[name], p) for name, p in live.named_parameters())


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_a_rate_goes_to_that_of_the_mean_as_torchs_does(anneal: Any) -> None:
    found: list[float] = []

    def note(state: TrainState) -> None:
        found.append(state.hyper["default"]["lr"])

    made = hooks.swa(start=0.5, lr=0.02, anneal=anneal, anneal_epochs=3)
    trained(Callback("note", after_epoch=note), made, until={"epochs": 8})
    optimizer = sgd(net().parameters())
    theirs = SWALR(optimizer, swa_lr=0.02, anneal_epochs=3, anneal_strategy=anneal)
    expected = [0.1] * 4
    for _ in range(4):
        optimizer.step()
        theirs.step()
        expected.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx(expected)


def test_a_run_of_unknown_length_is_refused_at_the_start() -> None:
    with pytest.raises(HookError, match="swa needs a run of known length"):
        trained(hooks.swa(), until={"seconds": 0.2})


@pytest.mark.parametrize(
    "options",
    [
        {"start": 1.0},
        {"every": 0},
        {"lr": -1.0},
        {"lr": math.nan},
        {"anneal": "exp"},
        {"buffers": "mix"},
        {"update_bn": True},
    ],
)
def test_a_mean_refuses_what_it_cannot_follow(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="swa"):
        hooks.swa(**options)
