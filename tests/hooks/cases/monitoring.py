from noether import every, hooks, once_at_end
from tests.hooks.cases.case import Case

CASES = {
    "data_wait": Case(
        hooks.data_wait(schedule=every(updates=3)),
        {},
        {"name": "waits", "warn_above": 0.5, "schedule": "every(epochs=1)"},
        timed=True,
    ),
    "dataset_stats": Case(hooks.dataset_stats(), {}, {"name": "sets"}),
    "hook_times": Case(
        hooks.hook_times(schedule=every(updates=3)),
        {},
        {"name": "costs", "schedule": "every(epochs=1)"},
        timed=True,
    ),
    "model_summary": Case(hooks.model_summary(), {}, {"name": "parts", "depth": 3}),
    "peak_memory": Case(
        every(updates=3)(hooks.peak_memory()),
        {"every_n_updates": 1},
        {"name": "most", "reset": True, "every_n_updates": 5},
        timed=True,
        observes=True,
    ),
    "slow_rank": Case(
        hooks.slow_rank(schedule=every(updates=3)),
        {},
        {"name": "ranks", "factor": 2.0, "schedule": "every(epochs=1)"},
        timed=True,
    ),
    "system_metrics": Case(
        hooks.system_metrics(schedule=every(updates=3)),
        {},
        {
            "name": "machine",
            "cpu": False,
            "memory": False,
            "disk": False,
            "gpu": False,
            "schedule": "every(epochs=1)",
        },
        timed=True,
        observes=True,
    ),
    "throughput": Case(
        hooks.throughput(window=2, warmup=1, flops_per_sample=10.0, peak_flops=1e9),
        {},
        {
            "name": "speed",
            "window": 50,
            "warmup": 5,
            "flops_per_sample": 1e9,
            "peak_flops": 1e14,
            "schedule": "every(epochs=1)",
        },
        timed=True,
    ),
    "train_time": Case(
        every(updates=3)(hooks.train_time()),
        {"every_n_updates": 1},
        {"name": "times", "every_n_updates": 5},
        timed=True,
    ),
    "learning_rate": Case(
        every(updates=2)(hooks.learning_rate(momentum=True)),
        {"every_n_updates": 1},
        {"name": "rates", "weight_decay": False, "momentum": True, "every_n_updates": 5},
    ),
    "online_loss": Case(
        every(updates=3)(hooks.online_loss()),
        {"every_n_updates": 1},
        {"name": "losses", "every_n_updates": 5},
    ),
    "param_count": Case(hooks.param_count(), {}, {"name": "sizes", "depth": 2}),
    "progress": Case(
        hooks.progress(schedule=every(updates=2) | once_at_end),
        {},
        {"name": "lines", "max_silence": 60.0, "schedule": "every(updates=10)"},
        timed=True,
    ),
}
