"""How the values of a pass's batches are joined, against the same of the whole set at once."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf, isnan, nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import noether
from noether import Callback, ConfigurationError, DataPass, HookError, Log, TrainState, every
from tests.strategies import net, samples, sgd, squared_error

DEFAULT: int = settings.default.max_examples  # type: ignore[union-attr]
SOME = settings(max_examples=max(5, DEFAULT // 5))
"""Each example trains, though little."""

WORKERS = pytest.mark.parametrize("workers", [0, 2])


def whole(rows: list[Any]) -> list[Any]:
    """Batches as lists of samples, as they are."""
    return rows


def reduced(
    values: Sequence[Any],
    process: Callable[[Any, Any], Any],
    reduce: Any = "concat",
    *,
    size: int = 2,
    collate: Any = None,
    workers: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """What a pass over the values gives in the only update of a run."""
    noted: list[dict[str, Any]] = []

    def note(state: TrainState) -> None:
        noted.append(dict(state.results))

    noether.train(
        net(),
        samples(2),
        loss=lambda model, batch: squared_error(model, stacked(batch)),
        optimizer=sgd,
        until={"updates": 1},
        batch_size=2,
        collate=collate,
        callbacks=[
            Callback(
                "noting",
                on_schedule=note,
                schedule=every(updates=1),
                data=DataPass("val", process, reduce, batch_size=size, **options),
            )
        ],
        datasets={"val": values},
        workers=workers,
        defaults=False,
    )
    (results,) = noted
    return results


def stacked(batch: Any) -> Any:
    """A training batch, whatever collated it."""
    if isinstance(batch, list) and batch and isinstance(batch[0], tuple):
        return tuple(torch.stack(part) for part in zip(*batch, strict=True))
    return batch


def each(model: Any, batch: Any) -> dict[str, Any]:
    return {"x": batch}


def cut(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[k : k + size] for k in range(0, len(values), size)]


sizes = st.integers(1, 25)
integers = st.integers(-(2**20), 2**20)
rows = st.lists(integers, min_size=1, max_size=20)


def of_width(bits: int) -> st.SearchStrategy[float]:
    return st.floats(width=bits, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]


# ---------------------------------------------------------------- concat

KINDS = {
    torch.int64: st.integers(-(2**62), 2**62),
    torch.int32: st.integers(-(2**30), 2**30),
    torch.bool: st.booleans(),
    torch.float16: of_width(16),
    torch.float32: of_width(32),
    torch.float64: of_width(64),
}


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@SOME
@given(data=st.data(), size=sizes)
def test_concat_is_the_whole_set_in_order_and_in_its_own_type(
    dtype: torch.dtype, data: st.DataObject, size: int
) -> None:
    values = data.draw(st.lists(KINDS[dtype], min_size=1, max_size=20))
    expected = torch.tensor(values, dtype=dtype)
    result = reduced(list(expected), each, size=size)["x"]
    assert result.dtype == dtype
    assert torch.equal(result, expected)


@SOME
@given(n=st.integers(1, 20), size=sizes, shape=st.lists(st.integers(0, 3), max_size=3))
def test_concat_keeps_the_shape_of_rows(n: int, size: int, shape: list[int]) -> None:
    expected = torch.arange(n * 27.0).reshape(n, 3, 3, 3)
    expected = expected[(slice(None), *(slice(k) for k in shape))]
    assert torch.equal(reduced(list(expected), each, size=size)["x"], expected)


@SOME
@given(values=rows, size=sizes)
def test_concat_stacks_what_has_no_dimension(values: list[int], size: int) -> None:
    result = reduced(values, lambda model, batch: {"x": batch.sum()}, size=size)["x"]
    assert result.tolist() == [sum(part) for part in cut(values, size)]


def padded(values: list[Any]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=-1)


@SOME
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=12), size=st.integers(1, 6))
def test_concat_of_ragged_rows_is_a_list_of_them_in_order(lengths: list[int], size: int) -> None:
    values = [torch.full((length,), index) for index, length in enumerate(lengths)]
    result = reduced(values, each, size=size, collate=padded_or_whole)["x"]
    batches = [padded(list(part)) for part in cut(values, size)]
    if len({batch.shape[1] for batch in batches}) == 1:
        assert torch.equal(result, torch.cat(batches))
        return
    assert isinstance(result, list)
    assert [row.tolist() for row in result] == [row for b in batches for row in b.tolist()]


def padded_or_whole(values: list[Any]) -> Any:
    return padded(values) if isinstance(values[0], torch.Tensor) else values


@WORKERS
def test_concat_joins_lists_strings_and_objects_to_one_list(workers: int) -> None:
    def several(model: Any, batch: Any) -> dict[str, Any]:
        first = int(batch[0])
        return {
            "words": [f"w{int(i)}" for i in batch],
            "string": f"from {first}",
            "number": float(first),
            "object": Fraction(first),
            "mapping": {"first": first},
        }

    assert reduced([0, 1, 4], several, workers=workers) == {
        "words": ["w0", "w1", "w4"],
        "string": ["from 0", "from 4"],
        "number": [0.0, 4.0],
        "object": [Fraction(0), Fraction(4)],
        "mapping": [{"first": 0}, {"first": 4}],
    }


@SOME
@given(values=st.lists(st.text(max_size=3), min_size=1, max_size=12), size=sizes)
def test_concat_of_texts_is_all_of_them_in_order(values: list[str], size: int) -> None:
    assert reduced(values, each, size=size, collate=whole)["x"] == values


# ---------------------------------------------------------------- mean, sum, min, max

FINITE = {
    torch.int64: integers,
    torch.int8: st.integers(-128, 127),
    torch.bool: st.booleans(),
    torch.float16: of_width(16),
    torch.float64: st.floats(-1e100, 1e100),
}


def near(found: Any, exact: Fraction, scale: Fraction, n: int) -> bool:
    """Whether a number is what float64 may make of the exact one."""
    return abs(Fraction(float(found)) - exact) <= scale * (n + 2) * Fraction(2) ** -52


@pytest.mark.parametrize("dtype", FINITE, ids=str)
@pytest.mark.parametrize("reduce", ["mean", "sum"])
@SOME
@given(data=st.data(), size=sizes)
def test_means_and_sums_are_those_of_exact_fractions(
    dtype: torch.dtype, reduce: str, data: st.DataObject, size: int
) -> None:
    values = data.draw(st.lists(FINITE[dtype], min_size=1, max_size=20))
    tensors = torch.tensor(values, dtype=dtype)
    result = reduced(list(tensors), each, reduce, size=size)["x"]
    parts = [Fraction(value) for value in tensors.tolist()]
    over = len(parts) if reduce == "mean" else 1
    exact, scale = sum(parts, Fraction(0)) / over, sum(map(abs, parts), Fraction(0)) / over
    assert near(result, exact, scale, len(parts))
    assert torch.as_tensor(result).dtype == torch.float64
    if not dtype.is_floating_point:
        assert float(result) == float(exact)


@pytest.mark.parametrize("dtype", FINITE, ids=str)
@pytest.mark.parametrize("reduce", ["min", "max"])
@SOME
@given(data=st.data(), size=sizes)
def test_extremes_are_those_of_the_whole_set(
    dtype: torch.dtype, reduce: str, data: st.DataObject, size: int
) -> None:
    values = data.draw(st.lists(FINITE[dtype], min_size=1, max_size=20))
    tensors = torch.tensor(values, dtype=dtype)
    result = reduced(list(tensors), each, reduce, size=size)["x"]
    find: Callable[[list[Any]], Any] = {"min": min, "max": max}[reduce]
    assert float(result) == float(find(tensors.tolist()))


OF_ALL: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda values: values.double().mean(0),
    "sum": lambda values: values.double().sum(0),
    "min": lambda values: values.amin(0),
    "max": lambda values: values.amax(0),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reduce", OF_ALL)
@SOME
@given(
    values=st.lists(st.sampled_from([nan, inf, -inf, 0.0, 1.0, -2.5]), min_size=1, max_size=8),
    size=st.integers(1, 9),
)
def test_nan_and_infinities_come_out_as_of_the_whole_set(
    dtype: torch.dtype, reduce: str, values: list[float], size: int
) -> None:
    tensors = torch.tensor(values, dtype=dtype)
    found = float(reduced(list(tensors), each, reduce, size=size)["x"])
    expected = float(OF_ALL[reduce](tensors))
    assert found == expected or (isnan(found) and isnan(expected))


@SOME
@given(n=st.integers(1, 12), size=st.integers(1, 13), shape=st.sampled_from([(2,), (2, 3), (1,)]))
def test_values_with_more_dimensions_lose_no_number(
    n: int, size: int, shape: tuple[int, ...]
) -> None:
    values = torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))
    found = reduced(
        list(values),
        lambda model, batch: dict.fromkeys(OF_ALL, batch),
        {name: name for name in OF_ALL},
        size=size,
    )
    assert found["mean"].shape == shape
    assert torch.allclose(found["mean"], values.double().mean(0), rtol=1e-12, atol=1e-12)
    # Whether these keep the sample's shape, as the mean does, is not said.
    assert float(found["sum"].sum()) == pytest.approx(float(values.double().sum()))
    assert float(found["min"].min()) == float(values.min())
    assert float(found["max"].max()) == float(values.max())


@pytest.mark.parametrize("tensors", [True, False], ids=["tensors", "numbers"])
@SOME
@given(values=rows, size=sizes)
def test_one_value_for_a_batch_weighs_as_its_samples_do(
    values: list[int], size: int, *, tensors: bool
) -> None:
    def first(model: Any, batch: Any) -> dict[str, Any]:
        value = batch[0]
        return {"mean": value, "sum": value} if tensors else {"mean": int(value), "sum": int(value)}

    result = reduced(values, first, {"mean": "mean", "sum": "sum"}, size=size)
    parts = cut(values, size)
    assert float(result["sum"]) == sum(part[0] for part in parts)
    exact = Fraction(sum(part[0] * len(part) for part in parts), len(values))
    scale = Fraction(sum(abs(part[0]) * len(part) for part in parts), len(values))
    assert near(result["mean"], exact, scale, len(parts))


# ---------------------------------------------------------------- merge


@dataclass
class Tally:
    """Counts as torchmetrics' metrics do: merging changes the one that is asked."""

    n: int = 0
    order: list[int] = field(default_factory=list)

    def merge_state(self, other: "Tally") -> None:
        self.n += other.n
        self.order.extend(other.order)


