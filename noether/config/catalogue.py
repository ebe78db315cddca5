"""The built-in callbacks, described from their signatures and docstrings."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import yaml

from noether import dataflow, hooks
from noether.callback import Callback
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
    lines = [f"{name}: {first_line(function)}", "", *map("  {}".format, facts(function))]
    rest = documentation(function).partition("\n")[2].partition(">>>")[0].strip()
    example = "\n".join(f"  {line}" for line in yaml_example(name).splitlines())
    return "\n".join([*lines, *(["", rest] if rest else []), "", "in YAML:", example])


def listing() -> list[dict[str, Any]]:
    """All of it as plain values, for other tools."""
    return [
        {
            "name": name,
            "theme": theme(getattr(hooks, name)),
            "does": first_line(getattr(hooks, name)),
            "options": {key: _plain(p) for key, p in parameters(getattr(hooks, name)).items()},
            **_promises(getattr(hooks, name)),
        }
        for name in hooks.__all__
    ]


def found(name: str) -> Callable[..., Callback]:
    """The factory of that name; raises ConfigurationError with the nearest."""
    if name not in hooks.__all__:
        hint = suggestion(name, hooks.__all__)
        raise ConfigurationError([f"no built-in callback is named {name!r}. {hint}"])
    function: Callable[..., Callback] = getattr(hooks, name)
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
        yield f"{promise}: {', '.join(said) if isinstance(said, list) else said}"


def _promises(function: Callable[..., Callback]) -> dict[str, Any]:
    """What a callback of it reads and writes, and its own schedule."""
    _, callback = sample(function)
    if callback is None:
        return {"reads": "by its options", "writes": "by its options"}
    promises = {
        "reads": sorted(dataflow.needed(callback)) or "nothing",
        "writes": list(callback.writes or ()) or "nothing",
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


def _options(function: Callable[..., Callback]) -> Iterator[dict[str, Any]]:
    """What is required; then that, and each of the others alone."""
    taken = parameters(function)
    given = {name: placeholder(name, p.annotation) for name, p in taken.items()}
    required = {n: given[n] for n, p in taken.items() if p.default is p.empty}
    if "mode" in taken:
        required["mode"] = "min"  # a placeholder's name tells no direction
    yield required
    for name in (each for each in given if each not in required):
        yield {**required, name: given[name]}


def placeholder(name: str, kind: Any) -> Any:
    """Something for an option, recognisable where it is text."""
    kinds = [each for each in get_args(kind) if each is not type(None)] or [kind]
    if get_origin(kind) is Literal:
        return kinds[0]
    if any("Sequence" in str(each) or "list" in str(each) for each in (kind, *kinds)):
        return [f"<{name}>"]
    if any("Callable" in str(each) for each in (kind, *kinds)):
        return placeholder
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
