"""The built-in callbacks: functions that return a `Callback` and take keyword options only."""

from noether.hooks.averaging import ema
from noether.hooks.checkpointing import best_checkpoint, checkpoint
from noether.hooks.evaluation import accuracy, offline_loss
from noether.hooks.monitoring import learning_rate, online_loss, param_count, progress
from noether.hooks.stopping import early_stopping

__all__ = [
    "accuracy",
    "best_checkpoint",
    "checkpoint",
    "early_stopping",
    "ema",
    "learning_rate",
    "offline_loss",
    "online_loss",
    "param_count",
    "progress",
]
