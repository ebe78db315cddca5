"""The callbacks that are added by themselves, and how to switch them off."""

from collections.abc import Callable, Mapping
from typing import Any

from noether import hooks
from noether.callback import Callback, Pipeline
from noether.errors import ConfigurationError, suggestion
from noether.progress import Progress
from noether.schedules import Schedule, at, every

LIVE = "eta"
"""The name by which the live line of a terminal is switched off; no callback draws it."""
UNKNOWN_LENGTH = 5000
"""Updates that a run of unknown length is taken to have, for the default intervals."""


def with_defaults(
    pipeline: Pipeline,
    total: Progress,
    *,
    defaults: bool | Mapping[str, bool],
    log: Schedule | None,
    track: Schedule | None,
    saves: bool,
) -> Pipeline:
    """The pipeline with the default callbacks before it; an entry of the same name replaces one.

    Raises ConfigurationError for a name in `defaults` that no default has.
    """
    table = _table(
        _share(total, 100) if log is None else log, _share(total, 500) if track is None else track
    )
    if isinstance(defaults, Mapping):
        known = (*table, LIVE)
        unknown = [name for name in defaults if name not in known]
        if unknown:
            raise ConfigurationError(
                f"defaults: no default callback is named {name!r}. {suggestion(name, known)}"
                for name in unknown
            )
    taken = {callback.name for callback in pipeline}
    if not saves or any(made_by(callback, hooks.checkpoint) for callback in pipeline):
        taken.add("checkpoint")
    added = [make() for name, make in table.items() if wanted(defaults, name) and name not in taken]
    return (*_without_doubles(added, pipeline), *pipeline)


def _share(total: Progress, parts: int) -> Schedule:
    """About `parts` times in the run; where its length is not known, as for 5,000 updates."""
    length = UNKNOWN_LENGTH if total.update is None else total.update
    return every(updates=max(length // parts, 1))


def made_by(callback: Callback, factory: Callable[..., Callback]) -> bool:
    """Whether the callback came from this factory."""
    origin = callback.origin
    named = (factory.__module__, factory.__qualname__)
    return origin is not None and (origin.module, origin.qualname) == named


def _table(log: Schedule, track: Schedule) -> Mapping[str, Callable[[], Callback]]:
    return {
        "dataset_stats": hooks.dataset_stats,
        "param_count": hooks.param_count,
        "progress": lambda: hooks.progress(schedule=log),
        "train_time": lambda: log(hooks.train_time()),
        "peak_memory": lambda: log(hooks.peak_memory()),
        "online_loss": lambda: log(hooks.online_loss()),
        "learning_rate": lambda: (track | at(updates=1))(hooks.learning_rate()),
        "online_loss/track": lambda: track(hooks.online_loss()).named("online_loss/track"),
        "checkpoint": hooks.checkpoint,
    }


def wanted(defaults: Any, name: str) -> bool:
    """Whether what goes by that name is added by itself."""
    return bool(defaults.get(name, True) if isinstance(defaults, Mapping) else defaults)


def _without_doubles(added: list[Callback], pipeline: Pipeline) -> list[Callback]:
    """Without a default `online_loss` where another one would write the same keys."""
    kept: list[Callback] = []
    for callback in added:
        others = [c.label for c in (*kept, *pipeline) if made_by(c, hooks.online_loss)]
        if not made_by(callback, hooks.online_loss) or callback.label not in others:
            kept.append(callback)
    return kept
