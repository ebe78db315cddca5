"""Whether the disk has room for the checkpoints that a run will keep, asked before it is full."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from noether.callback import Callback, Pipeline
from noether.checkpoint.encoding import encode, mapped
from noether.checkpoint.manifest import candidates
from noether.errors import CheckpointError
from noether.lines import told
from noether.machine import Machine
from noether.store import Store

CHECKPOINTING = "noether.hooks.checkpointing"


def forecast(
    store: Store, machine: Machine, memories: Mapping[str, Any], pipeline: Pipeline
) -> str | None:
    """What is to be said before the run of the room that its checkpoints will take."""
    size, kept = _estimate(machine, memories), sum(map(_kept, pipeline))
    try:
        free = store.storage.free(store.checkpoints)
        here = candidates(store.checkpoints).manifests
    except (OSError, CheckpointError):  # a save will tell
        return None
    held = sum(record.get("bytes", 0) for each in here for record in each.files.values())
    needed = size * (kept + 1) - held
    if not kept or needed <= free:
        return None
    return (
        f"too little space: {store.checkpoints} has room for {told(free)}, but {kept} checkpoints "
        f"of about {told(size)} will be kept, and one more is written before an old one goes; "
        "keep fewer, or make room"
    )


def shortage(store: Store, files: Any) -> str | None:
    """What is to be said before a checkpoint is written that the disk has no room for."""
    size = sum(map(_bytes, _tensors(files)))
    try:
        free = store.storage.free(store.checkpoints)
    except OSError:  # the save will tell
        return None
    if size <= free:
        return None
    room = f"{store.checkpoints} has room for {told(free)}"
    return f"too little space: {room}, the checkpoint takes {told(size)}"


def _estimate(machine: Machine, memories: Mapping[str, Any]) -> int:
    """Bytes of a checkpoint; what the optimizer will hold is reckoned where it is empty yet."""
    weights = sum(map(_bytes, (*machine.module.parameters(), *machine.module.buffers())))
    optimizer = sum(map(_bytes, _tensors(machine.optimizer.state_dict())))
    if not optimizer:
        groups = machine.optimizer.param_groups
        optimizer = sum(_slots(g) * _bytes(p) for g in groups for p in g["params"])
    remembered = _tensors(encode(dict(memories), "memories"))
    return weights + optimizer + sum(map(_bytes, remembered))


def _slots(group: Mapping[str, Any]) -> int:
    """How many numbers torch's optimizers hold for each weight, by their options."""
    options = ("betas", "betas", "amsgrad", "momentum", "alpha", "centered", "rho", "rho")
    return sum(bool(group.get(option)) for option in options)


def _kept(callback: Callback) -> int:
    """How many checkpoints stay for a built-in callback; 1 where it keeps all of them."""
    origin = callback.origin
    if origin is None or origin.module != CHECKPOINTING:
        return 0
    options = origin.options or {}
    kept = options.get("keep_last", options.get("keep_best"))
    return kept if isinstance(kept, int) else 1


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(tree, lambda _, tensor: found.append(tensor))
    return found


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
