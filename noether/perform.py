"""The world's side of a tick: effects performed in their one order."""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noether.averages import weights
from noether.effects import Do, Export, Load, Log, Save, Say, Set, Write
from noether.errors import CheckpointError, ConfigurationError, suggestion
from noether.fold import Outcome
from noether.journal import row
from noether.loop import paused
from noether.outputs import write
from noether.saving import load_tagged, save, settle
from noether.settings import apply_setting
from noether.state import Event, TrainState
from noether.trackers import Line, Output
from noether.trackers.sending import send, trouble
from noether.turn import Failure, Request, fatal
from noether.weights.live import export
from noether.world import World

WEIGHTS = "weights"


def perform(world: World, outcome: Outcome) -> None:
    """Perform a tick's effects in order; a `Stop` is the session's to obey."""
    write_row(world, outcome)
    if world.senders:
        track(world, outcome.state)
    if not outcome.requests:
        return
    show(world, outcome)
    for request in outcome.requests:
        if isinstance(request.effect, Set):
            apply_setting(world.machine, request.effect.target, request.effect.value)
    saves = [r for r in outcome.requests if isinstance(r.effect, Save)]
    if saves:
        with paused(world.course):
            save(world, outcome.carry, saves, final=outcome.state.event == "end")
    _load(world, outcome)


def show(world: World, outcome: Outcome) -> None:
    """Perform `Say`, `Export`, `Write` and `Do`."""
    for request in outcome.requests:
        _show(world, request, outcome)


def _show(world: World, request: Request, outcome: Outcome) -> None:
    effect = request.effect
    if isinstance(effect, Say):
        world.console.say(effect.text, routine=effect.routine)
    elif isinstance(effect, Write | Export):
        _put(world, effect, outcome)
    elif isinstance(effect, Do):
        if effect.action not in world.actions:
            hint = suggestion(effect.action, world.actions)
            raise LookupError(f"{request.by!r} asks to do {effect.action!r}, unknown here. {hint}")
        world.tools.folder = world.outputs()
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
        settle(world)
        load_tagged(world.store.checkpoints, request.effect.tag, world.machine)


def _put(world: World, effect: Write | Export, outcome: Outcome) -> None:
    """Write a file of the run directory; what fails there is no reason to end a run."""
    if world.store is None:
        world.console.warn(f"{effect.name} is not written: the run has no run directory")
        return
    try:
        with paused(world.course):
            _written(world, world.store.run, effect, outcome)
    except (OSError, TypeError, ValueError, ImportError, ConfigurationError) as error:
        world.console.warn(f"{effect.name} is not written: {error}; training goes on")


def _written(world: World, run: Path, effect: Write | Export, outcome: Outcome) -> None:
    if isinstance(effect, Export):
        average = weights(world.pipeline, effect.weights, outcome.carry.memories)
        export(run / WEIGHTS, effect, world.machine.module, average, world.machine.ranks)
    elif folder := world.outputs():
        path, event = write(folder, effect.name, effect.payload), outcome.state.event
        if not _said_before(world, event):
            for sender in world.senders:
                send(sender, Output(world.course.progress, effect.name, path, event))


def write_row(world: World, outcome: Outcome) -> None:
    """Write the tick's journal row, if anything happened in it."""
    state = outcome.state
    boundary = state.event != "update"
    if not (outcome.requests or boundary):
        return
    told = [each for each in outcome.requests if getattr(each.effect, "told", True)]
    if world.store is None or world.store.journal is None or not (told or boundary):
        return
    metrics = {name: state.metrics[name] for name in sorted(state.fresh)}
    effects = [described(request) for request in told]
    tick: Any = state.event
    world.store.journal.append(row(tick, state.now, metrics=metrics, effects=effects))


def track(world: World, state: TrainState) -> None:
    """Send a tick's metrics to the trackers."""
    if not state.fresh or _said_before(world, state.event):
        return
    metrics = {name: state.metrics[name] for name in sorted(state.fresh)}
    line = Line(state.now, metrics, state.event)
    for sender in world.senders:
        send(sender, line)
        if said := trouble(sender):
            world.console.warn(said)


def _said_before(world: World, event: Event) -> bool:
    """Whether it is the opening tick of a resumed run, which says once more what was said."""
    return event == "start" and any(sender.begun.resumed for sender in world.senders)


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
    names = [name for name in effect.__slots__ if name not in ("told", "routine")]
    return {"kind": kind, **{name: getattr(effect, name) for name in names}}


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
