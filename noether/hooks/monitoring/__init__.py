"""What a run is doing: progress, losses, rates, sizes, times, the machine."""

from noether.hooks.monitoring.costs import hook_times
from noether.hooks.monitoring.losses import online_loss
from noether.hooks.monitoring.progress import progress
from noether.hooks.monitoring.rates import learning_rate
from noether.hooks.monitoring.sizes import dataset_stats, model_summary, param_count
from noether.hooks.monitoring.system import peak_memory, system_metrics
from noether.hooks.monitoring.throughput import throughput
from noether.hooks.monitoring.times import data_wait, slow_rank, train_time

__all__ = [
    "data_wait",
    "dataset_stats",
    "hook_times",
    "learning_rate",
    "model_summary",
    "online_loss",
    "param_count",
    "peak_memory",
    "progress",
    "slow_rank",
    "system_metrics",
    "throughput",
    "train_time",
]
