from noether import after, hooks
from tests.hooks.cases.case import Case

LOSS = "loss/val/total"
NEVER = "2999-01-01T00:00:00+01:00"
SCORE = {"metric": "score", "schedule": "every(epochs=1)"}

CASES = {
    "deadline": Case(
        hooks.deadline(at=NEVER, margin=5),
        {"at": NEVER},
        {"name": "end", "at": NEVER, "margin": 9.5},
        timed=True,
    ),
    "divergence_stop": Case(
        hooks.divergence_stop(metric=LOSS, factor=9, start=after(updates=2)),
        {"metric": LOSS, "above": 9.0},
        {
            "name": "worse",
            "above": 1.0,
            "below": 2.0,
            "factor": 3.0,
            "mode": "max",
            "start": "after(updates=3)",
            **SCORE,
        },
    ),
    "early_stopping": Case(
        hooks.early_stopping(metric=LOSS, patience=9, min_delta=0.1, threshold_mode="rel"),
        {"metric": LOSS, "patience": 2},
        {
            "name": "patient",
            "patience": 3,
            "mode": "max",
            "min_delta": 0.1,
            "threshold_mode": "rel",
            "baseline": 0.5,
            "start": "after(epochs=2)",
            "check_finite": False,
            **SCORE,
        },
    ),
    "stop_at": Case(
        hooks.stop_at(update=7), {"epoch": 2}, {"name": "end", "epoch": 1, "update": 2, "sample": 3}
    ),
    "threshold_stop": Case(
        hooks.threshold_stop(metric=LOSS, below=0.0),
        {"metric": LOSS, "below": 0.1},
        {"name": "there", "above": 0.9, "below": 0.1, **SCORE},
    ),
    "time_limit": Case(
        hooks.time_limit(hours=9, margin=3),
        {"minutes": 5.0},
        {"name": "budget", "hours": 1.0, "minutes": 2.0, "seconds": 3.0, "margin": 4.0},
        timed=True,
    ),
}
