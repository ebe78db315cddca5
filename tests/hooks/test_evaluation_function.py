import math
import operator
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import noether
from noether import TrainState, every, hooks
from noether.hooks.evaluation.function import _flat, _shaped
from tests.strategies import net, samples, sgd, squared_error


def train(*callbacks: Any, model: Any = None, val: Any = None, **options: Any) -> TrainState:
    given = {"loss": squared_error, "optimizer": sgd, "until": {"epochs": 1}, "batch_size": 4}
    given |= {"datasets": {"val": samples(5, seed=3) if val is None else val}, "defaults": False}
    return noether.train(
        model or net(), samples(8), callbacks=list(callbacks), **{**given, **options}
    )


def joined(process: Any, *, val: Any = None, batch_size: int = 2, **options: Any) -> Any:
    """What `finish` gets of a pass."""
    found: list[Any] = []

    def finish(results: Any) -> dict[str, float]:
        found.append(results)
        return {"calls": len(found)}

    made = hooks.evaluate(
        dataset="val", process=process, finish=finish, batch_size=batch_size, **options
    )
    final = train(every(epochs=1)(made), val=val)
    assert final.metrics == ({"calls": 1} if found else {})
    return found[0] if found else None


@settings(max_examples=15)
@given(n=st.integers(1, 9), size=st.integers(1, 10))
def test_metrics_are_those_of_the_whole_set(n: int, size: int) -> None:
    model, val = net(dropout=0.5), samples(n, seed=3)

    def process(model: Any, batch: Any) -> Any:
        return (model(batch[0]) - batch[1]).abs().amax(-1)

    made = hooks.evaluate(
        dataset="val",
        process=process,
        finish=lambda errors: {"median": errors.median(), "number": len(errors)},
        batch_size=size,
    )
    final = train(every(epochs=1)(made), model=model, val=val)
    model.eval()
    with torch.no_grad():
        found = [(model(val.inputs[[i]]) - val.targets[[i]]).abs().max() for i in range(n)]
        errors = [float(error) for error in found]
    assert final.metrics["median"] == pytest.approx(sorted(errors)[(n - 1) // 2], rel=1e-5)
    assert final.metrics["number"] == n


def test_a_tensor_is_concatenated_and_one_without_dimensions_stacked() -> None:
    val = samples(5, seed=3)
    assert torch.equal(joined(lambda model, batch: batch[0]), val.inputs)
    sums = joined(lambda model, batch: batch[0].double().sum())
    assert sums.tolist() == [pytest.approx(float(val.inputs[i : i + 2].sum())) for i in (0, 2, 4)]


@pytest.mark.parametrize(
    ("kind", "dtype"), [(float, torch.float64), (int, torch.int64), (bool, torch.bool)]
)
def test_numbers_are_stacked_in_full_precision(kind: Any, dtype: torch.dtype) -> None:
    found = joined(lambda model, batch: kind(len(batch[0]) + 0.1))
    assert found.dtype == dtype
    assert found.tolist() == [kind(2.1), kind(2.1), kind(1.1)]


def test_a_list_is_an_item_for_each_sample() -> None:
    found = joined(lambda model, batch: [f"{float(x.sum()):.3f}" for x in batch[0]])
    assert found == [f"{float(x.sum()):.3f}" for x in samples(5, seed=3).inputs]


def test_tuples_and_mappings_come_back_in_any_depth() -> None:
    def process(model: Any, batch: Any) -> Any:
        inputs, targets = batch
        return {"pair": (inputs, {"deep": targets, "of/it": len(inputs)}), "one": inputs.sum()}

    val, found = samples(5, seed=3), joined(process)
    assert torch.equal(found["pair"][0], val.inputs)
    assert torch.equal(found["pair"][1]["deep"], val.targets)
    assert found["pair"][1]["of/it"].tolist() == [2, 2, 1]
    assert found["one"].shape == (3,)


class Pair(NamedTuple):
    left: Any
    right: Any


def test_a_pair_can_be_unpacked() -> None:
    val = samples(5, seed=3)
    inputs, targets = joined(lambda model, batch: Pair(*batch))
    assert torch.equal(inputs, val.inputs)
    assert torch.equal(targets, val.targets)


shapes = st.recursive(
    st.integers(0, 3).map(torch.tensor) | st.lists(st.integers()),
    lambda inner: (
        st.dictionaries(st.text("ab/.", min_size=1), inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=3).map(tuple)
    ),
)


@given(shape=shapes)
def test_shapes_are_rebuilt_from_what_they_are_made_of(shape: Any) -> None:
    assert _shaped(dict(_flat(shape))) == shape


def test_none_and_an_empty_set_give_no_metrics() -> None:
    assert joined(lambda model, batch: None) is None
    assert joined(lambda model, batch: batch[0], val=samples(0)) is None


def test_finish_may_have_nothing_to_tell_but_not_something_else() -> None:
    def made(finish: Any) -> Any:
        process: Any = operator.itemgetter(0)
        callback = hooks.evaluate(dataset="val", process=lambda m, b: process(b), finish=finish)
        return every(epochs=1)(callback)

    assert train(made(lambda results: None)).metrics == {}
    with pytest.raises(noether.HookError, match="expected metrics by name"):
        train(made(lambda results: results.mean()))


def test_reductions_are_one_for_all_or_in_the_shape_of_what_process_gives() -> None:
    inputs = samples(5, seed=3).inputs.double()

    def pair(model: Any, batch: Any) -> Any:
        return batch[0].double(), {"most": batch[0].double(), "all": batch[0]}

    mean = joined(lambda model, batch: batch[0].double(), reduce="mean")
    assert torch.allclose(mean, inputs.mean(0))
    for reduce in (("mean", {"most": "max"}), ["mean", {"most": "max"}]):
        means, rest = joined(pair, reduce=reduce)
        assert torch.allclose(means, inputs.mean(0))
        assert torch.equal(rest["most"], inputs.max())
        assert torch.equal(rest["all"], inputs.float())
    summed = joined(lambda model, batch: len(batch[0]), reduce=operator.add)
    assert int(summed) == 5
    assert float(joined(lambda model, batch: float(len(batch[0])), reduce="mean")) == 9 / 5


def test_a_reduction_that_is_not_there_is_refused_before_training() -> None:
    made = hooks.evaluate(dataset="val", process=print, finish=print, reduce={"a": "maen"})
    with pytest.raises(noether.ConfigurationError, match=r"maen.*mean"):
        train(every(epochs=1)(made))


def test_a_batch_that_lacks_a_key_is_named_with_its_set() -> None:
    def process(model: Any, batch: Any) -> Any:
        return {"a": batch[0], "b": batch[1]} if len(batch[0]) == 2 else {"a": batch[0]}

    made = hooks.evaluate(dataset="val", process=process, finish=lambda r: {}, batch_size=2)
    with pytest.raises(noether.HookError) as caught:
        train(every(epochs=1)(made))
    assert all(word in str(caught.value) for word in ("evaluate/val", "'val'", "batch 2", "'b'"))


def test_names_of_averaged_weights_and_promised_metrics() -> None:
    options: dict[str, Any] = {
        "dataset": "val",
        "process": lambda model, batch: model(batch[0]),
        "finish": lambda outputs: {"size": outputs.norm()},
        "writes": ["size"],
    }
    live, mean = (hooks.evaluate(**options, weights=weights) for weights in ("live", "ema"))
    assert (live.name, mean.name) == ("evaluate/val", "ema/evaluate/val")
    best = hooks.best_metric(source="ema/size", targets=["size"], mode="max")
    final = train(best, every(epochs=1)(live), every(epochs=1)(mean), hooks.ema(decay=0.5))
    assert {"size", "ema/size", "size/at_best/ema/size"} == set(final.metrics)
    assert final.metrics["size"] != final.metrics["ema/size"]


def test_two_of_one_set_ask_for_a_name() -> None:
    made = hooks.evaluate(dataset="val", process=print, finish=print)
    with pytest.raises(noether.ConfigurationError, match="another `name`"):
        train(made, made)


def test_nan_is_a_metric_too() -> None:
    made = hooks.evaluate(
        dataset="val", process=lambda model, batch: math.nan, finish=lambda r: {"x": r.mean()}
    )
    assert math.isnan(train(every(epochs=1)(made)).metrics["x"])


def test_writes_is_a_list() -> None:
    with pytest.raises(ValueError, match="writes"):
        hooks.evaluate(dataset="val", process=print, finish=print, writes="size")


def test_an_evaluation_alone_returns_the_metrics_of_every_pass() -> None:
    val = samples(5, seed=3)
    made = hooks.evaluate(
        dataset="val",
        process=lambda model, batch: (model(batch[0]) - batch[1]).pow(2).mean(),
        finish=lambda squares: {"batches": len(squares)},
        batch_size=2,
    )
    loss = hooks.offline_loss(dataset="val", output_patterns_to_log=["size"])
    found = noether.evaluate(
        net(),
        loss=lambda model, batch: (squared_error(model, batch), {"size": len(batch[0])}),
        datasets={"val": val},
        callbacks=[made, loss, hooks.images(dataset="val", plot=lambda model, batch: None)],
    )
    assert found.metrics["batches"] == 3
    assert found.metrics["size/val"] == 5
    assert "loss/val/total" in found.metrics
