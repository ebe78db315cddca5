from noether import every, hooks, once_at_end
from tests.hooks.cases.case import Case

CASES = {
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
        {"name": "lines", "schedule": "every(updates=10)"},
        timed=True,
    ),
}
