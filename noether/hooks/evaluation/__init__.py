"""What the model is worth on a data set."""

from noether.hooks.evaluation.best import best_metric
from noether.hooks.evaluation.function import evaluate
from noether.hooks.evaluation.losses import accuracy, offline_loss

__all__ = ["accuracy", "best_metric", "evaluate", "offline_loss"]
