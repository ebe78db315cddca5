"""The built-in callbacks, described from their signatures and docstrings."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

from noether import dataflow, hooks
from noether.callback import Callback
from noether.config.structure import parameters
from noether.errors import ConfigurationError, suggestion


def table() -> str:
    """One line for each built-in callback."""
    width = max(map(len, hooks.__all__))
    return "\n".join(
        f"{name:{width}}  {first_line(getattr(hooks, name))}" for name in hooks.__all__
    )


def page(name: str) -> str:
    """Options, defaults, reads, writes and documentation of one built-in callback.

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
    if name not in hooks.__all__:
        hint = suggestion(name, hooks.__all__)
        raise ConfigurationError([f"no built-in callback is named {name!r}. {hint}"])
    function = getattr(hooks, name)
    lines = [f"{name}: {first_line(function)}", "", *map("  {}".format, facts(function))]
    rest = documentation(function).partition("\n")[2].partition(">>>")[0].strip()
    return "\n".join([*lines, "", rest] if rest else lines)


def documentation(function: Callable[..., Any]) -> str:
    return inspect.cleandoc(function.__doc__ or "")


def first_line(function: Callable[..., Any]) -> str:
    return documentation(function).partition("\n")[0]


def facts(function: Callable[..., Callback]) -> Iterator[str]:
    """Its options with types and defaults, then what a callback of it reads and writes."""
    taken = parameters(function)
    for parameter in taken.values():
        yield re.sub(r"\b(?:[a-z]\w*\.)+(?=[A-Z])", "", str(parameter))
    required = {name: p.annotation for name, p in taken.items() if p.default is p.empty}
    options = {name: placeholder(name, kind) for name, kind in required.items()}
    if "mode" in taken:
        options["mode"] = "min"  # a placeholder's name tells no direction
    callback = function(**options)
    yield f"reads: {', '.join(sorted(dataflow.needed(callback))) or 'nothing'}"
    yield f"writes: {', '.join(callback.writes or ()) or 'nothing'}"


def placeholder(name: str, kind: Any) -> Any:
    """Something for a required option, recognisable where it is text."""
    kinds = get_args(kind) or (kind,)
    return 0.5 if float in kinds else 1 if int in kinds else f"<{name}>"
