"""Checkpoints as a run makes them: at once, or while it trains on, and what follows a failure."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from noether import store as storage
from noether.checkpoint import find
from noether.checkpoint.staging import staged
from noether.checkpoint.verification import let_go
from noether.contents import load_weights, spread, trees
from noether.effects import Save
from noether.errors import CheckpointError, NonFiniteError
from noether.loop import judge
from noether.machine import Machine, weights_are_finite
from noether.space import shortage
from noether.store import Store
from noether.turn import Carry, Request
from noether.world import World

MAX_FAILED_SAVES = 3


def core_save(tag: str) -> Request:
    """A checkpoint that the core itself asks for."""
    return Request("noether", "core", Save(tag, keep_last=1))


def save(world: World, carry: Carry, requests: Sequence[Request], *, final: bool = False) -> None:
    """Commit one checkpoint for these requests, in the background where the run wants that.

    A failure is reported and training goes on; the third in a row, or one of a `final` save, which
    is never made in the background, raises CheckpointError. Weights that are not finite raise
    NonFiniteError and are never saved.
    """
    if not requests:
        return
    store = world.store
    if store is None:
        raise CheckpointError(f"{requests[0].by!r} asks to save, but the run has no run_dir")
    judge(world.course)
    if not weights_are_finite(world.machine):
        update = world.course.progress.update
        raise NonFiniteError(f"the weights are not finite at update {update}; nothing was saved")
    settle(world)  # one at a time: training waits for storage that is slower than the saves come
    if not final:
        give_up(world)
    try:
        _save(world, store, carry, requests, behind=store.staging is not None and not final)
    except (CheckpointError, OSError) as error:
        if final:
            raise
        _note_failure(world, store, error)
    give_up(world)


def _save(
    world: World, store: Store, carry: Carry, requests: Sequence[Request], *, behind: bool
) -> None:
    update = world.course.progress.update
    files = _files(world, store, carry)
    if store.lock is not None and (said := shortage(store, files)):
        world.console.warn(said)
    which = None if world.machine.ranks.size == 1 else spread(world.machine)
    if behind and store.staging is not None:
        copy = staged(store.staging, files)

        def work() -> str | None:
            storage.save(store, requests, copy, which)
            return storage.tidy(store)

        storage.behind(store, update, work)
    else:
        storage.save(store, requests, files, which)
        _note_success(store, update)
        # What is old is verified against and removed while training goes on.
        storage.behind(store, update, partial(storage.tidy, store))


def _files(world: World, store: Store, carry: Carry) -> dict[str, Any]:
    journal = None if store.journal is None else store.journal.position()
    more: Mapping[str, Any] = {"seed": world.seed, "length": world.length, "journal": journal}
    return trees(world.machine, world.course, carry, **more)


def _note_failure(world: World, store: Store, error: Exception) -> None:
    store.failures.append(error)
    if not failing(world):
        world.console.warn(f"{error}; training goes on")


def _note_success(store: Store, update: int) -> None:
    store.committed, store.failures = update, []


def settle(world: World, *, wait: bool = True) -> None:
    """Take note of what has become of the work in the background, if it is over."""
    store = world.store
    if store is None or (pending := store.pending) is None:
        return
    if not wait and not pending.future.done():
        return
    store.pending = None
    try:
        said = pending.future.result()
    except (CheckpointError, OSError) as error:
        _note_failure(world, store, error)
        return
    _note_success(store, pending.update)
    if said is not None:
        world.console.warn(said)


def failing(world: World) -> bool:
    """Whether so many saves in a row have failed that the run has to end."""
    return world.store is not None and len(world.store.failures) >= MAX_FAILED_SAVES


def give_up(world: World) -> None:
    """Raise the last failure where they are too many."""
    if world.store is not None and failing(world):
        raise world.store.failures[-1]


def load_tagged(folder: Path, tag: str, machine: Machine) -> None:
    """Put the weights of the checkpoint with `tag` into the model."""
    found = find(folder, tag)
    if found is None:
        raise CheckpointError(f"Load({tag!r}): {folder} holds no checkpoint of that tag")
    load_weights(found.directory, machine)
    let_go()
