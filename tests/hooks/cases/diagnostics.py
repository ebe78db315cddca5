from noether import hooks
from tests.hooks.cases.case import Case

CASES = {
    "memory_snapshot": Case(
        hooks.memory_snapshot(start=2, updates=3),
        {},
        {"name": "snapshot", "start": 10, "updates": 1, "max_entries": 1000},
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
