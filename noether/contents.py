"""What a checkpoint holds of a run, and putting it back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from noether.callback import HOOKS, Callback
from noether.checkpoint import Like, load
from noether.checkpoint.encoding import Path as TreePath
from noether.checkpoint.encoding import decode, encode, mapped, memory_types
from noether.checkpoint.verification import let_go
from noether.distributed import gathered
from noether.errors import CheckpointError, ConfigurationError, suggestion
from noether.feed import to_device
from noether.hyper import reconfigure
from noether.loop import Course
from noether.machine import Machine
from noether.progress import Progress
from noether.randomness import capture
from noether.settings import train_or_freeze
from noether.store import STATE
from noether.turn import Carry

WEIGHTS = "weights.pt"


def trees(
    machine: Machine,
    course: Course,
    carry: Carry,
    *,
    seed: int,
    length: int | None,
    journal: int | None,
) -> dict[str, Any]:
    """Everything a run is, as trees of tensors and plain values, by file name."""
    random = gathered(machine.ranks, capture())
    state = {
        "progress": asdict(course.progress),
        "offset": course.offset,
        "skipped": course.skipped,
        "seed": seed,
        "optimizer": machine.optimizer.state_dict(),
        "optimizer_kind": type(machine.optimizer).__name__,
        "configured": machine.configured,
        "scheduler": None if machine.scheduler is None else machine.scheduler.state_dict(),
        "schedules": dict(carry.schedules),
        "metrics": dict(carry.metrics),
        "fired": sorted(carry.fired),
        "stops": carry.stops,
        "closed": carry.closed,
        "loads": carry.loads,
        "length": length,
        "threads": torch.get_num_threads(),
        "trainable": {n: p.requires_grad for n, p in machine.module.named_parameters()},
        "random": random[0],
        "random_of_ranks": random[1:],
        "journal": journal,
    }
    memories = {n: encode(m, f"memory of callback {n!r}") for n, m in carry.memories.items()}
    return {
        WEIGHTS: encode(machine.module.state_dict(), "weights"),
        STATE: {**encode(state, "state"), "memories": memories},
    }


def spread(machine: Machine) -> Callable[[str, TreePath, torch.Tensor], bool]:
    """Which tensors the ranks write together: those shared out, and those equal on all of them.

    Buffers are not: each rank may have its own, and a run goes on with those of rank 0.
    """
    learned = {name for name, _ in machine.module.named_parameters()}

    def picked(file: str, path: TreePath, tensor: torch.Tensor) -> bool:
        if file == WEIGHTS:
            return path[0] in learned
        return hasattr(tensor, "placements") or path[:2] == ("optimizer", "state")

    return picked


def _like(machine: Machine, file: str) -> Like | None:
    """Which tensors the ranks share out among themselves, and how."""
    if not machine.lockstep:
        return None
    named = dict(machine.module.named_parameters())

    def found(path: TreePath, size: torch.Size) -> torch.Tensor | None:
        if path[:2] == ("optimizer", "state"):
            model = dict(enumerate(machine.parameters)).get(path[2])
        elif file == WEIGHTS or path[0] == "memories":
            model = named.get(path[-1])
        else:
            return None
        return model if model is not None and model.shape == size else None

    return found


def _loaded(directory: Path, file: str, machine: Machine) -> Any:
    """A file's tree, its tensors as this rank holds them."""
    like = _like(machine, file)
    tree = load(directory, file, like)
    if like is None:
        return tree
    from noether.parallel import shared_out  # late: it takes longer than all of noether

    return mapped(tree, lambda path, tensor: shared_out(tensor, like(path, tensor.shape)))


def restore(
    directory: Path, machine: Machine, course: Course, callbacks: Sequence[Callback]
) -> tuple[Carry, dict[str, Any]]:
    """Put a checkpoint into machine and course; gives the carry, and all that was stored.

    Raises CheckpointError naming what does not fit.
    """
    load_weights(directory, machine)
    stored = _loaded(directory, STATE, machine)
    state = decode({k: v for k, v in stored.items() if k != "memories"}, {})
    given = machine.configured
    try:
        machine.optimizer.load_state_dict(state["optimizer"])
        if machine.scheduler is not None and state["scheduler"] is not None:
            machine.scheduler.load_state_dict(state["scheduler"])
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{directory / STATE} does not fit this run: {error}") from error
    reconfigure(machine.optimizer, machine.scheduler, state["configured"], given)
    named = dict(machine.module.named_parameters())
    flags = state["trainable"]
    train_or_freeze(machine, [(p, flags[name]) for name, p in named.items() if name in flags])
    course.progress = Progress(**state["progress"])
    course.offset, course.skipped = state["offset"], state["skipped"]
    memories = _memories(stored, machine, callbacks)
    carry = Carry(
        memories,
        state["schedules"],
        state["metrics"],
        frozenset(state["fired"]),
        state["stops"],
        state.get("closed", False),  # not in checkpoints of the first versions
        state.get("loads", ()),
    )
    let_go()
    return carry, state | {"names": tuple(stored["memories"])}


def recall(
    directory: Path, machine: Machine, callbacks: Sequence[Callback]
) -> tuple[Carry, Progress]:
    """Put a checkpoint's weights into the model; gives its memories and counts, and no more."""
    load_weights(directory, machine)
    stored = _loaded(directory, STATE, machine)
    let_go()
    progress = Progress(**decode(stored["progress"], {}))
    return Carry(_memories(stored, machine, callbacks)), progress


def _memories(
    stored: Mapping[str, Any], machine: Machine, callbacks: Sequence[Callback]
) -> dict[str, Any]:
    return {
        callback.name: _memory(callback, stored["memories"][callback.name], machine.device)
        for callback in callbacks
        if callback.name in stored["memories"]
    }


def memory(directory: Path, callback: Callback) -> Any:
    """What a checkpoint holds of a callback's memory, on the CPU; CheckpointError if nothing."""
    stored = load(directory, STATE)["memories"]
    if callback.name not in stored:
        hint = suggestion(callback.name, stored)
        raise CheckpointError(f"{directory} holds no memory of callback {callback.name!r}. {hint}")
    return _memory(callback, stored[callback.name], torch.device("cpu"))


def load_weights(directory: Path, machine: Machine) -> None:
    """Put a checkpoint's weights into the model; raises CheckpointError where they do not fit."""
    try:
        machine.module.load_state_dict(_loaded(directory, WEIGHTS, machine))
    except RuntimeError as error:
        raise CheckpointError(f"{directory / WEIGHTS} does not fit the model: {error}") from error


def _memory(callback: Callback, tree: Any, device: torch.device) -> Any:
    hooks = [getattr(callback, name) for name in ("init", *HOOKS)]
    types = memory_types([hook for hook in hooks if hook is not None])
    return decode(to_device(tree, device), types)


def check_memories(callbacks: Sequence[Callback], carry: Carry) -> None:
    """Prove before training that every memory can be stored and read back.

    Raises ConfigurationError naming each callback whose memory cannot.
    """
    problems = []
    for callback in callbacks:
        if callback.name in carry.memories:
            try:
                tree = encode(carry.memories[callback.name], f"memory of {callback.name!r}")
                _memory(callback, tree, torch.device("cpu"))
            except (TypeError, CheckpointError) as error:
                problems.append(str(error))
    if problems:
        raise ConfigurationError(problems)
