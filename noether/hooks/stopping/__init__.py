"""When a run has gone on long enough."""

from noether.hooks.stopping.limits import stop_at, threshold_stop
from noether.hooks.stopping.patience import early_stopping
from noether.hooks.stopping.time import deadline, time_limit
from noether.hooks.stopping.worse import divergence_stop

__all__ = [
    "deadline",
    "divergence_stop",
    "early_stopping",
    "stop_at",
    "threshold_stop",
    "time_limit",
]
