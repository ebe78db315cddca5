"""The state of every random number generator that training may draw from."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from typing import Any

import torch
from torch.utils.data import get_worker_info


def seed_all(seed: int) -> None:
    """Seed Python's, torch's and, where it is loaded, numpy's generator."""
    random.seed(seed)
    torch.manual_seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)


def seed_rank(seed: int, rank: int, update: int = 0) -> None:
    """Let each rank but the first, which draws as if it were alone, draw numbers of its own."""
    if rank:
        digest = sha256(f"{seed}/rank {rank}/{update}".encode()).digest()
        seed_all(int.from_bytes(digest[:8], "big") >> 1)


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
def kept() -> Iterator[None]:
    """Whatever is drawn or seeded inside, the outer random numbers are untouched after."""
    states = capture()
    try:
        yield
    finally:
        restore(states)


@contextmanager
def apart(seed: int) -> Iterator[None]:
    """Random numbers of its own inside, and the outer ones untouched after."""
    with kept():
        seed_all(seed)
        yield


@contextmanager
def aside() -> Iterator[None]:
    """Whatever is drawn on the CPU inside, the generators go on afterwards as if it had not been.

    Only a half pair (see `drop_half_pair`) is dropped. In a loader's worker, where training draws
    nothing, they are left as they come out.
    """
    if get_worker_info() is not None:
        yield
        return
    numpy = sys.modules.get("numpy")
    # Another generator in numpy's place: to copy its state takes longer than a small update.
    own = None if numpy is None else numpy.random.get_bit_generator()
    python, torch_state = random.getstate(), torch.get_rng_state()
    if numpy is not None:
        numpy.random.set_bit_generator(_spare())
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(torch_state)
        if numpy is not None:
            numpy.random.set_bit_generator(own)


@cache
def _spare() -> Any:
    return sys.modules["numpy"].random.MT19937(0)


def drop_half_pair() -> None:
    """Let numpy's generator forget the second of two normal numbers that it has drawn at once.

    `aside` makes it forget; where batches come from elsewhere the same must follow.
    """
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.set_bit_generator(numpy.random.get_bit_generator())


def seed_sample(seed: int, epoch: int, index: int) -> int:
    """Seed the generators of the CPU by a sample, so that its augmentation is always the same."""
    digest = sha256(f"{seed}/{epoch}/{index}".encode()).digest()
    number = int.from_bytes(digest[:8], "big") >> 1
    random.seed(number)
    torch.default_generator.manual_seed(number)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(number % 2**32)
    return number
