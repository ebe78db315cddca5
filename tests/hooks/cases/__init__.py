"""The catalogue's callbacks by name, a file for each module of `noether.hooks`."""

import importlib
import pkgutil
from collections.abc import Mapping

from tests.hooks.cases.case import Case

__all__ = ["ALL", "Case"]


def _found() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        cases = getattr(importlib.import_module(module.name), "CASES", {})
        assert not found.keys() & cases.keys()
        found |= cases
    return found


ALL: Mapping[str, Case] = _found()
