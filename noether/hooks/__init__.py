"""The built-in callbacks: functions that return a `Callback` and take keyword options only."""

from noether.hooks.averaging import ema
from noether.hooks.checkpointing import best_checkpoint, checkpoint
from noether.hooks.evaluation import accuracy, best_metric, evaluate, offline_loss
from noether.hooks.monitoring import learning_rate, online_loss, param_count, progress
from noether.hooks.outputs import images, predictions, text_samples, track_outputs
from noether.hooks.stopping import early_stopping

__all__ = [
    "accuracy",
    "best_checkpoint",
    "best_metric",
    "checkpoint",
    "early_stopping",
    "ema",
    "evaluate",
    "images",
    "learning_rate",
    "offline_loss",
    "online_loss",
    "param_count",
    "predictions",
    "progress",
    "text_samples",
    "track_outputs",
]
