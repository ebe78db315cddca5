"""What a `kind` names: a declared factory, or an optimizer or LR scheduler of torch.

Only `noether`, `torch.optim` and packages that code or command line trust are ever imported; what
is found there must itself be declared with `@factory`, whatever name led to it.
"""

import importlib
import sys
from collections.abc import Callable, Collection, Iterator
from reprlib import repr as shown
from types import ModuleType
from typing import Any

from noether.callback import is_factory
from noether.errors import suggestion

HOOKS = "noether.hooks"
OPTIMIZERS = "torch.optim"
LR_SCHEDULERS = "torch.optim.lr_scheduler"
PLATEAU = "ReduceLROnPlateau"


def resolve(kind: Any, allow: Collection[str] = ()) -> Callable[..., Any]:
    """The factory that `kind` names: short for one of `noether.hooks`, else a dotted path.

    Raises LookupError, with the nearest names, for anything else; `allow` are further packages.

    >>> resolve("checkpoint").__name__
    'checkpoint'
    >>> resolve("logging.os.system")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    LookupError: 'logging.os.system' is refused: the module logging.os is not allowed...
    """
    if not isinstance(kind, str):
        raise LookupError(f"expected the name of a factory, found {shown(kind)}")
    home, _, name = kind.rpartition(".")
    if any(not part.isidentifier() or part.startswith("_") for part in kind.split(".")):
        raise LookupError(f"{shown(kind)} is no public dotted name")
    if home and not trusted(home, allow):
        raise refused(kind, home, allow)
    if name == PLATEAU:
        raise LookupError(
            f"{kind} reads metrics, so it is none here; use the callback reduce_on_plateau"
        )
    value: Any = getattr(imported(home or HOOKS, kind, allow), name, None)
    if not (is_factory(value) or is_of_torch(value, home)):
        raise unknown(kind, home, found=value is not None, allow=allow)
    return value  # type: ignore[no-any-return] # checked above


def trusted(module: str, allow: Collection[str]) -> bool:
    """Whether a file may make us import `module`."""
    if module in (OPTIMIZERS, LR_SCHEDULERS):
        return True
    return any(f"{module}.".startswith(f"{root}.") for root in ("noether", *allow))


def imported(module: str, kind: str, allow: Collection[str]) -> ModuleType:
    """The trusted module; LookupError where there is none, or where it breaks on import."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise unknown(kind, module, found=False, allow=allow) from error
        raise LookupError(f"{module} cannot be imported: {error}") from error
    except Exception as error:
        message = f"{module} cannot be imported: {type(error).__name__}: {error}"
        raise LookupError(message) from error


def is_of_torch(value: Any, home: str) -> bool:
    """Whether `value` is one of torch's own optimizers or LR schedulers."""
    if home not in (OPTIMIZERS, LR_SCHEDULERS):
        return False
    optim = importlib.import_module(OPTIMIZERS)
    root = optim.Optimizer if home == OPTIMIZERS else optim.lr_scheduler.LRScheduler
    if not isinstance(value, type) or value is root or not issubclass(value, root):
        return False
    return value.__module__.startswith(f"{OPTIMIZERS}.") and value.__name__ != PLATEAU


def refused(kind: str, home: str, allow: Collection[str]) -> LookupError:
    root = home.partition(".")[0]
    near = nearest(kind, allow)
    return LookupError(
        f"{kind!r} is refused: the module {home} is not allowed; if you trust it, use "
        f"--allow {root} (in Python allow=[{root!r}]) and declare with @noether.factory what "
        f"the file may name{near}"
    )


def unknown(kind: str, home: str, *, found: bool, allow: Collection[str]) -> LookupError:
    declare = "is not declared with @noether.factory" if found else "does not exist"
    return LookupError(f"the factory {kind!r} {declare}{nearest(kind, allow)}")


def nearest(kind: str, allow: Collection[str]) -> str:
    """The end of a message: the nearest factory; for a short name all built-in callbacks."""
    if "." in kind:
        hint = suggestion(kind, known(allow))
        return f"; {hint}" if hint.startswith("Did") else ""
    return f"; {suggestion(kind, importlib.import_module(HOOKS).__all__)}"


def known(allow: Collection[str]) -> Iterator[str]:
    """Dotted names of the factories in the trusted modules that are imported already."""
    for home, module in tuple(sys.modules.items()):
        if trusted(home, allow) and isinstance(module, ModuleType):
            for name, value in tuple(vars(module).items()):
                if not name.startswith("_") and (is_factory(value) or is_of_torch(value, home)):
                    yield f"{home}.{name}"
