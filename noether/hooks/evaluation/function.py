"""An evaluation of one's own: a function of a batch, and one of what all batches gave."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from noether.callback import Callback, DataPass, Reduce, factory
from noether.effects import Log
from noether.hooks.outputs.names import prefix, texts
from noether.state import TrainState

WITHIN = " > "
"""Between the keys that lead to a nested value."""
PLACE = "#"
"""Before a position in a tuple; alone, the only value there is."""


@factory
def evaluate(
    *,
    dataset: str,
    process: Callable[[Any, Any], Any],
    finish: Callable[[Any], Mapping[str, Any] | None],
    reduce: Reduce | Mapping[str, Any] | Sequence[Any] = "concat",
    batch_size: int | None = None,
    weights: str = "live",
    limit: int | None = None,
    writes: Sequence[str] | None = None,
) -> Callback:
    """Log the metrics that `finish` makes of what `process` gives for the batches of a data set.

    `process(model, batch)` sees each batch, in evaluation mode, without gradients, in the run's
    precision. It returns a tensor, a number, a list of one item per sample, a tuple or mapping of
    such values, in any depth, or None. `finish` gets the same with the values of all batches, and
    of all ranks, joined in data-set order: those without dimensions stacked, others concatenated.
    It returns metrics, or None, and is not called where there is nothing to join.

    reduce: how they are joined otherwise, one word for all or a mapping or tuple as `process`
        gives; the words are those of `DataPass`.
    writes: the metrics, globs allowed, for other callbacks to read. With the `weights` of an
        average, `ema` say, each metric's name begins with `ema/`.

    `batch_size` and `limit` as for `offline_loss`.

    >>> def process(model, batch):
    ...     return (model(batch[0]) - batch[1]).abs().amax(-1)
    >>> evaluate(dataset="val", process=process, finish=lambda e: {"median": e.median()}).name
    'evaluate/val'
    """
    before = prefix(weights)
    promised = None if writes is None else texts("evaluate: writes", writes)
    joining: Any = tuple(reduce) if isinstance(reduce, list) else reduce
    joining = dict(_flat(joining)) if isinstance(joining, Mapping | tuple) else joining

    def processed(model: Any, batch: Any) -> dict[str, Any]:
        return {key: _tensor(value) for key, value in _flat(process(model, batch))}

    def log_metrics(state: TrainState) -> Log | None:
        metrics = finish(_shaped(state.results)) if state.results else None
        if metrics is None:
            return None
        if not isinstance(metrics, Mapping):
            raise TypeError(f"finish gave {metrics!r}; expected metrics by name, or None")
        return Log({f"{before}{name}": value for name, value in metrics.items()})

    return Callback(
        f"{before}evaluate/{dataset}",
        on_schedule=log_metrics,
        data=DataPass(dataset, processed, joining, batch_size, weights, limit),
        reads=(),
        writes=None if promised is None else tuple(f"{before}{name}" for name in promised),
    )


def _flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The values within tuples and mappings, each by the keys that lead to it."""
    if isinstance(value, tuple):
        value = {f"{PLACE}{position}": item for position, item in enumerate(value)}
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, (*path, key))
    elif path:
        yield WITHIN.join(path), value
    elif value is not None:
        yield PLACE, value


def _shaped(flat: Mapping[str, Any]) -> Any:
    """Tuples and mappings again: the inverse of `_flat`."""
    if PLACE in flat:
        return flat[PLACE]
    groups: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        first, _, rest = key.partition(WITHIN)
        groups.setdefault(first, {})[rest or PLACE] = value
    parts = {first: _shaped(group) for first, group in groups.items()}
    return tuple(parts.values()) if all(key.startswith(PLACE) for key in parts) else parts


def _tensor(value: Any) -> Any:
    """A number as a tensor, so that it is joined as one."""
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    return torch.tensor(value) if isinstance(value, int) else value
