"""What a path means as a source of weights: a file, a checkpoint, or a run that has some."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, strided
from torch.nn import Parameter

from noether import store
from noether.averages import LIVE, keepers
from noether.callback import Pipeline
from noether.checkpoint import load
from noether.checkpoint.manifest import MANIFEST
from noether.contents import WEIGHTS, memory
from noether.errors import CheckpointError, ConfigurationError
from noether.weights.files import read_file, unreadable
from noether.weights.fitting import place
from noether.weights.names import one_line, shown
from noether.weights.request import InitFrom

EXTRA = "_extra_state"
"""The last part of a name under which a module keeps what need not be a tensor."""


@dataclass(frozen=True, slots=True)
class Source:
    """Tensors by name, and where they were found."""

    tensors: Mapping[str, Tensor]
    extra: tuple[str, ...]
    """Names of a module's extra state, which is no weight."""
    where: str
    notes: tuple[str, ...] = ()


def source(request: InitFrom, pipeline: Pipeline) -> Source:
    """Read what is asked for; ConfigurationError or CheckpointError says why it can't be read."""
    path = Path(request.path)
    if path.is_dir():
        return _directory(path, request, pipeline)
    for name, value in (("checkpoint", request.checkpoint), ("weights", request.weights)):
        if value not in (None, LIVE):
            raise unreadable(path, f"{name} {value!r} are a run's, and this is no directory of one")
    return Source(*_dense(read_file(path), path), request.path)


def _directory(path: Path, request: InitFrom, pipeline: Pipeline) -> Source:
    directory, notes = path, tuple[str, ...]()
    if not (path / MANIFEST).is_file():
        _, found = store.chosen(path, request.checkpoint or "latest")
        directory, notes = found.directory, found.notes
    elif request.checkpoint is not None:
        raise unreadable(path, "checkpoint names one of a run, and this is a checkpoint itself")
    kept = held(directory, request.weights, pipeline)
    which = "" if request.weights == LIVE else f" ({request.weights})"
    return Source(*_dense(kept, directory), f"{directory}{which}", notes)


def _dense(kept: Mapping[Any, Any], path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors, and the names of extra state; ConfigurationError for anything else."""
    extra = tuple(n for n in kept if isinstance(n, str) and n.rpartition(".")[2] == EXTRA)
    tensors = {name: tensor for name, tensor in kept.items() if name not in extra}
    for name, tensor in tensors.items():
        if wrong := _no_weight(name, tensor):
            raise unreadable(path, f"{wrong}; expected a state dict, or one under a usual name")
    return tensors, extra


def _no_weight(name: Any, value: Any) -> str:
    """Why an entry is none of a state dict, if it is none."""
    if not isinstance(name, str):
        return f"it has a {type(name).__name__} for a name"
    if type(value) not in (Tensor, Parameter):
        return f"{shown(name)} is a {type(value).__name__}"
    if value.layout is not strided or value.is_quantized or value.is_meta:
        return f"{shown(name)} is no dense tensor"
    return ""


def held(directory: Path, weights: str, pipeline: Pipeline) -> dict[str, Any]:
    """A checkpoint's state dict, with an average in the place of the live weights if one is named.

    What the average leaves out, buffers say, is the live one's, as in an evaluation with it.
    """
    try:
        live = load(directory, WEIGHTS)
        if not isinstance(live, Mapping):
            raise CheckpointError(f"{directory / WEIGHTS} holds no state dict")
        if weights == LIVE:
            return dict(live)
        return _averaged(live, _average(directory, weights, pipeline))
    except CheckpointError as error:
        raise CheckpointError(one_line(str(error))) from error


def _average(directory: Path, weights: str, pipeline: Pipeline) -> Mapping[str, Tensor]:
    callback, own = keepers(pipeline)[weights]
    try:
        found: Mapping[str, Tensor] = callback.averages[own](memory(directory, callback))
    except (LookupError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            [
                f"{directory}: callback {callback.name!r} finds no weights {own!r} in the memory "
                "that is stored there; give it the options that it had in that run"
            ]
        ) from error
    return found


def _averaged(live: Mapping[str, Any], average: Mapping[str, Tensor]) -> dict[str, Any]:
    tensors = {name: value for name, value in live.items() if isinstance(value, Tensor)}
    tied = {place(tensors[name]): average[name] for name in average if name in tensors}
    tied.pop(None, None)
    moved = {n: average.get(n, tied.get(place(value), value)) for n, value in tensors.items()}
    if not any(moved[name] is not value for name, value in tensors.items()):
        raise CheckpointError("the average holds none of the checkpoint's weights")
    return {**live, **moved}
