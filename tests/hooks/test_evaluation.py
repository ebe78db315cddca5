from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

import noether
import noether.fold
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


# ---------------------------------------------------------------- traps of the loss


def value(model: Any, batch: Any) -> torch.Tensor:
    """A loss that is the mean of a batch of numbers; the model only has to learn something."""
    loss: torch.Tensor = batch.double().mean() + 0.0 * model(torch.zeros(1, 3)).sum()
    return loss


def listed(numbers: list[float]) -> Any:
    return [torch.tensor(number) for number in numbers]


def test_a_smaller_last_batch_weighs_less() -> None:
    made = every(epochs=1)(hooks.offline_loss(dataset="val", batch_size=2))
    data = listed([0.0, 1.0, 4.0])
    final = noether.train(
        net(),
        data,
        loss=value,
        optimizer=sgd,
        until={"epochs": 1},
        batch_size=3,
        callbacks=[made],
        datasets={"val": data},
        defaults=False,
    )
    assert final.metrics["loss/val/total"] == pytest.approx(5 / 3)  # the batches' means: 0.5 and 4


@pytest.mark.parametrize("more", [True, False], ids=["a key more", "a key less"])
def test_losses_that_only_some_batches_have_are_named_with_the_set_and_the_batch(
    more: bool,  # noqa: FBT001
) -> None:
    def loss(model: Any, batch: Any) -> Any:
        named = named_loss(model, batch)
        whole = model.training or (len(batch[0]) == 2) is not more
        return named if whole else {"mse": named["mse"]}

    made = every(epochs=1)(hooks.offline_loss(dataset="val", batch_size=2))
    with pytest.raises(noether.HookError) as caught:
        train([made], loss=loss, datasets={"val": samples(5)})
    told = str(caught.value)
    assert all(word in told for word in ("'offline_loss/val'", "batch 2", "'val'", "loss/val/size"))


# ---------------------------------------------------------------- outputs of the loss function


def with_outputs(model: Any, batch: Any) -> Any:
    """A loss with outputs of every shape: a number per sample, several, one for the batch."""
    inputs, targets = batch
    errors = (model(inputs) - targets).abs()
    return errors.mean(), {
        "error/worst": errors.amax(-1),
        "error/all": errors,
        "error/mean": errors.mean(),
        "count": len(inputs),
        "names": ["x"] * len(inputs),
    }


def outputs_of(model: Any, data: Any) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        errors = (model(data.inputs) - data.targets).abs().double()
    return {"worst": float(errors.amax(-1).mean()), "all": float(errors.mean())}


@pytest.mark.parametrize("size", [1, 3, 5, None])
def test_outputs_that_contain_a_pattern_are_logged_as_means_over_the_set(size: int | None) -> None:
    model, val = net(dropout=0.5), samples(5, seed=3)
    made = hooks.offline_loss(dataset="val", batch_size=size, output_patterns_to_log=["error"])
    final = train([every(epochs=1)(made)], model=model, loss=with_outputs, datasets={"val": val})
    expected = outputs_of(model, val)
    assert final.metrics == pytest.approx(
        {
            "loss/val/total": expected["all"],
            "error/worst/val": expected["worst"],
            "error/all/val": expected["all"],
            "error/mean/val": expected["all"],
        },
        rel=1e-5,
    )


def test_an_output_that_two_patterns_name_is_logged_once_and_without_patterns_none() -> None:
    val, names = samples(4), ["error/worst", "worst"]
    both = hooks.offline_loss(dataset="val", output_patterns_to_log=names)
    final = train([every(epochs=1)(both)], loss=with_outputs, datasets={"val": val})
    assert sorted(final.metrics) == ["error/worst/val", "loss/val/total"]
    for patterns in (None, ()):
        plain = hooks.offline_loss(dataset="val", output_patterns_to_log=patterns)
        final = train([every(epochs=1)(plain)], loss=with_outputs, datasets={"val": val})
        assert sorted(final.metrics) == ["loss/val/total"]


