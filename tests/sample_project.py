"""A user's package, as `--allow tests.sample_project` sees it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from noether import Callback, DataPass, Do, Log, Schedule, every, factory

__all__ = ["os"]

ALIAS = os.system
MADE: list[str] = []
"""What was built, in order."""


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Window:
    low: int
    high: int = 10


@factory
def everything(  # type: ignore[no-untyped-def]
    *,
    flag: bool = False,
    count: int = 1,
    share: float = 0.5,
    word: str = "w",
    maybe: int | None = None,
    several: list[int] = [],  # noqa: B006 a signature like those of users
    pair: tuple[float, float] = (0.0, 1.0),
    many: tuple[str, ...] = (),
    mode: Literal["min", "max"] = "min",
    weights: Mapping[str, float] = {},
    either: bool | Mapping[str, bool] = True,
    path: Path = Path(),
    colour: Colour = Colour.RED,
    window: Window = Window(0),
    when: Schedule | None = None,
    transform: Callable[[Any], Any] | None = None,
    anything: Any = None,
    unhinted=None,
) -> dict[str, Any]:
    return dict(locals())


@factory
def doubled() -> Callable[[float], float]:
    return double


def double(x: float) -> float:
    return 2 * x


def undeclared() -> None:
    raise AssertionError("it was called")


@factory
def writer(*, metric: str = "gap") -> Callback:
    """Logs one number under `metric`."""
    return Callback("writer", on_schedule=log_nothing, reads=(), writes=(metric,))


@factory
def scheduled_reader(
    *,
    metric: str,
    name: str = "reader",
    schedule: Schedule = every(updates=7),  # noqa: B008
) -> Callback:
    """Needs `metric`."""
    return Callback(name, on_schedule=log_nothing, schedule=schedule, reads=(metric,), writes=())


@factory
def evaluation(*, on: str) -> Callback:
    """A data pass over the set `on`."""
    return Callback(
        "evaluation", on_schedule=log_nothing, data=DataPass(on, none_at_all), reads=(), writes=()
    )


def log_nothing(state: Any) -> Log:
    return Log({})


def none_at_all(model: Any, batch: Any) -> dict[str, Any]:
    return {}


@factory
def refusing(*, size: int = 1) -> Callback:
    raise ValueError(f"size {size} is odd")


@factory
def linear(*, inputs: int = 2, activation: Callable[[Any], Any] | None = None) -> torch.nn.Module:
    MADE.append("model")
    return torch.nn.Linear(inputs, 1)


@factory
def unbuildable() -> torch.nn.Module:
    raise RuntimeError("it was built")


@factory
def points(*, count: int = 8) -> list[tuple[Tensor, Tensor]]:
    if count < 0:
        raise ValueError(f"count is {count}")
    MADE.append(f"{count} points")
    return [(torch.full((2,), float(i)), torch.tensor([float(i)])) for i in range(count)]


@factory
def squared() -> Callable[[Any, Any], Tensor]:
    return squared_error


def squared_error(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, targets = batch
    return torch.nn.functional.mse_loss(model(inputs), targets)


@factory
def descent(weights: Any, *, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, lr=rate)


@factory
def failing() -> Callback:
    """Raises on the first tick."""
    return Callback("failing", after_update=fail)


def fail(state: Any) -> None:
    raise RuntimeError("the disk is on fire")


@factory
def ending(*, how: Literal["preempted", "interrupted"]) -> Callback:
    """Ends the run as a signal would."""
    return Callback("ending", after_update={"preempted": preempt, "interrupted": interrupt}[how])


def preempt(state: Any) -> None:
    raise SystemExit(75)


def interrupt(state: Any) -> None:
    raise KeyboardInterrupt


@factory
def lengths() -> Any:
    """A counter of the samples of a batch."""
    return lambda batch: len(batch[0])


# ---------------------------------------------------------------- functions of callbacks


@factory
def errors() -> Callable[[Any, Any], Any]:
    return absolute_errors


def absolute_errors(model: Any, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The absolute errors of a batch of (inputs, targets), a row for each sample."""
    inputs, targets = batch
    return {"error": (model(inputs) - targets).abs()}


@factory
def worst() -> Callable[[Any], Any]:
    return largest_error


def largest_error(results: Any) -> dict[str, Tensor]:
    """The largest of the errors."""
    return {"error/worst": results["error"].max()}


@factory
def picture() -> Callable[[Any, Any], Any]:
    return drawn_outputs


def drawn_outputs(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """What the model gives for a batch, a line of pixels for each sample."""
    outputs: Tensor = model(batch[0])
    return outputs.sigmoid()[None]


@factory
def dice() -> Callable[[Any, str, int], str]:
    return thrown_dice


def thrown_dice(model: Any, prompt: str, max_new_tokens: int) -> str:
    """As many throws of a die as there may be tokens."""
    return f"{prompt} {torch.randint(1, 7, (max_new_tokens,)).tolist()}"


@factory
def noting() -> Callable[..., None]:
    return note


def note() -> None:
    MADE.append("noted")


@factory
def asking() -> Callback:
    data = DataPass("val", lambda model, batch: {"x": batch[0]})
    return Callback("asking", on_schedule=lambda state: Do("note"), data=data)