@SOME
@given(values=rows, size=sizes)
def test_merge_asks_the_values_in_order(values: list[int], size: int) -> None:
    def tally(model: Any, batch: Any) -> dict[str, Any]:
        return {"x": Tally(len(batch), batch.tolist())}

    assert reduced(values, tally, "merge", size=size)["x"] == Tally(len(values), values)


@SOME
@given(values=rows, size=sizes)
def test_merge_adds_what_has_no_merge_state(values: list[int], size: int) -> None:
    def several(model: Any, batch: Any) -> dict[str, Any]:
        return {
            "counter": Counter(batch.tolist()),
            "list": batch.tolist(),
            "text": "".join(f"{int(i)};" for i in batch),
            "tensor": batch.sum(),
            "number": len(batch),
        }

    result = reduced(values, several, "merge", size=size)
    assert result["counter"] == Counter(values)
    assert result["list"] == values
    assert result["text"] == "".join(f"{i};" for i in values)
    assert (int(result["tensor"]), result["number"]) == (sum(values), len(values))


@WORKERS
def test_what_cannot_be_merged_is_named(workers: int) -> None:
    def process(model: Any, batch: Any) -> dict[str, Any]:
        return {"odd": object()}

    with pytest.raises(HookError, match="'noting'") as caught:
        reduced([0, 1, 2], process, "merge", workers=workers)
    assert isinstance(caught.value.__cause__, TypeError)


