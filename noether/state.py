"""The immutable snapshot that a hook sees."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from noether.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

Event: TypeAlias = Literal[
    "start", "accumulation_step", "before_update", "update", "end", "evaluation"
]


@dataclass(frozen=True, slots=True)
class ModelView:
    """A borrowed, read-only view of the model: current during the call, copied by what keeps it."""

    parameters: Mapping[str, "Tensor"]
    buffers: Mapping[str, "Tensor"]
    call: Callable[..., Any] = field(repr=False)
    losses: Callable[[Any], "tuple[Mapping[str, Tensor], Any]"] = field(repr=False)
    norm: Callable[[], "Tensor | None"] = field(repr=False)
    recording: Callable[[Any, Sequence[str]], Mapping[str, Any]] = field(repr=False)
    statistics: "Callable[[Any], Mapping[str, Tensor]]" = field(repr=False)

    @property
    def gradients(self) -> Mapping[str, "Tensor"]:
        """Parameter names to gradients, where they exist."""
        return {n: p.grad for n, p in self.parameters.items() if p.grad is not None}

    @property
    def grad_norm(self) -> "Tensor | None":
        """Norm of all gradients before clipping, 0-dimensional; None where there are none."""
        return self.norm()

    def loss(self, batch: Any) -> Mapping[str, "Tensor"]:
        """The run's loss of a batch, by name, `total` among them, in the run's precision."""
        return self.losses(batch)[0]

    def loss_and_outputs(self, batch: Any) -> "tuple[Mapping[str, Tensor], Any]":
        """The run's loss of a batch, and what the loss function returned beside it."""
        return self.losses(batch)

    def predict(self, batch: Any) -> Any:
        """The model's output for a batch, in the run's precision.

        The inputs are the first element of a tuple or list, else the batch itself.
        """
        return self.call(_inputs(batch))

    def record(self, batch: Any, modules: Sequence[str] = ("*",)) -> Mapping[str, Any]:
        """What the submodules whose dotted names match a pattern give for a batch, by name.

        Of a submodule that is called more than once, the last call's.
        """
        return self.recording(_inputs(batch), modules)

    def batch_statistics(self, batch: Any) -> "Mapping[str, Tensor]":
        """What a batch alone makes of batch norms' running statistics, by the buffers' names.

        The run's loss of it is computed for that, in training mode; no buffer is changed.
        """
        return self.statistics(batch)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model itself, in the run's precision."""
        return self.call(*args, **kwargs)


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch


UNKNOWN = Progress(None, None, None, None)
"""A horizon of which nothing is known."""


@dataclass(frozen=True, slots=True)
class TrainState:
    """One snapshot of a run. Tensors in it are borrowed: copy what you keep.

    >>> TrainState("update", Progress(epoch=0), Progress(epoch=1)).closes_epoch
    True
    """

    event: Event
    before: Progress
    now: Progress
    performed: bool = True
    """False when a non-finite update was skipped; it counts as an update all the same."""
    total: Progress = UNKNOWN
    """The horizon; a count that isn't known is None."""
    losses: Mapping[str, "Tensor"] = field(default_factory=dict)
    """Mean over the update's samples, by name, `total` among them; on the device."""
    outputs: Any = None
    """What the loss function returned beside the loss, of the last micro-batch."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last value of each metric, a plain number equal on all ranks."""
    fresh: frozenset[str] = frozenset()
    """The metrics produced in this tick."""
    results: Mapping[str, Any] = field(default_factory=dict)
    """What the callback's own data pass gave."""
    model: ModelView | Any = None
    hyper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Hyper-parameters by parameter group: `hyper["default"]["lr"]`."""
    dataset_lengths: Mapping[str, int | None] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds of this update by part: data_wait, forward, backward, step (the optimizer's), and
    pause: what data passes and saves took since the update before. Besides, where they are known,
    what loading its samples took on this rank: getitem, the data set itself (of an iterable, going
    through it), and collate; in a worker it may have been done ahead of the wait for data. Of a
    DataLoader of the user's own neither is known, and of rows gathered from whole tensors there is
    no collate."""
    hook_seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each callback's hooks have taken in this session; borrowed: it counts on."""
    memories: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1
    reason: str | None = None
    """Why the run ended, on the closing tick."""
    exception: str | None = None
    """The text of the exception that ends the run, for `on_exception`."""
    label: str = ""
    """With the results of a data pass: what `{I}` in the callback's own keys stands for."""

    @property
    def closes_epoch(self) -> bool:
        """Whether this tick's update was the last of its epoch."""
        return bool(self.now.epoch > self.before.epoch)
