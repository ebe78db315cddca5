"""Callback sections of Emmi AI's noether, by the names its code and documentation use.

A lookup: nothing is imported for these names, and no class is made.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

PACKAGE = "noether.core.callbacks"
CLASSES: Mapping[str, tuple[str, str]] = {
    "ProgressCallback": ("progress", "default.progress"),
    "Progress": ("progress", "progress"),
    "EtaCallback": ("eta", "default.eta"),
    "TrainTimeCallback": ("train_time", "default.train_time"),
    "LrCallback": ("learning_rate", "default.lr"),
    "PeakMemoryCallback": ("peak_memory", "default.peak_memory"),
    "OnlineLossCallback": ("online_loss", "default.online_loss"),
    "ParamCountCallback": ("param_count", "default.param_count"),
    "DatasetStatsCallback": ("dataset_stats", "default.dataset_stats"),
    "CheckpointCallback": ("checkpoint", "checkpoint.checkpoint"),
    "BestCheckpointCallback": ("best_checkpoint", "checkpoint.best_checkpoint"),
    "EmaCallback": ("ema", "checkpoint.ema"),
    "EMACallback": ("ema", "checkpoint.ema"),
    "MetricEarlyStopper": ("early_stopping", "early_stoppers.metric"),
    "MetricEarlyStopping": ("early_stopping", "early_stoppers.metric"),
    "FixedEarlyStopper": ("stop_at", "early_stoppers.fixed"),
    "FixedUpdateEarlyStopping": ("stop_at", "early_stoppers.fixed"),
    "BestMetricCallback": ("best_metric", "online.best_metric"),
    "TrackAdditionalOutputsCallback": ("track_outputs", "online.track_outputs"),
    "TrackOutputsCallback": ("track_outputs", "online.track_outputs"),
    "OfflineLossCallback": ("offline_loss", "offline_loss"),
}
"""Class names: our name, and the module under the package."""
LIVE = "the live line is there without an entry; `defaults: {eta: false}` switches it off"
BASES = (
    *("CallbackBase", "PeriodicCallback", "PeriodicDataIteratorCallback"),
    "PeriodicIteratorCallback",
)


def ours(kind: Any) -> str | None:
    """Our name for one of those classes; None for anything else.

    >>> ours("noether.core.callbacks.checkpoint.ema.EmaCallback"), ours("ema")
    ('ema', None)
    """
    home, _, name = str(kind).rpartition(".")
    if name not in CLASSES:
        return None
    mine, module = CLASSES[name]
    package, _, _ = module.partition(".")
    homes = {"", PACKAGE, f"{PACKAGE}.{package}", f"{PACKAGE}.{module}"}
    if mine == "offline_loss":
        homes |= {"noether.training.callbacks", "noether.training.callbacks.offline_loss"}
    return mine if home in homes else None


def refused(kind: Any) -> str | None:
    """Why one of their classes can't be a callback here; None for what may be one.

    >>> refused("noether.core.callbacks.EmaCalback")
    'noether.core.callbacks.EmaCalback is no callback of theirs; Did you mean EmaCallback?'
    """
    home, _, name = kind.rpartition(".") if isinstance(kind, str) else ("", "", "")
    if name in BASES:
        return (
            f"{kind} is a base class, and nothing is derived here: write a function of the "
            "snapshot under @every(epochs=1), or for a pass over a data set use `kind: evaluate`"
        )
    theirs = home == "" or f"{home}.".startswith((f"{PACKAGE}.", "noether.training."))
    if not theirs or not is_class(kind) or ours(kind) is not None:
        return None
    near = get_close_matches(name, CLASSES, n=1, cutoff=0.9)  # their endings are alike
    return f"{kind} is no callback of theirs; Did you mean {near[0]}?" if near else None


def is_class(kind: Any) -> bool:
    """Whether this is the name of a class, and none of torch's."""
    home, _, name = kind.rpartition(".") if isinstance(kind, str) else ("", "", "")
    return name[:1].isupper() and home.partition(".")[0] != "torch"


def instead(kind: str) -> str:
    """What is written instead of a class of the user's own."""
    return (
        f"{kind} is the name of a class; here callbacks are functions: write one of the "
        "snapshot under @every(epochs=1), `kind: evaluate` for a pass over a data set, or a "
        "function under @noether.factory that returns a callback"
    )
