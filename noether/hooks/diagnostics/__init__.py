"""What goes on inside: norms, activations, spikes, memory and time."""

from noether.hooks.diagnostics.activations import activation_stats
from noether.hooks.diagnostics.finite import nonfinite_guard
from noether.hooks.diagnostics.histograms import histograms
from noether.hooks.diagnostics.memory import memory_snapshot, oom_observer
from noether.hooks.diagnostics.norms import norms
from noether.hooks.diagnostics.profiling import profile
from noether.hooks.diagnostics.spikes import loss_spike

__all__ = [
    "activation_stats",
    "histograms",
    "loss_spike",
    "memory_snapshot",
    "nonfinite_guard",
    "norms",
    "oom_observer",
    "profile",
]
