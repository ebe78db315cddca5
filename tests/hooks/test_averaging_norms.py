"""Batch norms' statistics of a mean, made anew as torch makes them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

import noether
from noether import Callback, ConfigurationError, TrainState, after, every, hooks
from tests.group import Group
from tests.hooks.test_averaging import DATA, trained
from tests.strategies import Samples, net, samples, sgd, squared_error

AGAIN = samples(11, seed=4)


def deep() -> nn.Module:
    """The second norm sees what the first made of a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        first, second = nn.BatchNorm1d(5), nn.BatchNorm1d(4, momentum=0.3)
        layers = (nn.Linear(3, 5), first, nn.ReLU(), nn.Linear(5, 4), second, nn.Linear(4, 2))
        return nn.Sequential(*layers)


def mean_of(final: TrainState, made: Callback) -> dict[str, torch.Tensor]:
    return dict(made.averages["swa"](final.memories["swa"]))


def theirs(mean: dict[str, torch.Tensor], data: Samples, size: int) -> nn.Module:
    """The model with these weights, its statistics made anew by torch."""
    model = deep()
    model.load_state_dict(mean)
    update_bn(DataLoader(data, batch_size=size), model)  # type: ignore[arg-type]
    return model.eval()


@pytest.mark.parametrize("workers", [0, 1])
def test_statistics_of_a_mean_are_torchs_and_later_passes_see_them(workers: int) -> None:
    made = hooks.swa(start=0.5, update_bn="again")
    late = every(epochs=1)(hooks.offline_loss(dataset="again", weights="swa"))
    sets = {"again": AGAIN}
    final = trained(late, made, module=deep(), datasets=sets, workers=workers, strict=True)
    mean = mean_of(final, made)
    model = theirs(mean, AGAIN, size=6)
    expected = model.state_dict()
    for name in (f"{norm}.running_{which}" for norm in (1, 4) for which in ("mean", "var")):
        torch.testing.assert_close(mean[name], expected[name], msg=name)
        assert not torch.equal(mean[name], final.model.buffers[name])
    with torch.no_grad():
        loss = squared_error(model, (AGAIN.inputs, AGAIN.targets))
    assert final.metrics["swa/loss/again/total"] == pytest.approx(float(loss), rel=1e-5)


def test_training_goes_on_as_without_it() -> None:
    plain, watched = net(dropout=0.5, norm=True), net(dropout=0.5, norm=True)
    trained(module=plain)
    made = hooks.swa(start=0, update_bn="again")
    trained(made, module=watched, datasets={"again": AGAIN}, strict=True)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_narrowed_it_happens_at_fewer_epochs_ends() -> None:
    made = after(epochs=2)(hooks.swa(update_bn="val"))
    final = trained(made, module=deep())
    mean, live = mean_of(final, made), final.model.buffers
    assert all(torch.equal(mean[name], live[name]) for name in live)


def test_a_model_without_batch_norms_has_nothing_made_anew() -> None:
    plain, made = hooks.swa(), hooks.swa(update_bn="val")
    one, other = (trained(each, module=net()) for each in (plain, made))
    torch.testing.assert_close(mean_of(one, plain), mean_of(other, made), rtol=0, atol=0)


def test_an_evaluation_makes_them_anew_from_a_checkpoint(tmp_path: Path) -> None:
    made = after(epochs=2)(hooks.swa(update_bn="again"))  # not before the evaluation
    late = every(epochs=1)(hooks.offline_loss(dataset="again", weights="swa"))
    saving, sets = every(epochs=1)(hooks.checkpoint()), {"again": AGAIN}
    final = trained(late, made, saving, module=deep(), datasets=sets, run_dir=tmp_path)
    options: Any = {"loss": squared_error, "datasets": sets, "batch_size": 6}
    found = noether.evaluate(deep(), callbacks=[late, made], run=tmp_path, **options)
    model = theirs(mean_of(final, made), AGAIN, size=6)
    with torch.no_grad():
        loss = squared_error(model, (AGAIN.inputs, AGAIN.targets))
    assert found.metrics["swa/loss/again/total"] == pytest.approx(float(loss), rel=1e-5)


def test_a_set_that_is_not_there_is_refused_before_training() -> None:
    with pytest.raises(ConfigurationError, match=r"'swa': no data set is named 'train'.*val"):
        trained(hooks.swa(update_bn="train"))


def statistics(accumulate: int) -> dict[str, Any]:
    made = hooks.swa(start=0, update_bn="again")
    data, again = (Samples(s.inputs.double(), s.targets.double()) for s in (DATA, AGAIN))
    final = noether.train(
        deep().double(),
        data,
        loss=squared_error,
        optimizer=sgd,
        until={"epochs": 1},
        batch_size=8,
        accumulate=accumulate,
        defaults=False,
        callbacks=made,
        datasets={"again": again},
    )
    mean = mean_of(final, made)
    return {name: mean[name].tolist() for name in mean if "running" in name}


@pytest.mark.timeout(200)
def test_ranks_have_one_s_statistics(tmp_path: Path) -> None:
    """Batches of four samples, which with two ranks are on one of them each."""
    group = Group(2, tmp_path / "log")
    try:
        one, other = group.call(statistics, 1)
    finally:
        group.close()
    assert one == other
    for name, value in statistics(2).items():
        assert one[name] == pytest.approx(value), name
