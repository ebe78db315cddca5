"""The state of every random number generator that training may draw from."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def seed_all(seed: int) -> None:
    """Seed Python's, torch's and, where it is loaded, numpy's generator."""
    random.seed(seed)
    torch.manual_seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)


def capture() -> dict[str, Any]:
    """All generators' states as tensors and plain values."""
    states: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    if (numpy := sys.modules.get("numpy")) is not None:
        name, keys, *rest = numpy.random.get_state()
        states["numpy"] = (name, keys.tolist(), *rest)
    return states


def restore(states: dict[str, Any]) -> None:
    """Put the generators back to `states`, the ones that this process has."""
    torch.set_rng_state(states["torch"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    if "numpy" in states and (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.set_state(tuple(states["numpy"]))


@contextmanager
def apart(seed: int) -> Iterator[None]:
    """Random numbers of its own inside, and the outer ones untouched after."""
    states = capture()
    seed_all(seed)
    try:
        yield
    finally:
        restore(states)