# ---------------------------------------------------------------- functions


def joined(a: str, b: str) -> str:
    return a + b


@SOME
@given(values=rows, size=sizes)
def test_a_function_joins_in_the_order_of_the_set(values: list[int], size: int) -> None:
    def text(model: Any, batch: Any) -> dict[str, Any]:
        return {"x": "".join(f"{int(i)};" for i in batch)}

    assert reduced(values, text, joined, size=size)["x"] == "".join(f"{i};" for i in values)


@SOME
@given(values=rows, size=sizes)
def test_a_function_joins_under_a_key_of_its_own(values: list[int], size: int) -> None:
    def text(model: Any, batch: Any) -> dict[str, Any]:
        return {"product": int(batch.sum()) % 7 + 1, "rest": batch}

    result = reduced(values, text, {"product": lambda a, b: a * b % 1009}, size=size)
    expected = 1
    for part in cut(values, size):
        expected = expected * (sum(part) % 7 + 1) % 1009
    assert result["product"] == expected
    assert result["rest"].tolist() == values


def test_a_function_is_not_called_for_a_single_batch() -> None:
    def refuse(a: Any, b: Any) -> Any:
        raise AssertionError("there is nothing to join")

    assert reduced([0, 1], lambda model, batch: {"x": "one"}, refuse)["x"] == "one"


# ---------------------------------------------------------------- keys, limits, places


def several(model: Any, batch: Any) -> dict[str, Any]:
    numbers = batch.double()
    return {
        "mean": numbers,
        "sum": numbers,
        "min": numbers,
        "max": numbers,
        "merge": Tally(len(batch), batch.tolist()),
        "function": "".join(f"{int(i)};" for i in batch),
        "concat": batch,
        "unsaid": batch,
    }


