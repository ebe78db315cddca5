"""The weights of a checkpoint, written into a file of their own."""

import json
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from os.path import lexists
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noether import store
from noether.averages import LIVE, keepers
from noether.callback import Callback, Pipeline, chain
from noether.checkpoint import Found
from noether.console import Console
from noether.errors import CheckpointError, ConfigurationError, suggestion
from noether.weights.files import ALIASES, CODES, SAFETENSORS, library, write_safetensors
from noether.weights.fitting import place
from noether.weights.names import listed, one_line
from noether.weights.sources import held

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def export_weights(
    run: str | Path,
    path: str | Path | None = None,
    *,
    checkpoint: str = "latest",
    weights: str = LIVE,
    dtype: str | torch.dtype | None = None,
    callbacks: "Callback | Iterable[Callback]" = (),
    force: bool = False,
) -> Path:
    """Write the weights of a run's checkpoint into one safetensors file; gives its path.

    Tied weights are stored once, their other names in the file's metadata. The file is complete or
    absent, and takes no other's place but with `force`.

    run: a run directory, or a series of them, whose newest is meant.
    path: a name that ends with .safetensors; None: the checkpoint's own, in the run directory.
    checkpoint: "latest", "best", or the tag of one.
    weights: "live", or an average, which is found by the callback of the run that keeps it: give
        the run's `callbacks` then, those of `noether.load(...)` for a run from YAML.
    dtype: float16, bfloat16 or float32, for all floating tensors; None leaves them as they are.

    Raises ConfigurationError before anything is written, CheckpointError for a checkpoint that
    can't be read, or a file that can't be written.

    >>> import tempfile, torch, noether
    >>> from noether import hooks
    >>> data = torch.utils.data.TensorDataset(torch.eye(2), torch.eye(2))
    >>> with tempfile.TemporaryDirectory() as runs:  # doctest: +ELLIPSIS
    ...     final = noether.train(torch.nn.Linear(2, 2), data, until={"epochs": 3}, run_dir=runs,
    ...         loss=lambda model, batch: (model(batch[0]) - batch[1]).square().mean(),
    ...         optimizer=torch.optim.SGD, callbacks=hooks.checkpoint(), defaults=False)
    ...     noether.export_weights(runs).name
    run directory ...
    'step-3.safetensors'
    """
    given: Any = callbacks
    single = isinstance(given, Callback) or callable(given)
    pipeline = chain(given if single else tuple(given))
    kind = str(dtype).removeprefix("torch.")
    _check(path, kind, weights, pipeline)
    library()
    directory, found = store.chosen(Path(run), checkpoint)
    target = _target(directory, found, weights) if path is None else Path(path)
    _check_target(target, force=force)
    kept = held(found.directory, weights, pipeline)
    tensors, aliases, beside = separated(kept)
    tensors = converted(tensors, DTYPES.get(kind))
    metadata = _about(found, weights) | ({ALIASES: json.dumps(aliases)} if aliases else {})
    try:
        write_safetensors(target, tensors, metadata, force=force)
    except FileExistsError as error:
        raise ConfigurationError([_there(target)]) from error
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from error
    _tell(target, found, tensors, aliases, beside)
    return target


# ---------------------------------------------------------------- what is asked for


def _check(path: Any, kind: str, weights: str, pipeline: Pipeline) -> None:
    problems = []
    if path is not None and Path(path).suffix != SAFETENSORS:
        problems.append(f"the file is {str(path)!r}; expected a name that ends with {SAFETENSORS}")
    if kind not in (*DTYPES, "None"):
        problems.append(f"dtype is {kind!r}. {suggestion(kind, DTYPES)}")
    known = keepers(pipeline)
    if weights not in (LIVE, *known):
        way = "" if pipeline else "; give those of the run, callbacks=..."
        hint = suggestion(weights, {LIVE, *known})
        problems.append(f"weights {weights!r} are kept by no callback{way}. {hint}")
    if problems:
        raise ConfigurationError(problems)


def _target(run: Path, found: Found, weights: str) -> Path:
    which = "" if weights == LIVE else "-" + re.sub(r"[^\w.=-]", "-", weights)
    return run / f"{found.manifest.name}{which}{SAFETENSORS}"


def _check_target(target: Path, *, force: bool) -> None:
    if target.is_dir() or (lexists(target) and not force):
        raise ConfigurationError([_there(target)])
    if not target.parent.is_dir():
        raise ConfigurationError(
            [f"{target}: there is no directory {target.parent}; make it first"]
        )


def _there(target: Path) -> str:
    way = "give another name" if target.is_dir() else "give another name, or force (--force)"
    return f"{target} is there already; {way}"


# ---------------------------------------------------------------- what is written


def separated(
    kept: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, str], tuple[str, ...]]:
    """Tensors that share no memory, the other names of tied ones, and what is no tensor.

    >>> weight = torch.ones(2)
    >>> tensors, aliases, _ = separated({"embed.weight": weight, "head.weight": weight})
    >>> list(tensors), aliases
    (['embed.weight'], {'head.weight': 'embed.weight'})
    """
    first: dict[object, str] = {}
    tensors, aliases, beside, taken = {}, {}, [], set()
    for name, value in kept.items():
        if not isinstance(value, Tensor) or value.dtype not in CODES:
            beside.append(name)
            continue
        spot = place(value)
        if spot is not None and first.setdefault(spot, name) != name:
            aliases[name] = first[spot]
            continue
        storage = value.untyped_storage().data_ptr()
        own = value.detach().cpu().contiguous()
        tensors[name] = own.clone() if storage in taken else own
        taken.add(storage)
    return tensors, aliases, tuple(beside)


def converted(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The floating ones in another type; ConfigurationError where a finite number has no place."""
    made = {
        name: tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
        for name, tensor in tensors.items()
    }
    over = [
        n for n, tensor in made.items() if tensor is not tensors[n] and _lost(tensor, tensors[n])
    ]
    if over:
        raise ConfigurationError(
            [f"dtype: numbers of {listed(over)} are too large for {dtype}; use bfloat16 or none"]
        )
    return made


def _lost(made: Tensor, before: Tensor) -> bool:
    return not torch.equal(torch.isfinite(made), torch.isfinite(before))


def _about(found: Found, weights: str) -> dict[str, str]:
    """The file's metadata, all of it text."""
    manifest = found.manifest
    counts = {key: manifest.progress.get(key) for key in ("epoch", "sample")}
    tags = dict.fromkeys(claim.tag for claim in manifest.claims)
    about = {"update": manifest.update, **counts, "tag": ", ".join(tags), "weights": weights}
    # Without the format, transformers refuses the file.
    return {key: str(value) for key, value in about.items()} | {"noether": _ours(), "format": "pt"}


def _ours() -> str:
    try:
        return version("noether-callbacks")
    except PackageNotFoundError:
        return "unknown"


def _tell(
    target: Path,
    found: Found,
    tensors: Mapping[str, Tensor],
    aliases: Mapping[str, str],
    beside: tuple[str, ...],
) -> None:
    parts = [f"{len(tensors)} tensors of {found.manifest.name}"]
    parts += [f"tied to them {listed(aliases)}"] if aliases else []
    parts += [f"left out, as no tensors: {listed(beside)}"] if beside else []
    Console().say(one_line(f"{target}: {', '.join(parts)}"))
