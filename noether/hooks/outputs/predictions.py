"""What the model predicts for the samples of a data set, as a file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from noether.callback import Callback, DataPass, factory
from noether.effects import Say, Write
from noether.hooks.outputs.compared import check_drawing, compared
from noether.hooks.outputs.names import by_name, chosen, prefix, stamp, texts
from noether.state import ModelView, TrainState

Format = Literal["pt", "csv", "json"]
TARGET = "target"
"""The key of what is true."""


@factory
def predictions(
    *,
    dataset: str,
    keys: Sequence[str] | None = None,
    format: Format = "pt",
    targets: bool = False,
    plot: bool = False,
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

    plot: also draw what is predicted beside what is true, a `.png` for each key (extra `figures`).
        Targets that are classes, whole numbers, give a table of counts, row by row the true class;
        the outputs are then a score for each class, or classes. Others give points, a panel for
        each number of a row.

    Raises ValueError where `plot` has no matplotlib; in the run LookupError, with the keys there
    are, for one that the model doesn't give, and ValueError for an output that isn't one row per
    sample. What no target can stand beside is not drawn, and said.

    >>> predictions(dataset="test", format="csv").name
    'predictions/test'
    """
    wanted = texts("predictions: keys", keys)
    if plot:
        check_drawing("predictions: plot")
    if format not in get_args(Format):
        raise ValueError(f"predictions: format is {format!r}; expected one of {get_args(Format)}")

    def predicted(model: ModelView, batch: Any) -> dict[str, Any]:
        outputs = by_name(model.predict(batch), "prediction")
        found = chosen(outputs, wanted, () if wanted else ("",), "predictions")
        rows = {**found, **(_target(batch) if targets or plot else {})}
        _check_rows(rows)
        return rows

    def write(state: TrainState) -> list[Write | Say]:
        if not state.results:
            return []
        found = {key: rows for key, rows in state.results.items() if targets or key != TARGET}
        ending, name = "" if format == "pt" else f".{format}", f"{{name}}_{stamp(state)}"
        drawn = _drawn(name, state.results) if plot else []
        return [Write(f"{name}{ending}", FORMS[format](found)), *drawn]

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
    return {TARGET: batch[1]}


def _drawn(name: str, results: Mapping[str, Any]) -> list[Write | Say]:
    """A picture for each key, or why there is none; an only one is called as the file beside it."""
    keys = [key for key in results if key != TARGET]
    made: list[Write | Say] = []
    for key in keys:
        file = f"{name}.png" if len(keys) == 1 else f"{name}_{key}.png"
        try:
            made.append(Write(file, compared(results[key], results[TARGET], key)))
        except ValueError as error:
            made.append(Say(f"predictions: {error}"))
    return made


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
