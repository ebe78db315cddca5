"""Pictures of what the model does with the same few samples."""

from collections.abc import Callable
from typing import Any

from noether.callback import Callback, DataPass, factory
from noether.effects import Write
from noether.hooks.outputs.names import prefix, stamp
from noether.state import ModelView, TrainState


@factory
def images(
    *,
    dataset: str,
    plot: Callable[[Any, Any], Any],
    count: int = 4,
    weights: str = "live",
) -> Callback:
    """Write `{name}_E{e}_U{u}_S{s}.png`: what `plot` draws of the first `count` samples.

    `plot(model, batch)` gets these samples as one batch, in evaluation mode, without gradients. It
    returns an image of shape (channels, height, width), a matplotlib figure, best a `Figure` of
    its own, which nobody has to close, or None. `weights` as for `offline_loss`.

    Raises ValueError for a count below 1.

    >>> images(dataset="val", plot=lambda model, batch: model(batch)[0]).name
    'images/val'
    """
    if count < 1:
        raise ValueError(f"images: count is {count}; expected 1 or more")

    def drawn(model: ModelView, batch: Any) -> dict[str, Any]:
        image = plot(model, batch)
        return {} if image is None else {"image": [image]}

    def write(state: TrainState) -> Write | None:
        if not state.results:
            return None
        return Write(f"{{name}}_{stamp(state)}.png", state.results["image"][0])

    return Callback(
        f"{prefix(weights)}images/{dataset}",
        on_schedule=write,
        data=DataPass(dataset, drawn, batch_size=count, weights=weights, limit=1),
        reads=(),
        writes=(),
        on_error="warn",
    )