@pytest.mark.parametrize(
    ("loss", "pattern", "told"),
    [
        (with_outputs, "eror", ["eror", "error/worst", "count"]),
        (with_outputs, "names", ["'names'", "tensor or a number"]),
        (squared_error, "error", ["error", "none"]),
    ],
)
def test_outputs_that_are_not_there_or_no_numbers_are_named(
    loss: Any, pattern: str, told: list[str]
) -> None:
    made = every(epochs=1)(hooks.offline_loss(dataset="val", output_patterns_to_log=[pattern]))
    with pytest.raises(noether.HookError) as caught:
        train([made], loss=loss, datasets={"val": samples(4)})
    assert all(word in str(caught.value) for word in told), str(caught.value)


def test_an_output_can_be_what_another_callback_reads() -> None:
    made = hooks.offline_loss(dataset="val", output_patterns_to_log=["worst"])
    best = hooks.best_metric(source="loss/val/total", targets=["error/worst/val"])
    final = train([best, every(epochs=1)(made)], loss=with_outputs, datasets={"val": samples(4)})
    assert "error/worst/val/at_best/loss/val/total" in final.metrics


def test_patterns_are_a_list() -> None:
    with pytest.raises(ValueError, match="output_patterns_to_log"):
        hooks.offline_loss(dataset="val", output_patterns_to_log="error")


def test_patterns_are_texts_and_not_globs() -> None:
    made = hooks.offline_loss(dataset="val", output_patterns_to_log=["[a]*"])
    callback = Callback("other", on_schedule=lambda state: None, writes=("a/val",))
    assert len(noether.fold.compiled((every(epochs=1)(made), callback)).pipeline) == 2


def test_metrics_of_averaged_weights_begin_with_their_name() -> None:
    made = hooks.offline_loss(dataset="val", output_patterns_to_log=["worst"], weights="ema")
    final = train(
        [hooks.ema(decay=0.5), every(epochs=1)(made)],
        loss=with_outputs,
        datasets={"val": samples(4)},
    )
    assert sorted(final.metrics) == ["ema/error/worst/val", "ema/loss/val/total"]


# ---------------------------------------------------------------- beside the loss of training


@pytest.mark.parametrize("offline_first", [True, False])
def test_the_difference_to_the_online_loss_of_the_same_interval_is_logged_in_any_order(
    tmp_path: Path,
    offline_first: bool,  # noqa: FBT001
) -> None:
    made = [
        every(epochs=1)(hooks.offline_loss(dataset="val")),
        every(epochs=1)(hooks.online_loss()),
        every(updates=3)(hooks.online_loss()).named("often"),
    ]
    made = made if offline_first else made[::-1]
    train(made, loss=named_loss, datasets={"val": samples(5, seed=3)}, run_dir=tmp_path)
    rows = [r["metrics"] for r in read(tmp_path / "1" / "journal.jsonl") if r["metrics"]]
    closing = [row for row in rows if "loss/val/total" in row]
    assert len(closing) == 2
    for row in closing:
        assert {f"lossdiff/val/{name}" for name in ("total", "mse", "size")} < row.keys()
        for name in ("total", "mse", "size"):
            expected = row[f"loss/val/{name}"] - row[f"loss/online/{name}/E1"]
            assert row[f"lossdiff/val/{name}"] == pytest.approx(expected)


def test_no_difference_to_the_loss_of_another_interval_or_of_an_earlier_tick(
    tmp_path: Path,
) -> None:
    made = [
        every(epochs=1)(hooks.offline_loss(dataset="val")),
        every(updates=3)(hooks.online_loss()),
    ]
    train(made, datasets={"val": samples(5, seed=3)}, run_dir=tmp_path)
    rows = [r["metrics"] for r in read(tmp_path / "1" / "journal.jsonl") if r["metrics"]]
    assert any("loss/val/total" in row and "loss/online/total/U3" in row for row in rows)
    assert not any(name.startswith("lossdiff") for row in rows for name in row)


def test_an_evaluation_alone_knows_no_difference() -> None:
    found = noether.evaluate(
        net(),
        loss=squared_error,
        datasets={"val": samples(3)},
        callbacks=[every(epochs=1)(hooks.offline_loss(dataset="val")), hooks.online_loss()],
    )
    assert list(found.metrics) == ["loss/val/total"]
