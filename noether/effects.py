"""What a hook can ask the core for. Effects are data: they add up, and none undoes another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Log:
    """Report metrics to the journal, the trackers and the hooks that run later in the tick."""

    metrics: Mapping[str, Any]
    """Names to numbers or 0-dimensional tensors; tensors stay on the device until they are read."""
    over_ranks: Literal["mean", "sum", "max", "min", "none"] = "mean"
    summary: bool = False
    """Facts that hold for the whole run, such as a parameter count."""


@dataclass(frozen=True, slots=True)
class Say:
    """Print one line, on rank 0."""

    text: str
    routine: bool = False
    """Whether it says no more than what a terminal shows all the time; there it is left out."""


@dataclass(frozen=True, slots=True)
class Save:
    """Commit a checkpoint as the last thing of the tick, kept under `tag`.

    Of the checkpoints with this tag the `keep_last` newest stay, or the `keep_best` with the best
    `value`; with neither, all of them. Requests of one tick share one checkpoint.
    """

    tag: str
    keep_last: int | None = None
    keep_best: int | None = None
    metric: str | None = None
    value: float | None = None
    mode: Literal["min", "max"] = "min"


@dataclass(frozen=True, slots=True)
class Load:
    """Put the weights of the newest checkpoint with `tag` into the model; closing tick only."""

    tag: str


@dataclass(frozen=True, slots=True)
class Export:
    """Write weights to `weights/{name}.safetensors` of the run directory, over what is there."""

    name: str
    weights: str = "live"
    """The live ones, or an average that a callback keeps."""
    models: tuple[str, ...] | None = None
    """The submodules whose weights are written; None: all of the model's."""
    frozen: bool = True
    """Whether parameters that are not trained are written too."""


@dataclass(frozen=True, slots=True)
class Write:
    """Store `payload` as `name` in the run directory's outputs.

    `{name}` in the name stands for the callback's own, `{I}` for its interval. The end of the name
    says how: `.json` and `.txt`, `.csv` of columns by name, `.png` of an image (channels, height,
    width) or a matplotlib figure, `.svg` of a figure; any other name gets `.pt` and takes a tree of
    tensors and plain values.
    """

    name: str
    payload: Any


@dataclass(frozen=True, slots=True)
class Set:
    """Change an optimizer's hyper-parameter: `lr`, or `lr` of one group as `lr/encoder`.

    `trainable/encoder.*` says whether the parameters of that name pattern, or of the parameter
    group of that name, are trained: True or False. Only those that the optimizer holds can be.
    """

    target: str
    value: Any
    told: bool = True
    """Whether the journal tells of it; no need for what follows from counts alone."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run after this whole tick."""

    reason: str


@dataclass(frozen=True, slots=True)
class Do:
    """Run `action` of the run's table of actions."""

    action: str
    options: Mapping[str, Any] = field(default_factory=dict)


Effect: TypeAlias = Log | Say | Save | Load | Export | Write | Set | Stop | Do
