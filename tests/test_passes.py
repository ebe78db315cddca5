import functools
import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import ConfigurationError, DataPass, HookError, Log, TrainState, every
from noether.callback import Callback
from noether.feed import feed
from noether.feed.serving import batches, server
from noether.machine import Machine, machine
from noether.passes import mistakes, serve
from tests.strategies import net, samples, sgd, squared_error

ORDER: dict[str, Any] = {"seed": 0, "shuffle": False, "drop_last": False}


def made(module: Any = None) -> Machine:
    options: dict[str, Any] = {
        "lr_scheduler": None,
        "lr_interval": "update",
        "precision": "fp32",
        "clip_norm": None,
        "clip_value": None,
        "on_nonfinite": "raise",
        "device": None,
    }
    return machine(module or net(), loss=squared_error, optimizer=sgd, **options)


@functools.cache
def idle() -> Machine:
    """A machine for passes that leave the model alone."""
    return made()


def passed(
    process: Any,
    data: Any,
    reduce: Any = "concat",
    *,
    batch_size: int = 2,
    own_size: int | None = None,
    machine: Machine | None = None,
    poll: Any = lambda: None,
) -> dict[str, Any]:
    given = DataPass("val", process, reduce, own_size)
    served = feed(data, batch_size=batch_size, accumulate=1, collate=None, **ORDER)
    found = batches(server(served, {"val": data}, ()), given, 0, foreseen=False)
    watcher = Callback("watcher", on_schedule=lambda state: None, data=given)
    live = {"watcher": None}
    results = serve((watcher,), found, machine or idle(), poll=poll, weights=live)["watcher"]
    if isinstance(results, Exception):
        raise results
    return dict(results)


def value_of(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    return {"value": batch.double()}


def batch_mean(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    return {"value": batch.double().mean()}


# ---------------------------------------------------------------- reductions


@pytest.mark.parametrize("process", [value_of, batch_mean])
def test_a_mean_weighs_samples_and_not_batches(process: Any) -> None:
    result = passed(process, [0, 1, 4], "mean")["value"]
    assert float(result) == 5 / 3  # the mean of the two batches' means would be 2.25


numbers = st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=12)


@given(values=numbers, size=st.integers(1, 13))
def test_reductions_of_per_sample_values_equal_those_of_the_whole(
    values: list[int], size: int
) -> None:
    def find(reduce: str) -> float:
        return float(passed(value_of, values, reduce, batch_size=size)["value"])

    assert find("mean") == sum(values) / len(values)
    assert find("sum") == sum(values)
    assert find("min") == min(values)
    assert find("max") == max(values)
    joined = passed(value_of, values, "concat", batch_size=size)["value"]
    assert joined.tolist() == values


@given(values=numbers, size=st.integers(1, 13))
def test_reductions_of_one_value_per_batch(values: list[int], size: int) -> None:
    batches = [values[i : i + size] for i in range(0, len(values), size)]
    totals = [sum(batch) for batch in batches]

    def total(model: Any, batch: Any) -> dict[str, Any]:
        return {"value": batch.sum()}

    for reduce, expected in (("sum", sum(totals)), ("min", min(totals)), ("max", max(totals))):
        assert float(passed(total, values, reduce, batch_size=size)["value"]) == expected
    assert passed(total, values, batch_size=size)["value"].tolist() == totals


def test_means_keep_the_shape_of_a_samples_value() -> None:
    result = passed(lambda model, batch: {"x": batch[0]}, samples(5), "mean")["x"]
    assert torch.allclose(result, samples(5).inputs.double().mean(0))


def test_a_mean_of_booleans_is_a_share() -> None:
    result = passed(lambda model, batch: {"big": batch > 1}, [0, 1, 4], "mean")["big"]
    assert float(result) == 1 / 3


def test_each_key_has_its_own_reduction_and_concat_is_the_default() -> None:
    def several(model: Any, batch: Any) -> dict[str, Any]:
        return {"worst": batch.double(), "total": batch.double(), "each": batch}

    result = passed(several, [0, 1, 4], {"worst": "max", "total": "sum"})
    assert (float(result["worst"]), float(result["total"])) == (4, 5)
    assert result["each"].tolist() == [0, 1, 4]


def test_values_that_are_no_tensors_are_joined_in_order() -> None:
    def words(model: Any, batch: Any) -> dict[str, Any]:
        return {"words": [f"w{int(i)}" for i in batch], "number": float(batch[0])}

    result = passed(words, [0, 1, 4])
    assert result == {"words": ["w0", "w1", "w4"], "number": [0.0, 4.0]}


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("reduce", ["concat", "mean", "sum", "min", "max"])
def test_an_empty_data_set_gives_no_results(reduce: str) -> None:
    assert passed(value_of, [], reduce) == {}


@given(n=st.integers(0, 12), size=st.integers(1, 5))
def test_every_sample_comes_once_in_order_without_padding(n: int, size: int) -> None:
    seen: list[list[int]] = []

    def note(model: Any, batch: Any) -> None:
        seen.append(batch.tolist())

    assert passed(note, list(range(n)), batch_size=size) == {}
    assert [i for batch in seen for i in batch] == list(range(n))
    assert all(len(batch) == size for batch in seen[:-1])


def test_a_pass_may_have_a_batch_size_of_its_own() -> None:
    sizes: list[int] = []
    passed(lambda model, batch: sizes.append(len(batch)), list(range(7)), own_size=3)
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize(
    ("later", "named"),
    [({"a": 1.0, "b": 1.0}, "'b'"), ({}, "'a'"), ({"c": 1.0}, "'c'"), (None, "'a'")],
)
def test_uneven_keys_are_named_with_data_set_and_batch(later: Any, named: str) -> None:
    def process(model: Any, batch: Any) -> Any:
        return {"a": 1.0} if int(batch[0]) == 0 else later

    with pytest.raises(ValueError, match="batch 1 of 'val'") as caught:
        passed(process, [0, 1, 2, 3], "mean")
    assert named in str(caught.value)


def test_a_key_that_appears_after_an_empty_first_batch_is_named() -> None:
    with pytest.raises(ValueError, match="batch 1 of 'val'"):
        passed(lambda model, batch: {"a": 1.0} if int(batch[0]) else {}, [0, 1, 2, 3], "mean")


def test_each_batch_is_polled_and_a_poll_may_break_off() -> None:
    polls: list[int] = []

    def poll() -> None:
        polls.append(len(polls))
        if len(polls) == 3:
            raise KeyboardInterrupt

    module = net()
    with pytest.raises(KeyboardInterrupt):
        passed(value_of, list(range(20)), poll=poll, machine=made(module))
    assert polls == [0, 1, 2]
    assert all(part.training for part in module.modules())


# ---------------------------------------------------------------- training is untouched


def test_modes_gradients_and_random_numbers_of_training_are_untouched() -> None:
    module = net(norm=True)
    module[1].eval()  # type: ignore[index]
    before = [part.training for part in module.modules()]
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    seen: list[bool] = []

    def draw(model: Any, batch: Any) -> dict[str, Any]:
        seen.extend((module.training, torch.is_grad_enabled()))
        random.random()
        return {"x": model.predict(batch) + torch.rand(1)}

    passed(draw, samples(5), machine=made(module))
    assert set(seen) == {False}
    assert [part.training for part in module.modules()] == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(torch.equal(module.state_dict()[name], value) for name, value in weights.items())


def test_a_pass_draws_the_same_numbers_whenever_it_is_made() -> None:
    def draw(model: Any, batch: Any) -> dict[str, Any]:
        return {"x": torch.rand(2), "y": [random.random()]}

    torch.manual_seed(1)
    one = passed(draw, [0, 1, 2])
    torch.manual_seed(2)
    random.seed(3)
    other = passed(draw, [0, 1, 2])
    assert torch.equal(one["x"], other["x"])
    assert one["y"] == other["y"]


def test_a_failing_process_leaves_training_as_it_was() -> None:
    module, before = net(), torch.get_rng_state()

    def fail(model: Any, batch: Any) -> Any:
        torch.rand(1)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        passed(fail, [1, 2], machine=made(module))
    assert module.training
    assert torch.equal(torch.get_rng_state(), before)


def test_the_view_predicts_and_gives_the_runs_loss() -> None:
    module, data = net(dropout=0.9), samples(4)

    def both(model: Any, batch: Any) -> dict[str, Any]:
        return {"out": model.predict(batch), "loss": model.loss(batch)["total"]}

    result = passed(both, data, {"loss": "mean"}, machine=made(module))
    module.eval()
    with torch.no_grad():
        outputs = module(data.inputs)
    assert torch.allclose(result["out"], outputs)
    loss = torch.nn.functional.mse_loss(outputs, data.targets)
    assert float(result["loss"]) == pytest.approx(float(loss))


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (DataPass("vall", value_of), ("'vall'", "Did you mean val?")),
        (DataPass("val", value_of, "maen"), ("'maen'", "mean")),
        (DataPass("val", value_of, {"a": "mean", "b": "median"}), ("'median'",)),
    ],
)
def test_what_makes_a_pass_impossible_is_named(data: DataPass, parts: tuple[str, ...]) -> None:
    (message,) = list(mistakes(data, {"val": [], "train_probe": []}))
    assert all(part in message for part in parts)


