"""What a run keeps in its run directory: opening it, saving into it, and coming back from it."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from noether.callback import HOOKS, Callback
from noether.checkpoint import Found, find, load, newest
from noether.checkpoint.commit import commit
from noether.checkpoint.encoding import decode, encode, memory_types
from noether.checkpoint.manifest import MANIFEST, candidates, verify
from noether.checkpoint.retention import clean, prune
from noether.distributed import gathered, this_launch
from noether.effects import Save
from noether.errors import CheckpointError, ConfigurationError, RunLockedError, suggestion
from noether.feed import to_device
from noether.journal import Journal, open_journal
from noether.loop import Course
from noether.machine import Machine, reconfigure
from noether.progress import Progress
from noether.randomness import capture
from noether.rundir import CHECKPOINTS, Lock, lock, new_run, probe, read_status, runs, write_status
from noether.turn import Carry, Request

WEIGHTS, STATE, CONFIG = "weights.pt", "state.pt", "config.yaml"


@dataclass(slots=True)
class Store:
    """An owned run directory."""

    run: Path
    lock: Lock | None
    """None on all ranks but the first, which alone writes."""
    begun_from: Found | None
    """The checkpoint that this session goes on from."""
    journal: Journal | None = None
    committed: int | None = None
    failed: int = 0
    """Saves in a row that failed."""
    notes: list[str] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        return self.run / CHECKPOINTS


def finished(series: Path, resume: str) -> Path | None:
    """The run that `resume` names, when it is done already."""
    run = _named(series, resume)
    return run if run is not None and read_status(run).get("state") == "done" else None


def goes_on(series: Path, resume: str) -> bool:
    """Whether a session would go on from a checkpoint; only looks, and opens nothing."""
    run = _named(series, resume)
    if run is None:
        return resume not in ("never", "auto", "must")
    return bool(candidates(run / CHECKPOINTS).manifests)


def chosen(run: Path, checkpoint: str) -> tuple[Path, Found]:
    """A run directory, or the newest one of a series, and its latest, best or tagged checkpoint.

    Raises ConfigurationError where there is none, CheckpointError where all are damaged.
    """
    if not (run / CHECKPOINTS).is_dir():
        newest_run = next(iter(runs(run)), None)
        if newest_run is None:
            raise ConfigurationError([f"{run} is no run directory, nor a series of them"])
        run = newest_run
    folder = run / CHECKPOINTS
    found = newest(folder) if checkpoint == "latest" else find(folder, checkpoint)
    if found is None:
        which = "no checkpoint" if checkpoint == "latest" else f"none of the tag {checkpoint!r}"
        raise ConfigurationError([f"{folder} holds {which}; known tags: {_tags(folder)}"])
    return run, found


def _tags(folder: Path) -> str:
    tags = {claim.tag for manifest in candidates(folder).manifests for claim in manifest.claims}
    return ", ".join(sorted(tags)) or "none"


def open_store(series: Path, resume: str) -> Store:
    """The run directory that this session writes, locked and swept.

    `never` makes the next one of the series; `auto` goes on with the newest, or makes one; `must`
    only goes on; a path names a run to go on with, or a checkpoint that a new run starts from.

    Raises ConfigurationError where there is nothing to go on with, CheckpointError where all
    checkpoints are damaged, RunLockedError where another process owns the run.
    """
    run = _named(series, resume)
    if run is None and resume == "must":
        raise ConfigurationError([f"resume 'must': there is no run in {series}; use 'auto'"])
    found = None
    if run is None:
        if resume not in ("never", "auto"):
            found = Found(_explicit(Path(resume)))
        run = new_run(series)
    owned = lock(run)
    store = Store(run, owned, found)
    try:
        store.notes += clean(store.checkpoints)
        if read_status(run).get("state") == "done":
            raise RunLockedError(f"{run} was ended by another process just now; start again")
        store.begun_from = found or newest(store.checkpoints)
        if found is None and store.begun_from is not None:
            store.committed = store.begun_from.manifest.update
        if store.begun_from is None and resume == "must":
            raise ConfigurationError([f"resume 'must': {run} holds no checkpoint; use 'auto'"])
        probe(run)
    except BaseException:
        owned.release()
        raise
    return store


def last_launch(series: Path) -> Any:
    """What started the newest run of a series, if a launcher did."""
    run = next(iter(runs(series)), None)
    return None if run is None else read_status(run).get("launch")


def _named(series: Path, resume: str) -> Path | None:
    """The run to go on with; None: a new one."""
    if resume == "never":
        return None
    if resume in ("auto", "must"):
        return next(iter(runs(series)), None)
    return Path(resume) if (Path(resume) / CHECKPOINTS).is_dir() else None


def _explicit(path: Path) -> Any:
    if not (path / MANIFEST).is_file():
        raise ConfigurationError(
            [
                f"resume {str(path)!r} is neither auto, must, never, a run directory, "
                f"nor a checkpoint with a {MANIFEST}"
            ]
        )
    return verify(path)


def begin_journal(store: Store, size: int | None, config: Mapping[str, Any]) -> None:
    """Open the journal, cut back to what the checkpoint knew, and write the configuration."""
    if store.lock is None:
        return
    path = store.run / "journal.jsonl"
    store.journal = open_journal(path, size=size)
    # A closing tick that failed is made again, so its row is not the last word.
    store.journal.cut_last("end")
    text = yaml.safe_dump(dict(config), sort_keys=False)
    (store.run / CONFIG).write_text(text, encoding="utf-8")


def close_store(store: Store) -> None:
    """Close the journal and give the run directory back."""
    if store.journal is not None:
        store.journal.close()
    if store.lock is not None:
        store.lock.release()


def status(store: Store, state: str, now: Progress, **more: Any) -> None:
    """Write `status.json`: the state, the last committed update, and a heartbeat."""
    if store.lock is None:
        return
    here = {"update": store.committed, "at_update": now.update, "session": now.session}
    here["launch"] = this_launch()
    write_status(store.run, state=state, **here, heartbeat=time.time(), pid=os.getpid(), **more)


def recorded_config(directory: Path) -> Any:
    """The configuration beside a checkpoint's run; None where there is none to read."""
    path = directory.parent.parent / CONFIG
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def changed(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted path, old and new value wherever two configurations differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            deeper = f"{path}.{key}" if path else str(key)
            yield from changed(before.get(key), after.get(key), deeper)
    elif before != after:
        yield path, before, after


def save(
    store: Store, requests: Sequence[Request], trees: Mapping[str, Any], about: Mapping[str, Any]
) -> Path:
    """Commit one checkpoint for all these requests, then prune; raises CheckpointError."""
    claims = [{"by": r.by, **asdict(r.effect)} for r in requests if isinstance(r.effect, Save)]
    if store.journal is not None:
        store.journal.sync()
    directory = commit(store.checkpoints, trees, {**about, "claims": claims})
    prune(store.checkpoints)
    return directory


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
    weights, optimizer, remembered = _assembled(machine, carry)
    random = gathered(machine.ranks, capture())
    state = {
        "progress": asdict(course.progress),
        "offset": course.offset,
        "skipped": course.skipped,
        "seed": seed,
        "optimizer": optimizer,
        "optimizer_kind": type(machine.optimizer).__name__,
        "configured": machine.configured,
        "scheduler": None if machine.scheduler is None else machine.scheduler.state_dict(),
        "schedules": dict(carry.schedules),
        "metrics": dict(carry.metrics),
        "fired": sorted(carry.fired),
        "stops": carry.stops,
        "length": length,
        "trainable": {n: p.requires_grad for n, p in machine.module.named_parameters()},
        "random": random[0],
        "random_of_ranks": random[1:],
        "journal": journal,
    }
    memories = {n: encode(m, f"memory of callback {n!r}") for n, m in remembered.items()}
    return {
        WEIGHTS: encode(weights, "weights"),
        STATE: {**encode(state, "state"), "memories": memories},
    }


def _assembled(machine: Machine, carry: Carry) -> tuple[Any, Any, Mapping[str, Any]]:
    """Weights, optimizer and memories; what is shared out among the ranks put together."""
    weights, optimizer = machine.module.state_dict(), machine.optimizer.state_dict()
    if not machine.lockstep:
        return weights, optimizer, carry.memories
    from noether.parallel import whole  # late: it takes longer than all of noether

    return whole(weights), whole(optimizer), whole(carry.memories)


def restore(
    directory: Path, machine: Machine, course: Course, callbacks: Sequence[Callback]
) -> tuple[Carry, dict[str, Any]]:
    """Put a checkpoint into machine and course; gives the carry, and all that was stored.

    Raises CheckpointError naming what does not fit.
    """
    load_weights(directory, machine)
    stored = load(directory, STATE)
    state = decode({k: v for k, v in stored.items() if k != "memories"}, {})
    given = machine.configured
    try:
        machine.optimizer.load_state_dict(_optimizer_state(machine, state["optimizer"]))
        if machine.scheduler is not None and state["scheduler"] is not None:
            machine.scheduler.load_state_dict(state["scheduler"])
        for name, parameter in machine.module.named_parameters():
            parameter.requires_grad_(state["trainable"].get(name, parameter.requires_grad))
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{directory / STATE} does not fit this run: {error}") from error
    reconfigure(machine, state["configured"], given)
    course.progress = Progress(**state["progress"])
    course.offset, course.skipped = state["offset"], state["skipped"]
    memories = _memories(stored, machine, callbacks)
    fired = frozenset(state["fired"])
    carry = Carry(memories, state["schedules"], state["metrics"], fired, state["stops"])
    return carry, state | {"names": tuple(stored["memories"])}


def _optimizer_state(machine: Machine, stored: Any) -> Any:
    """The optimizer's state as this rank holds it."""
    if not machine.lockstep:
        return stored
    from noether.parallel import shared_out  # late: it takes longer than all of noether

    state = {
        number: {
            name: shared_out(value, machine.parameters[number])
            if isinstance(value, torch.Tensor)
            else value
            for name, value in entry.items()
        }
        for number, entry in stored["state"].items()
    }
    return {**stored, "state": state}


def _weights(machine: Machine, stored: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The weights as this rank holds them."""
    if not machine.lockstep:
        return stored
    from noether.parallel import shared_out  # late: it takes longer than all of noether

    own = machine.module.state_dict()
    return {name: shared_out(value, own.get(name)) for name, value in stored.items()}


def recall(
    directory: Path, machine: Machine, callbacks: Sequence[Callback]
) -> tuple[Carry, Progress]:
    """Put a checkpoint's weights into the model; gives its memories and counts, and no more."""
    load_weights(directory, machine)
    stored = load(directory, STATE)
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
        machine.module.load_state_dict(_weights(machine, load(directory, WEIGHTS)))
    except RuntimeError as error:
        raise CheckpointError(f"{directory / WEIGHTS} does not fit the model: {error}") from error


def load_tagged(store: Store, tag: str, machine: Machine) -> None:
    """Put the weights of the checkpoint with `tag` into the model."""
    found = find(store.checkpoints, tag)
    if found is None:
        raise CheckpointError(f"Load({tag!r}): {store.checkpoints} holds no checkpoint of that tag")
    load_weights(found.directory, machine)


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
