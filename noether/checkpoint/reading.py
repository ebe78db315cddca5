"""Reading what is in a checkpoint."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from warnings import catch_warnings, simplefilter

import torch

from noether.checkpoint.encoding import ELSEWHERE, mapped, tensor_name
from noether.checkpoint.encoding import Path as TreePath
from noether.checkpoint.manifest import INDEX, Manifest, read_manifest
from noether.checkpoint.verification import verify_file
from noether.errors import CheckpointError, suggestion

Like = Callable[[TreePath, torch.Size], torch.Tensor | None]
"""The tensor that one at this place of a tree, of this size, is shared out among the ranks as."""


def load(directory: Path, name: str, like: Like | None = None) -> Any:
    """The tree in the file `name` of the checkpoint, on the CPU.

    What several ranks wrote is put together, or shared out among the present ones as `like` says.
    Digests are verified first; no code is ever run. Raises CheckpointError naming the file.
    """
    manifest = read_manifest(directory)
    if name not in manifest.files:
        hint = suggestion(name, manifest.files)
        raise CheckpointError(f"checkpoint {directory} holds no {name}. {hint}")
    tree = unpickled(directory / name, verify_file(manifest, name))
    return _filled(manifest, name, tree, like) if INDEX in manifest.files else tree


def unpickled(path: Path, copy: Path | BinaryIO | None = None) -> Any:
    """The tree of tensors and plain values that torch saved at `path`, on the CPU.

    `copy` is what to read in its place.
    No code in it is ever run. Raises CheckpointError with one line that names the file.
    """
    try:
        with catch_warnings():
            simplefilter("ignore")  # torch warns of what it then refuses, or reads all the same
            return torch.load(copy or path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be loaded: {_reason_of(error)}") from error


def _reason_of(error: Exception) -> str:
    """Torch's complaint in a line, without its advice to load the file in spite of it."""
    text = str(error)
    if stranger := re.search(r"GLOBAL ([\w.]+)", text):
        return (
            f"it names {stranger[1]}, which is neither a tensor nor a plain value; none of it ran"
        )
    words = text.partition("WeightsUnpickler error:")[2] or text.replace("\n", " ")
    said = words.strip().partition("\n")[0].partition(" In PyTorch 2.6")[0]
    return f"{type(error).__name__}: {said[:200]}" if said else f"a {type(error).__name__}"


def _filled(manifest: Manifest, name: str, tree: Any, like: Like | None) -> Any:
    """The tree with the tensors that the ranks' files hold."""
    from noether.checkpoint import sharding  # late: it takes long

    stored = sharding.read_index(manifest)
    targets: dict[str, torch.Tensor] = {}

    def allocate(path: TreePath, tensor: torch.Tensor) -> torch.Tensor:
        if (kept := stored.get(tensor_name(name, path))) is None:
            if tensor.shape == ELSEWHERE:
                where = manifest.directory / INDEX
                raise CheckpointError(f"{where} lacks the tensor at {name}, {path}")
            return tensor
        model = None if like is None else like(path, kept.size)
        made = torch.empty(kept.size) if model is None else torch.empty_like(model)
        targets[tensor_name(name, path)] = made = made.detach().to(kept.dtype)
        return made

    try:
        filled = mapped(tree, allocate)
    except RuntimeError as error:  # no memory is so large
        raise CheckpointError(f"{manifest.directory / INDEX} asks for too much: {error}") from error
    sharding.load(manifest, {key: stored[key] for key in targets}, targets)
    return filled
