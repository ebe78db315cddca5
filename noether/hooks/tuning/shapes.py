"""How a hyper-parameter moves: factors of its base value over the share of a run that is done."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

Shape = Literal["cosine", "linear", "polynomial", "step", "constant"]


def cosine(share: float) -> float:
    """Half a cosine from 1 to 0: SGDR, Loshchilov and Hutter 2017, equation 5, without restarts.

    >>> [round(cosine(share), 3) for share in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * share)) / 2


def linear(share: float) -> float:
    """A straight line from 1 to 0."""
    return 1 - share


def constant(share: float) -> float:
    """Always 1."""
    return 1.0


def polynomial(power: float) -> Callable[[float], float]:
    """(1 - share) ** power.

    >>> polynomial(2.0)(0.5)
    0.25
    """
    return lambda share: (1 - share) ** power


def step(gamma: float, steps: int) -> Callable[[float], float]:
    """`steps` equal stairs, each `gamma` times the one before.

    >>> [step(0.1, 2)(share) for share in (0.0, 0.49, 0.5, 1.0)]
    [1.0, 1.0, 0.1, 0.1]
    """
    # A share such as 0.29 is a little less than it says: 29 of 100 stairs must not become 28.
    return lambda share: gamma ** min(int(share * steps + 1e-9), steps - 1)


def shapes(power: float, gamma: float, steps: int) -> Mapping[str, Callable[[float], float]]:
    """The shapes by name."""
    curved, stairs = polynomial(power), step(gamma, steps)
    simple = {"cosine": cosine, "linear": linear, "constant": constant}
    return {**simple, "polynomial": curved, "step": stairs}
