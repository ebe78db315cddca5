"""The laws that every call of a hook keeps, each a function that looks for what breaks it."""

from collections.abc import Callable
from typing import Any

from noether.checkpoint.encoding import decode, encode
from noether.errors import CheckpointError
from noether.state import ModelView, TrainState
from noether.testing.traces import storages, trace
from noether.testing.watching import Answer, Observation


def check_call(observation: Observation) -> None:
    """Raise BrokenLaw for the first law that the calls break."""
    for broken, law, way_out in LAWS:
        if (finding := broken(observation)) is not None:
            raise observation.call.broken(law, finding, way_out)


def _changed(observation: Observation) -> str | None:
    changed = ", ".join(observation.changed)
    return f"it changed {changed}" if changed else None


def _not_repeated(observation: Observation) -> str | None:
    first, second = observation.first, observation.answer
    return None if first.trace == second.trace else difference(first, second)


def _looks_elsewhere(observation: Observation) -> str | None:
    for metric, answer in observation.unaware.items():
        if answer.trace != observation.first.trace:
            said = difference(observation.first, answer)
            return f"it looks at {metric}; with it and then without it: {said}"
    return None


def difference(one: Answer, other: Answer) -> str:
    """Where two answers part."""
    for name in ("error", "effects", "memory"):
        if trace(getattr(one, name)) != trace(getattr(other, name)):
            return f"{name} {getattr(one, name)!r}, then {getattr(other, name)!r}"
    return "answers that differ"


def _not_storable(observation: Observation) -> str | None:
    memory = observation.answer.memory
    try:
        read = decode(encode(memory, "the memory"), observation.call.types)
    except (TypeError, CheckpointError) as error:
        return str(error)
    return None if trace(read) == trace(memory) else f"of {memory!r} it keeps {read!r}"


def _borrowed(observation: Observation) -> str | None:
    theirs = set(storages(_tensors(observation.call.state)))
    shared = theirs.intersection(storages(observation.answer.memory))
    return f"its memory holds {len(shared)} tensors of the snapshot" if shared else None


def _tensors(state: TrainState) -> tuple[Any, ...]:
    """What holds tensors in a snapshot."""
    held = state.losses, state.outputs, state.results
    model = state.model
    if not isinstance(model, ModelView):
        return held
    return (*held, model.parameters, model.buffers, model.gradients)


Broken = Callable[[Observation], str | None]

LAWS: tuple[tuple[Broken, str, str], ...] = (
    (
        _changed,
        "a hook changes nothing that it looks at",
        "Return effects and a new memory, work on copies, draw from a generator of your own.",
    ),
    (
        _not_repeated,
        "a hook answers alike when asked again",
        "Answer from the snapshot and the memory alone.",
    ),
    (
        _looks_elsewhere,
        "a hook looks only at metrics that it declares to read",
        "Declare it in reads or reads_optional.",
    ),
    (
        _not_storable,
        "a memory can be stored and read back",
        "Keep tensors, plain values, and tuples, mappings and frozen dataclasses of them.",
    ),
    (
        _borrowed,
        "what a hook keeps it copies",
        "Keep tensor.clone(): the weights go on changing.",
    ),
)