EACH: dict[str, Any] = {k: k for k in ("mean", "sum", "min", "max", "merge", "concat")}
EACH["function"] = joined


def expected(values: list[int]) -> dict[str, Any]:
    return {
        "mean": float(Fraction(sum(values), len(values))),
        "sum": sum(values),
        "min": min(values),
        "max": max(values),
        "merge": Tally(len(values), values),
        "function": "".join(f"{i};" for i in values),
        "concat": values,
        "unsaid": values,
    }


def plain(results: dict[str, Any]) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in results.items()}


@SOME
@given(values=rows, size=st.integers(1, 60))
def test_each_key_has_its_own_reduction_whatever_the_batch_size(
    values: list[int], size: int
) -> None:
    assert plain(reduced(values, several, EACH, size=size)) == expected(values)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_workers_change_no_reduction(size: int, workers: int) -> None:
    values = [5, -3, 8, 0, 0, 2, 9]
    found = reduced(values, several, EACH, size=size, workers=workers)
    assert plain(found) == expected(values)
    assert plain(reduced(values, several, EACH, size=size)) == expected(values)


@SOME
@given(values=rows, size=st.integers(1, 6), limit=st.integers(1, 6))
def test_a_limit_is_the_first_batches(values: list[int], size: int, limit: int) -> None:
    seen: list[int] = []

    def noting(model: Any, batch: Any) -> dict[str, Any]:
        seen.extend(batch.tolist())
        return several(model, batch)

    found = reduced(values, noting, EACH, size=size, limit=limit)
    first = values[: limit * size]
    assert plain(found) == expected(first)
    assert seen == first


@WORKERS
@pytest.mark.parametrize(("limit", "count"), [(1, 2), (2, 4), (3, 5), (4, 5), (1000, 5)])
def test_a_limit_is_counted_in_batches(limit: int, count: int, workers: int) -> None:
    result = reduced([*range(5)], each, limit=limit, workers=workers)["x"]
    assert result.tolist() == [*range(count)]


@SOME
@given(values=rows, size=sizes)
def test_what_is_kept_on_the_cpu_is_the_same(values: list[int], size: int) -> None:
    found = reduced(values, several, EACH, size=size, offload=True)
    assert plain(found) == expected(values)
    assert found["concat"].device.type == "cpu"


REDUCTIONS = ["concat", "mean", "sum", "min", "max", "merge", joined, EACH]


@pytest.mark.parametrize("reduce", REDUCTIONS, ids=lambda r: r if isinstance(r, str) else "other")
@WORKERS
def test_an_empty_set_gives_nothing(reduce: Any, workers: int) -> None:
    def refuse(model: Any, batch: Any) -> Any:
        raise AssertionError("there is no batch")

    assert reduced([], refuse, reduce, workers=workers) == {}


@pytest.mark.parametrize("reduce", REDUCTIONS, ids=lambda r: r if isinstance(r, str) else "other")
def test_a_process_that_gives_nothing_gives_nothing(reduce: Any) -> None:
    assert reduced([1, 2, 3], lambda model, batch: {}, reduce) == {}


def test_results_are_no_windows_on_a_buffer_that_is_used_again() -> None:
    buffer = torch.zeros(2)

    def reuse(model: Any, batch: Any) -> dict[str, Any]:
        buffer.copy_(batch)
        return {"max": buffer, "sum": buffer, "mean": buffer}

    found = reduced([4, 3, 2, 1], reuse, {"max": "max", "sum": "sum", "mean": "mean"})
    assert {key: float(value) for key, value in found.items()} == {"max": 4, "sum": 10, "mean": 2.5}


@pytest.mark.parametrize("reduce", ["maen", {"x": "median"}, {"x": 3}, 3])
def test_what_is_no_reduction_is_refused_before_training(reduce: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"maen|median|3"):
        reduced([0, 1], each, reduce)


def test_reduced_values_can_be_logged_as_they_are() -> None:
    def log(state: TrainState) -> Log:
        return Log({f"val/{name}": value for name, value in state.results.items()})

    reduce = {name: name for name in ("mean", "sum", "min", "max")}
    final = noether.train(
        net(),
        samples(2),
        loss=squared_error,
        optimizer=sgd,
        until={"updates": 1},
        batch_size=2,
        callbacks=[
            Callback(
                "logging",
                on_schedule=log,
                schedule=every(updates=1),
                data=DataPass("val", lambda model, batch: dict.fromkeys(reduce, batch), reduce),
            )
        ],
        datasets={"val": [True, False, True]},
        defaults=False,
    )
    assert final.metrics == {"val/mean": 2 / 3, "val/sum": 2, "val/min": 0, "val/max": 1}
