"""The built-in callbacks, described from their signatures and docstrings."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from textwrap import indent
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from noether import dataflow, hooks
from noether.callback import Callback
from noether.config.aliases import LIVE, ours, refused
from noether.config.structure import parameters
from noether.errors import ConfigurationError, suggestion


def table() -> str:
    """One line for each built-in callback, by theme."""
    width = max(map(len, hooks.__all__))
    themes: dict[str, list[str]] = {}
    for name in hooks.__all__:
        function = getattr(hooks, name)
        themes.setdefault(theme(function), []).append(f"  {name:{width}}  {first_line(function)}")
    return "\n\n".join("\n".join([each, *themes[each]]) for each in sorted(themes))


def theme(function: Callable[..., Any]) -> str:
    """The part of `noether.hooks` that it is in."""
    return function.__module__.split(".")[2]


def page(name: str) -> str:
    """Options, reads, writes, schedule, documentation and examples of one built-in callback.

    The name may be that of a class of another project, whose callback this is here.

    >>> print(page("accuracy"))  # doctest: +ELLIPSIS
    accuracy: Log `accuracy/{dataset}`: the share of samples whose largest output is their label.
    <BLANKLINE>
      dataset: str
      batch_size: int | None = None
      weights: str = 'live'
      limit: int | None = None
      reads: nothing
      writes: accuracy/<dataset>
    ...
    """
    function = found(name)
    short = ours(name) or name
    lines = [f"{short}: {first_line(function)}", "", *map("  {}".format, facts(function))]
    if short != name:
        lines = [f"{name} is `kind: {short}` here", "", *lines]
    text, mark, example = documentation(function).partition("\n")[2].partition(">>>")
    rest = [*([text.strip()] if text.strip() else []), *_shown("Python", mark + example)]
    return "\n\n".join(["\n".join(lines), *rest, *_shown("YAML", yaml_example(short))])


def _shown(language: str, example: str) -> list[str]:
    return [f"in {language}:\n{indent(example.rstrip(), '  ')}"] if example.strip() else []


def listing(names: Iterable[str] = hooks.__all__) -> list[dict[str, Any]]:
    """All of it, or those of some names, as plain values, for other tools."""
    return [
        {
            "name": ours(name) or name,
            "theme": theme(found(name)),
            "does": first_line(found(name)),
            "options": {key: _plain(p) for key, p in parameters(found(name)).items()},
            **_promises(found(name)),
        }
        for name in names
    ]


def found(name: str) -> Callable[..., Callback]:
    """The factory of that name, or of a class's; raises ConfigurationError with the nearest."""
    short = ours(name) or name
    if short == "eta":
        raise ConfigurationError([f"{name}: {LIVE}"])
    if short not in hooks.__all__:
        said = f"no built-in callback is named {name!r}. {suggestion(short, hooks.__all__)}"
        raise ConfigurationError([refused(name) or said])
    function: Callable[..., Callback] = getattr(hooks, short)
    return function


def documentation(function: Callable[..., Any]) -> str:
    return inspect.cleandoc(function.__doc__ or "")


def first_line(function: Callable[..., Any]) -> str:
    return documentation(function).partition("\n")[0]


def facts(function: Callable[..., Callback]) -> Iterator[str]:
    """Its options with types and defaults, what a callback of it reads and writes, and when."""
    for parameter in parameters(function).values():
        yield re.sub(r"\b(?:[a-z]\w*\.)+(?=[A-Z])", "", str(parameter))
    for promise, said in _promises(function).items():
        text = ", ".join(said) if isinstance(said, list) else said
        yield f"{promise}: {'by its options' if text is None else text or 'nothing'}"


def _promises(function: Callable[..., Callback]) -> dict[str, Any]:
    """What a callback of it reads and writes, None if not known, and its own schedule if any."""
    _, callback = sample(function)
    if callback is None:
        return {"reads": None, "writes": None}
    promises: dict[str, Any] = {
        "reads": sorted(dataflow.needed(callback)),
        "writes": list(callback.writes or ()),
    }
    return promises if callback.schedule is None else promises | {"when": str(callback.schedule)}


def _plain(parameter: inspect.Parameter) -> dict[str, Any]:
    kind, _, default = str(parameter).partition(": ")[2].partition(" = ")
    required = parameter.default is parameter.empty
    return {"type": kind, "default": default or None, "required": required}


# ---------------------------------------------------------------- one of them, invented


def sample(function: Callable[..., Callback]) -> tuple[dict[str, Any], Callback | None]:
    """Something for each option that it can't do without, and the callback; None: it takes more."""
    tried = list(_options(function))
    for options in tried:
        try:
            return options, function(**options)
        except (TypeError, ValueError, LookupError):
            continue
    return tried[0], None


INVENTED = {"mode": "min", "at": "2030-12-31T08:00:00+00:00"}
"""What text doesn't stand for: a placeholder's name tells no direction, and is no time."""


def _options(function: Callable[..., Callback]) -> Iterator[dict[str, Any]]:
    """What is required; then that, and each of the others alone."""
    taken = parameters(function)
    given = {n: INVENTED.get(n, placeholder(n, p.annotation)) for n, p in taken.items()}
    required = {n: given[n] for n, p in taken.items() if p.default is p.empty}
    if "mode" in taken:
        required["mode"] = given["mode"]
    yield required
    for name in (each for each in given if each not in required):
        yield {**required, name: given[name]}


def placeholder(name: str, kind: Any) -> Any:
    """Something for an option, recognisable where it is text."""
    kinds = [each for each in get_args(kind) if each is not type(None)] or [kind]
    if get_origin(kind) is Literal:
        return kinds[0]
    if get_origin(kind) in (UnionType, Union):
        return placeholder(name, kinds[0])
    if get_origin(kind) is get_origin(Callable[..., Any]):
        return placeholder
    if "Sequence" in str(kind) or "list" in str(kind):
        return [placeholder(name, kinds[0])]
    return 0.5 if float in kinds else 1 if int in kinds else f"<{name}>"


def yaml_example(name: str) -> str:
    """An entry of `callbacks:` with what the callback can't do without."""
    function = found(name)
    given, callback = sample(function)
    options = {name: _written(value, name) for name, value in given.items()}
    timed: Mapping[str, Any] = {}
    if callback is not None and callback.on_schedule is not None and callback.schedule is None:
        timed = {"every_n_epochs": 1}
    entry = [{"kind": name, **options, **timed}]
    return yaml.safe_dump(entry, sort_keys=False, default_flow_style=None).rstrip()


def _written(value: Any, name: str) -> Any:
    return {"kind": f"my_project.{name}"} if callable(value) else value
