"""What goes on inside: norms, activations, spikes, memory and time."""

from noether.hooks.diagnostics.memory import memory_snapshot, oom_observer
from noether.hooks.diagnostics.norms import norms
from noether.hooks.diagnostics.profiling import profile

__all__ = ["memory_snapshot", "norms", "oom_observer", "profile"]
