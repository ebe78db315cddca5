"""The built-in callbacks: functions that return a `Callback` and take keyword options only."""

from noether.hooks.averaging import ema, swa
from noether.hooks.checkpointing import best_checkpoint, checkpoint, load_best_at_end
from noether.hooks.diagnostics import (
    activation_stats,
    histograms,
    loss_spike,
    memory_snapshot,
    nonfinite_guard,
    norms,
    oom_observer,
    profile,
)
from noether.hooks.evaluation import accuracy, best_metric, evaluate, offline_loss
from noether.hooks.housekeeping import collect_garbage, empty_cache
from noether.hooks.monitoring import learning_rate, online_loss, param_count, progress
from noether.hooks.outputs import images, predictions, text_samples, track_outputs
from noether.hooks.stopping import (
    deadline,
    divergence_stop,
    early_stopping,
    stop_at,
    threshold_stop,
    time_limit,
)
from noether.hooks.tuning import (
    freeze,
    lr_schedule,
    reduce_on_plateau,
    unfreeze,
    weight_decay_schedule,
)

__all__ = [
    "accuracy",
    "activation_stats",
    "best_checkpoint",
    "best_metric",
    "checkpoint",
    "collect_garbage",
    "deadline",
    "divergence_stop",
    "early_stopping",
    "ema",
    "empty_cache",
    "evaluate",
    "freeze",
    "histograms",
    "images",
    "learning_rate",
    "load_best_at_end",
    "loss_spike",
    "lr_schedule",
    "memory_snapshot",
    "nonfinite_guard",
    "norms",
    "offline_loss",
    "online_loss",
    "oom_observer",
    "param_count",
    "predictions",
    "profile",
    "progress",
    "reduce_on_plateau",
    "stop_at",
    "swa",
    "text_samples",
    "threshold_stop",
    "time_limit",
    "track_outputs",
    "unfreeze",
    "weight_decay_schedule",
]
