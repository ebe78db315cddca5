"""What a callback may turn while a run goes on: rates, weight decay, what is trained at all."""

from noether.hooks.tuning.course import lr_schedule, weight_decay_schedule
from noether.hooks.tuning.freezing import freeze, unfreeze
from noether.hooks.tuning.plateau import reduce_on_plateau

__all__ = ["freeze", "lr_schedule", "reduce_on_plateau", "unfreeze", "weight_decay_schedule"]