def test_a_sound_pass_has_no_mistakes() -> None:
    assert list(mistakes(DataPass("val", value_of, {"a": "max"}), {"val": []})) == []


@dataclass
class Broken:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        raise OSError("no such file")


def run(data: DataPass, datasets: Any) -> TrainState:
    def log(state: TrainState) -> Log:
        return Log({f"mean/{k}": v for k, v in state.results.items()})

    watcher = Callback("watcher", on_schedule=log, data=data, schedule=every(epochs=1))
    return noether.train(
        net(),
        samples(8),
        loss=squared_error,
        optimizer=sgd,
        until={"epochs": 1},
        batch_size=4,
        callbacks=[watcher],
        datasets=datasets,
        defaults=False,
    )


def test_an_impossible_pass_is_refused_before_training() -> None:
    with pytest.raises(ConfigurationError, match=r"'watcher'.*'vall'.*Did you mean val\?"):
        run(DataPass("vall", value_of), {"val": [0, 1, 4]})


def test_a_pass_in_a_run_reports_its_reduced_values() -> None:
    final = run(DataPass("val", value_of, "mean", 2), {"val": [0, 1, 4]})
    assert final.metrics == {"mean/value": 5 / 3}


def test_a_pass_over_an_empty_set_reports_nothing_and_the_run_goes_on() -> None:
    final = run(DataPass("val", value_of, "mean", 2), {"val": []})
    assert final.metrics == {}
    assert final.now.epoch == 1


def test_an_error_in_a_pass_names_the_callback_and_the_sample() -> None:
    with pytest.raises(HookError, match="'watcher', on_schedule, at update 2") as caught:
        run(DataPass("val", value_of), {"val": Broken()})
    assert isinstance(caught.value.__cause__, OSError)
    assert "sample 0" in caught.value.__cause__.__notes__[0]
