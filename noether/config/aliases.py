"""Callback sections of Emmi AI's noether, by the names its code and documentation use.

A lookup: nothing is imported for these names, and no class is made.
"""

from collections.abc import Mapping
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
    """Why a class can't be a callback here, and what is written instead; None for what may be one.

    >>> refused("my_project.ema")
    """
    if not isinstance(kind, str):
        return None
    home, _, name = kind.rpartition(".")
    if name in BASES:
        return (
            f"{kind} is a base class, and nothing is derived here: write a function of the "
            "snapshot under @every(epochs=1), or for a pass over a data set use `kind: evaluate`"
        )
    if ours(kind) is None and name[:1].isupper() and not home.startswith("torch"):
        return (
            f"{kind} is the name of a class; here callbacks are functions: write one of the "
            "snapshot under @every(epochs=1), `kind: evaluate` for a pass over a data set, or a "
            "function under @noether.factory that returns a callback"
        )
    return None
