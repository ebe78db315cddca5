"""What the model predicts for the samples of a data set, as a file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from noether.callback import Callback, DataPass, factory
from noether.effects import Write
from noether.hooks.outputs.names import by_name, chosen, prefix, stamp, texts
from noether.state import ModelView, TrainState

Format = Literal["pt", "csv", "json"]


@factory
def predictions(
    *,
    dataset: str,
    keys: Sequence[str] | None = None,
    format: Format = "pt",
    targets: bool = False,
    batch_size: int | None = None,
    weights: str = "live",
    limit: int | None = None,
) -> Callback:
    """Write `{name}_E{e}_U{u}_S{s}`: the model's outputs over a data set, a row for each sample.

    The rows are in data-set order. `keys` are those of a model that gives a mapping, by default
    all of them; an output that is no mapping has the key `prediction`. With `targets` the second
    part of the batches is there too, as `target`. A `pt` file holds tensors by key, `csv` a column
    for each number of a row (`prediction/0`, ...), `json` a list of rows. `weights`, `batch_size`
    and `limit` as for `offline_loss`.

    Raises LookupError, with the keys there are, for one that the model doesn't give, and
    ValueError for an output that isn't one row per sample.

    >>> predictions(dataset="test", format="csv").name
    'predictions/test'
    """
    wanted = texts("predictions: keys", keys)
    if format not in get_args(Format):
        raise ValueError(f"predictions: format is {format!r}; expected one of {get_args(Format)}")

    def predicted(model: ModelView, batch: Any) -> dict[str, Any]:
        outputs = by_name(model.predict(batch), "prediction")
        found = chosen(outputs, wanted, () if wanted else ("",), "predictions")
        rows = {**found, **(_target(batch) if targets else {})}
        _check_rows(rows)
        return rows

    def write(state: TrainState) -> Write | None:
        if not state.results:
            return None
        ending = "" if format == "pt" else f".{format}"
        return Write(f"{{name}}_{stamp(state)}{ending}", FORMS[format](state.results))

    return Callback(
        f"{prefix(weights)}predictions/{dataset}",
        on_schedule=write,
        data=DataPass(dataset, predicted, "concat", batch_size, weights, limit, offload=True),
        reads=(),
        writes=(),
        on_error="warn",
    )


def _target(batch: Any) -> dict[str, Any]:
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError("predictions: targets are asked for, but the batches are no pairs")
    return {"target": batch[1]}


def _check_rows(rows: Mapping[str, Any]) -> None:
    sizes = {key: _size(value) for key, value in rows.items()}
    if None in sizes.values() or len(set(sizes.values())) > 1:
        found = ", ".join(f"{key} has {size or 'none'}" for key, size in sizes.items())
        raise ValueError(f"predictions: expected one row per sample of each key; {found}")


def _size(value: Any) -> int | None:
    """How many rows an output has; None where it is no tensor or list of them."""
    if isinstance(value, Tensor):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def _columns(results: Mapping[str, Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for key, values in results.items():
        if isinstance(values, Tensor) and values.ndim > 1:
            flat = values.flatten(1).T.tolist()
            columns |= {f"{key}/{place}": column for place, column in enumerate(flat)}
        else:
            columns[key] = _listed(values)
    return columns


def _rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = [_listed(values) for values in results.values()]
    return [dict(zip(results, row, strict=True)) for row in zip(*columns, strict=True)]


def _listed(values: Any) -> list[Any]:
    listed: list[Any] = values.tolist() if isinstance(values, Tensor) else list(values)
    return listed


FORMS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "pt": dict,
    "csv": _columns,
    "json": _rows,
}
