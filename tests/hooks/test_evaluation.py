from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

import noether
from noether import Callback, ConfigurationError, TrainState, at, every, hooks
from noether.journal import read
from tests.strategies import net, samples, sgd, squared_error


def train(callbacks: Any, *, model: Any = None, **options: Any) -> TrainState:
    given = {"loss": squared_error, "optimizer": sgd, "until": {"epochs": 2}, "batch_size": 4}
    return noether.train(
        model or net(), samples(10), callbacks=callbacks, **{**given, "defaults": False, **options}
    )


def named_loss(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    inputs, targets = batch
    outputs = model(inputs)
    return {"mse": (outputs - targets).pow(2).mean(), "size": outputs.abs().mean()}


def evaluated(model: Any, data: Any) -> dict[str, float]:
    """The named losses of a whole data set, sample by sample, and their sum."""
    model.eval()
    with torch.no_grad():
        each = [named_loss(model, (x[None], y[None])) for x, y in data]
    means = {name: float(sum(loss[name] for loss in each)) / len(each) for name in each[0]}
    return {**means, "total": sum(means.values())}


@settings(max_examples=15)
@given(n=st.integers(1, 9), size=st.none() | st.integers(1, 10))
def test_offline_loss_is_the_mean_over_the_samples_of_the_set(n: int, size: int | None) -> None:
    model, val = net(dropout=0.5), samples(n, seed=3)
    validation = every(epochs=1)(hooks.offline_loss(dataset="val", batch_size=size))
    final = train([validation], model=model, loss=named_loss, datasets={"val": val})
    expected = {f"loss/val/{name}": loss for name, loss in evaluated(model, val).items()}
    assert final.metrics == pytest.approx(expected, rel=1e-5)


def test_offline_loss_is_of_the_weights_at_each_firing(tmp_path: Path) -> None:
    val = samples(5, seed=3)
    kept: dict[int, Mapping[str, torch.Tensor]] = {}

    def keep(state: TrainState) -> None:
        kept[state.now.update] = {n: p.clone() for n, p in state.model.parameters.items()}

    validation = at(updates=[1, 4])(hooks.offline_loss(dataset="val"))
    options: dict[str, Any] = {"loss": named_loss, "datasets": {"val": val}}
    train([validation, Callback("keep", after_update=keep)], run_dir=tmp_path, **options)
    rows = {r["update"]: r for r in read(tmp_path / "1" / "journal.jsonl") if r["metrics"]}
    assert set(rows) == {1, 4}
    model = net()
    for update, row in rows.items():
        model.load_state_dict(kept[update])
        expected = {f"loss/val/{name}": loss for name, loss in evaluated(model, val).items()}
        assert row["metrics"] == pytest.approx(expected, rel=1e-5)


def test_offline_loss_takes_trainings_micro_batch_unless_told() -> None:
    seen: list[tuple[bool, int]] = []

    def loss(model: Any, batch: Any) -> torch.Tensor:
        seen.append((model.training, len(batch[0])))
        return squared_error(model, batch)

    for size in (None, 3):
        made = every(epochs=1)(hooks.offline_loss(dataset="val", batch_size=size))
        train(
            [made],
            loss=loss,
            datasets={"val": samples(5)},
            accumulate=2,
            until={"epochs": 1},
        )
    sizes = [size for training, size in seen if not training]
    assert sizes == [2, 2, 1, 3, 2]


def test_an_evaluation_changes_nothing_of_the_training() -> None:
    plain, watched = net(dropout=0.5), net(dropout=0.5)
    train([], model=plain)
    made = hooks.offline_loss(dataset="val")
    train([every(updates=1)(made)], model=watched, datasets={"val": samples(5)})
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="'vla'") as caught:
        train([hooks.offline_loss(dataset="vla")], datasets={"val": samples(3)})
    assert "val" in str(caught.value).replace("vla", "")


def test_the_losses_of_several_sets_are_told_apart() -> None:
    sets = {"val": samples(3, seed=2), "test": samples(4, seed=3)}
    made = [every(epochs=1)(hooks.offline_loss(dataset=name)) for name in sets]
    model = net()
    final = train(made, model=model, datasets=sets)
    model.eval()
    for name, data in sets.items():
        loss = float(squared_error(model, (data.inputs, data.targets)).detach())
        assert final.metrics[f"loss/{name}/total"] == pytest.approx(loss)


def test_an_empty_set_reports_no_loss_and_no_accuracy() -> None:
    made = [hooks.offline_loss(dataset="val"), hooks.accuracy(dataset="val")]
    assert train(every(epochs=1)(tuple(made)), datasets={"val": samples(0)}).metrics == {}


# ---------------------------------------------------------------- accuracy


def labelled(labels: list[int], seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(len(labels), 3, generator=generator)
    return TensorDataset(inputs, torch.tensor(labels, dtype=torch.int64))


@settings(max_examples=15)
@given(
    labels=st.lists(st.integers(0, 1), min_size=1, max_size=9),
    size=st.none() | st.integers(1, 4),
)
def test_accuracy_is_the_share_of_samples_whose_largest_output_is_their_label(
    labels: list[int], size: int | None
) -> None:
    model, val = net(dropout=0.5), labelled(labels, seed=len(labels))
    made = every(epochs=1)(hooks.accuracy(dataset="val", batch_size=size))
    final = train([made], model=model, datasets={"val": val})
    model.eval()
    with torch.no_grad():
        right = [
            int(model(x[None])[0].argmax()) == int(label)
            for x, label in map(val.__getitem__, range(len(val)))
        ]
    assert final.metrics == {"accuracy/val": pytest.approx(sum(right) / len(right))}


def test_without_a_schedule_evaluation_runs_in_opening_and_closing_tick_too(
    tmp_path: Path,
) -> None:
    made = hooks.accuracy(dataset="val")
    train([made], datasets={"val": labelled([0, 1], 1)}, until={"updates": 2}, run_dir=tmp_path)
    rows = list(read(tmp_path / "1" / "journal.jsonl"))
    fired = [(r["tick"], r["update"]) for r in rows if "accuracy/val" in r["metrics"]]
    assert fired == [("start", 0), ("update", 1), ("update", 2)]
