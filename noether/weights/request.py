"""What `init_from` may say, and what is wrong with what it says."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from reprlib import repr as shown
from typing import Any, Literal, TypeAlias

from noether.averages import LIVE, keepers
from noether.callback import Pipeline
from noether.errors import suggestion

Policy: TypeAlias = Literal["error", "allow"]


@dataclass(frozen=True, slots=True)
class InitFrom:
    """Where a run's first weights come from, and which of them go where.

    >>> InitFrom("pretrained.safetensors", rename={"encoder": "backbone"}, exclude=("head.*",)).path
    'pretrained.safetensors'
    """

    path: str
    rename: Mapping[str, str] = field(default_factory=dict)
    """Dotted prefixes to others, moved in this order; an empty one adds or strips."""
    include: tuple[str, ...] = ()
    """Globs of the model's names that are looked at, all if empty."""
    exclude: tuple[str, ...] = ()
    """Globs of those that are not."""
    weights: str = LIVE
    """The live ones of a checkpoint, or an average."""
    checkpoint: str | None = None
    """Of a run: latest, best or a tag; None is the latest."""
    missing: Policy = "error"
    unexpected: Policy = "error"
    mismatched: Policy = "error"


def is_path(value: Any) -> bool:
    return (
        isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str) and value != ""
    )


def is_renaming(value: Any) -> bool:
    texts = (*value, *value.values()) if isinstance(value, Mapping) else (None,)
    return all(isinstance(text, str) for text in texts)


def are_globs(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(glob, str) for glob in value)


def is_policy(value: Any) -> bool:
    return value in ("error", "allow")


FORMS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "path": (is_path, "the path of a file, a checkpoint or a run"),
    "rename": (is_renaming, "old dotted prefixes with their new ones"),
    **dict.fromkeys(("include", "exclude"), (are_globs, "a list of globs")),
    "weights": (lambda value: isinstance(value, str), "'live' or the name of an average"),
    "checkpoint": (
        lambda value: value is None or isinstance(value, str),
        "'latest', 'best' or a tag",
    ),
    **dict.fromkeys(("missing", "unexpected", "mismatched"), (is_policy, "'error' or 'allow'")),
}


def mistakes(given: Any, pipeline: Pipeline) -> Iterator[str]:
    """What is wrong with an `init_from`, before any file is looked at."""
    options = written(given)
    if options is None:
        yield f"init_from is {shown(given)}; expected a path, or a mapping of {', '.join(FORMS)}"
        return
    for name in [name for name in options if name not in FORMS][:5]:
        yield f"init_from: unknown option {name!r}. {suggestion(str(name), FORMS)}"
    if "path" not in options:
        yield "init_from: path is missing; expected the path of a file, a checkpoint or a run"
    for name, (fits, expected) in FORMS.items():
        if name in options and not fits(options[name]):
            yield f"init_from: {name} is {shown(options[name])}; expected {expected}"
    if isinstance(weights := options.get("weights", LIVE), str):
        yield from unkept(weights, pipeline)


def unkept(weights: str, pipeline: Pipeline) -> Iterator[str]:
    """What to do where no callback of the run keeps the average."""
    known = keepers(pipeline)
    if weights != LIVE and weights not in known:
        yield (
            f"init_from: weights {weights!r} are kept by no callback of this run, which could find "
            f"them in the other's memories. {suggestion(weights, {LIVE, *known})} Or write them "
            f"into a file first: noether export RUN --weights {weights}"
        )


def written(given: Any) -> dict[str, Any] | None:
    """The options of an `init_from` by name; None where it is of no known form."""
    if isinstance(given, InitFrom):
        return {option.name: getattr(given, option.name) for option in fields(given)}
    if isinstance(given, Mapping):
        return dict(given)
    return {"path": given} if is_path(given) else None


def parsed(given: Any) -> InitFrom:
    """A checked `init_from` as a record."""
    options = written(given) or {}
    for name in ("include", "exclude"):
        options[name] = tuple(options.get(name, ()))
    moves = options.get("rename", {}).items()
    options["rename"] = {old.removesuffix("."): new.removesuffix(".") for old, new in moves}
    options["path"] = os.fspath(options["path"])
    return InitFrom(**options)


def described(given: Any) -> dict[str, Any]:
    """What `config.yaml` says of it; nothing where there is none."""
    if given is None:
        return {}
    forms: Mapping[str, Callable[[Any], Any]] = {
        **{"path": os.fspath, "rename": dict},
        **dict.fromkeys(("include", "exclude"), list),
    }
    options = {k: forms.get(k, str)(v) for k, v in (written(given) or {}).items() if v is not None}
    return {"init_from": options["path"] if len(options) == 1 else options}
