"""`${a.b}`: a value of the same document, written once and used in several places."""

import re
from dataclasses import dataclass
from typing import Any

from noether.config.document import MOST, Path
from noether.config.hints import Mistake
from noether.config.overrides import dotted, existing
from noether.config.stages import Stage

WHOLE = re.compile(r"\$\{([\w-]+(?:\.[\w-]+)*)\}")
Trail = tuple[Path, ...]
"""The places of the references that led here, the first one's first."""


@dataclass(slots=True)
class Walk:
    """A walk through a document and wherever its references lead."""

    stage: Stage
    count: int = 0
    """Values so far."""


def references(config: Any) -> Stage:
    """The configuration with the values in the place of the references to them.

    >>> references({"a": {"n": 3}, "b": ["${a.n}"]}).config
    {'a': {'n': 3}, 'b': [3]}
    """
    stage = Stage(config)
    try:
        stage.config = _resolved(Walk(stage), config, (), ())
    except OverflowError as error:
        stage.mistakes.append(Mistake((), str(error)))
    return stage


def _resolved(walk: Walk, value: Any, path: Path, trail: Trail) -> Any:
    walk.count += 1
    if walk.count > MOST:
        raise OverflowError(f"the references make more than {MOST:,} values of the file")
    if isinstance(value, dict):
        return {key: _resolved(walk, item, (*path, key), trail) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(walk, item, (*path, i), trail) for i, item in enumerate(value)]
    return _followed(walk, value, path, trail) if _refers(value) else value


def _refers(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _followed(walk: Walk, text: str, path: Path, trail: Trail) -> Any:
    """What a reference leads to; a mistake where it leads nowhere."""
    try:
        target = _target(walk.stage.config, text)
        _check_round_trip(text, target, (*trail, path))
    except LookupError as error:
        walk.stage.mistakes.append(Mistake(trail[0] if trail else path, str(error)))
        return None
    walk.stage.moved[path] = target
    value = walk.stage.config
    for step in target:
        value = value[step]
    return _resolved(walk, value, path, (*trail, path, target))


def _check_round_trip(text: str, target: Path, trail: Trail) -> None:
    """Raises LookupError for a reference to what it is a part of."""
    if any(target == place[: len(target)] for place in trail):
        way = " -> ".join(dotted(place) for place in dict.fromkeys((*trail, target)))
        raise LookupError(f"{text} leads back to itself: {way}")


def _target(config: Any, text: str) -> Path:
    """The path that a reference means."""
    match = WHOLE.fullmatch(text)
    if match is None:
        raise LookupError(
            f"{text!r} is not resolved: a reference is the whole value and names a part of this "
            "file, ${run.seed} say; write the value itself"
        )
    value: Any = config
    path: Path = ()
    for part in match[1].split("."):
        step = existing(value, part, path)
        value, path = value[step], (*path, step)
    return path
