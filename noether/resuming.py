"""Going on from a checkpoint: what is put back, and what is otherwise now."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from noether import randomness
from noether import store as storage
from noether.contents import restore
from noether.errors import ConfigurationError
from noether.randomness import seed_rank
from noether.session import Session


def go_on(session: Session, store: storage.Store, config: Mapping[str, Any]) -> int | None:
    """Go on from the store's checkpoint; gives the journal's size then."""
    for note in store.notes:
        session.world.console.say(note)
    found = store.begun_from
    if found is None:
        return 0
    for note in found.notes:
        session.world.console.warn(note)
    course = session.world.course
    session.carry, stored = restore(
        found.directory, session.world.machine, course, session.fold.pipeline
    )
    course.progress = replace(course.progress, session=course.progress.session + 1)
    if store.committed is None:  # another run's end is no end of this one
        session.carry = replace(session.carry, stops=(), closed=False, loads=())
    kind = type(session.world.machine.optimizer).__name__
    if stored["optimizer_kind"] != kind:
        raise ConfigurationError(
            [
                f"the optimizer is {kind}; the run in {found.directory} was begun with "
                f"{stored['optimizer_kind']}. Go on with that one"
            ]
        )
    if stored["length"] != session.feed.length:
        raise ConfigurationError(
            [
                f"the training set has {session.feed.length} samples; the run in "
                f"{found.directory} was begun with {stored['length']}. Go on with the same data"
            ]
        )
    before = storage.recorded_config(store, found.directory)
    for line in _differences(session, stored, before, config):
        session.world.console.say(line)
    session.feed = replace(session.feed, seed=stored["seed"])
    session.world.seed = stored["seed"]
    _restore_random(session, stored)
    session.world.console.say(f"resumed from {found.directory} at update {course.progress.update}")
    return 0 if store.committed is None else stored["journal"]


def _restore_random(session: Session, stored: Mapping[str, Any]) -> None:
    """Each rank's own random numbers; a rank that was not there before begins new ones."""
    rank = session.world.machine.ranks.rank
    states = [stored["random"], *stored.get("random_of_ranks", ())]
    if rank < len(states):
        randomness.restore(states[rank])
    else:
        seed_rank(stored["seed"], rank, session.world.course.progress.update)


def _differences(
    session: Session, stored: Mapping[str, Any], before: Any, config: Mapping[str, Any]
) -> Iterable[str]:
    """What the configuration says otherwise than the checkpoint's run, one line each."""
    for key, old, new in () if before is None else storage.changed(before, config):
        if key in ("run.checkpoint_dir", "checkpoint_dir"):
            continue  # another one was refused, and left out it is the one that is recorded
        if key in ("run.seed", "seed"):
            yield f"{key} stays {stored['seed']}, as the run was begun; {new} is for fresh runs"
        elif key.startswith("lr_scheduler."):
            yield f"{key} stays {old!r}: the checkpoint's scheduler goes on; {new!r} is not used"
        else:
            yield f"changed since the checkpoint: {key}: {old!r} -> {new!r}"
    given = session.world.machine.configured
    for key, old, new in storage.changed(stored["configured"], given, "optimizer"):
        yield f"changed since the checkpoint: {key}: {old!r} -> {new!r}"
    yield from _other_threads(session, stored.get("threads"))
    yield from _comings_and_goings(session, stored["names"])


def _other_threads(session: Session, before: int | None) -> Iterable[str]:
    here = torch.get_num_threads()
    if session.world.machine.device.type == "cpu" and before not in (None, here):
        yield (
            f"torch computes with {here} threads here, and with {before} before: results differ in "
            f"their last bits. OMP_NUM_THREADS={before}, or torch.set_num_threads({before}), goes "
            "on bit for bit"
        )


def _comings_and_goings(session: Session, before: Sequence[str]) -> Iterable[str]:
    names = {callback.name for callback in session.fold.pipeline}
    for name in before:
        if name not in names:
            yield f"callback {name!r} is gone; its memory is dropped"
    for callback in session.fold.pipeline:
        if callback.init is not None and callback.name not in before:
            yield f"callback {callback.name!r} is new and starts from its init"
