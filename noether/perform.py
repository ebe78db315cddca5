"""The world's side of a tick: effects performed in their one order."""

import gc
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from noether import store as storage
from noether.checkpoint.encoding import encode
from noether.console import Console
from noether.distributed import from_first
from noether.effects import Do, Load, Log, Save, Say, Set, Write
from noether.errors import CheckpointError, NonFiniteError, suggestion
from noether.fold import Outcome
from noether.journal import row
from noether.loop import Course, judge
from noether.machine import Machine, apply_setting, weights_are_finite
from noether.storage import writing
from noether.turn import Carry, Failure, Request, fatal

MAX_FAILED_SAVES = 3

Actions = Mapping[str, Callable[..., Any]]
ACTIONS: Actions = {"collect_garbage": gc.collect, "empty_cache": torch.cuda.empty_cache}


@dataclass(slots=True)
class World:
    """What effects are performed upon."""

    machine: Machine
    course: Course
    seed: int
    length: int | None
    """Samples of the training set, where they are known."""
    console: Console
    store: storage.Store | None
    actions: Actions = field(default_factory=lambda: ACTIONS)
    warned: dict[str, int] = field(default_factory=dict)
    """Errors of observers, by callback."""


def perform(world: World, outcome: Outcome) -> None:
    """Perform a tick's effects in order; a `Stop` is the session's to obey."""
    write_row(world, outcome)
    show(world, outcome.requests)
    for request in outcome.requests:
        if isinstance(request.effect, Set):
            apply_setting(world.machine, request.effect.target, request.effect.value)
    saves = [r for r in outcome.requests if isinstance(r.effect, Save)]
    save(world, outcome.carry, saves, final=outcome.state.event == "end")
    _load(world, outcome)


def show(world: World, requests: Sequence[Request]) -> None:
    """Perform `Say`, `Write` and `Do`."""
    for request in requests:
        _show(world, request)


def _show(world: World, request: Request) -> None:
    effect = request.effect
    if isinstance(effect, Say):
        world.console.say(effect.text)
    elif isinstance(effect, Write):
        _write(world, effect)
    elif isinstance(effect, Do):
        if effect.action not in world.actions:
            hint = suggestion(effect.action, world.actions)
            raise LookupError(f"{request.by!r} asks to do {effect.action!r}, unknown here. {hint}")
        world.actions[effect.action](**effect.options)


def _load(world: World, outcome: Outcome) -> None:
    for request in outcome.requests:
        if not isinstance(request.effect, Load):
            continue
        if outcome.state.event != "end" or world.store is None:
            raise CheckpointError(
                f"{request.by!r} asks for {request.effect}, which is served on the closing tick "
                "of a run with a run_dir"
            )
        storage.load_tagged(world.store, request.effect.tag, world.machine)


def _write(world: World, effect: Write) -> None:
    if world.store is None:
        world.console.warn(f"{effect.name} is not written: the run has no run directory")
        return
    if world.machine.ranks.rank:
        return
    folder = world.store.run / "outputs"
    folder.mkdir(exist_ok=True)
    path = folder / f"{effect.name.replace('/', '.')}.pt"
    with writing(path) as sink:
        torch.save(encode(effect.payload, effect.name), sink)  # type: ignore[arg-type]


def write_row(world: World, outcome: Outcome) -> None:
    """Write the tick's journal row, if anything happened in it."""
    state = outcome.state
    boundary = state.event != "update"
    if world.store is None or world.store.journal is None or not (outcome.requests or boundary):
        return
    metrics = {name: state.metrics[name] for name in sorted(state.fresh)}
    effects = [described(request) for request in outcome.requests]
    tick: Any = state.event
    world.store.journal.append(row(tick, state.now, metrics=metrics, effects=effects))


def described(request: Request) -> dict[str, Any]:
    """A request as the journal tells it."""
    told: dict[str, Any] = {"by": request.by, "hook": request.hook, **_details(request.effect)}
    return told


def _details(effect: Any) -> dict[str, Any]:
    if effect is None:
        return {"kind": "fire"}
    kind = type(effect).__name__.lower()
    if isinstance(effect, Log):
        return {"kind": kind, "metrics": sorted(effect.metrics)}
    if isinstance(effect, Write):
        return {"kind": kind, "name": effect.name}
    names = effect.__slots__
    return {"kind": kind, **{name: getattr(effect, name) for name in names}}


def save(
    world: World, carry: Carry, requests: Sequence[Request], *, final: bool = False
) -> Path | None:
    """Commit one checkpoint for these requests.

    A failure is reported and training goes on; the third in a row, or one of a `final` save,
    raises CheckpointError. Weights that are not finite raise NonFiniteError and are never saved.
    """
    if not requests:
        return None
    if world.store is None:
        raise CheckpointError(f"{requests[0].by!r} asks to save, but the run has no run_dir")
    judge(world.course)
    if not weights_are_finite(world.machine):
        update = world.course.progress.update
        raise NonFiniteError(f"the weights are not finite at update {update}; nothing was saved")
    try:
        directory = _commit(world, world.store, carry, requests)
    except (CheckpointError, OSError) as error:
        world.store.failed += 1
        if final or world.store.failed >= MAX_FAILED_SAVES:
            raise
        world.console.warn(f"{error}; training goes on")
        return None
    world.store.failed = 0
    return directory


def _commit(world: World, store: storage.Store, carry: Carry, requests: Sequence[Request]) -> Path:
    journal = store.journal
    size = None if journal is None else journal.position()
    trees = storage.trees(
        world.machine,
        world.course,
        carry,
        seed=world.seed,
        length=world.length,
        journal=size,
    )
    progress = trees[storage.STATE]["progress"]
    about = {"update": progress["update"], "progress": progress}
    ranks = world.machine.ranks
    directory = from_first(ranks, lambda: storage.save(store, requests, trees, about))
    store.committed = about["update"]
    return directory


def tell_failures(world: World, failures: Sequence[Failure]) -> list[Failure]:
    """Report the observers' errors; gives the failures that end the run."""
    found = []
    for failure in failures:
        name = failure.callback.name
        if fatal(failure.callback):
            found.append(failure)
            continue
        world.warned[name] = world.warned.get(name, 0) + 1
        if world.warned[name] == 1:
            told = "".join(traceback.format_exception(failure.error)).rstrip()
            which = f"callback {name!r} failed in {failure.hook}"
            world.console.warn(f"{which}; the run goes on\n{told}", own=True)
    return found
