from noether import every, hooks
from tests.hooks.cases.case import Case

EACH = {"schedule": "every(epochs=2)"}

CASES = {
    "collect_garbage": Case(
        hooks.collect_garbage(schedule=every(updates=3)), {}, {"name": "sweep", **EACH}
    ),
    "empty_cache": Case(hooks.empty_cache(schedule=every(updates=3)), {}, {"name": "room", **EACH}),
}
