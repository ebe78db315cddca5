import torch

from noether import every, hooks
from tests.hooks.cases.case import Case

CASES = {
    "activation_stats": Case(
        every(epochs=1)(hooks.activation_stats(dataset="val", modules=["0", "3"])),
        {"dataset": "val", "every_n_epochs": 1},
        {
            **{"name": "inside", "dataset": "val", "modules": ["head"], "stats": ["std"]},
            **{"batch_size": 8, "weights": "ema", "limit": 3, "every_n_epochs": 1},
        },
        {"0": torch.tensor([4.0, 0.5, 1.0, 0.25, 0.5, 1.0], dtype=torch.float64)},
    ),
    "histograms": Case(
        every(updates=2)(hooks.histograms(bins=5)),
        {"every_n_updates": 10},
        {
            **{"name": "spread", "parameters": True, "gradients": False, "bins": 10},
            **{"patterns": ["head.*"], "every_n_updates": 10},
        },
        usual=("parameters",),
    ),
    "loss_spike": Case(
        every(updates=2)(hooks.loss_spike(window=4, warmup=3, factor=0.5)),
        {"every_n_updates": 1},
        {
            **{"name": "spikes", "loss": "fit", "window": 10, "factor": 3.0, "warmup": 5},
            **{"action": "stop", "cooldown": 7, "every_n_updates": 5},
        },
    ),
    "memory_snapshot": Case(
        hooks.memory_snapshot(start=2, updates=3),
        {},
        {"name": "snapshot", "start": 10, "updates": 1, "max_entries": 1000},
    ),
    "nonfinite_guard": Case(
        hooks.nonfinite_guard(metrics=True, schedule=every(updates=2)),
        {},
        {
            **{"name": "guard", "losses": False, "gradients": False, "weights": False},
            **{"metrics": True, "schedule": "every(updates=10)"},
        },
    ),
    "norms": Case(
        every(updates=2)(hooks.norms(per_parameter=True)),
        {"every_n_updates": 10},
        {
            **{"name": "sizes", "gradients": False, "weights": False, "updates": True},
            **{"per_parameter": True, "norm": 1.0, "patterns": ["head.*"], "every_n_updates": 5},
        },
        usual=("updates",),
    ),
    "oom_observer": Case(hooks.oom_observer(), {}, {"name": "full", "max_entries": 1000}),
    "profile": Case(
        hooks.profile(wait=2, warmup=1, active=1, repeat=None),
        {},
        {
            **{"name": "traces", "wait": 0, "warmup": 1, "active": 5, "repeat": 3},
            "with_stack": True,
        },
    ),
}
