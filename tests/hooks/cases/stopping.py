from noether import hooks
from tests.hooks.cases.case import Case

LOSS = "loss/val/total"

CASES = {
    "early_stopping": Case(
        hooks.early_stopping(metric=LOSS, patience=2),
        {"metric": LOSS, "patience": 2},
        {
            "name": "patient",
            "metric": "score",
            "patience": 3,
            "mode": "max",
            "min_delta": 0.1,
            "schedule": "every(epochs=1)",
        },
    ),
}
