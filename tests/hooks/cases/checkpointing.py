from noether import hooks
from tests.hooks.cases.case import Case

LOSS = "loss/val/total"

CASES = {
    "checkpoint": Case(
        hooks.checkpoint(),
        {},
        {
            "name": "saves",
            "keep_last": 3,
            "keep_every": "every(epochs=5)",
            "weights_only": True,
            "export": True,
            "models": ["0"],
            "every_n_epochs": 1,
        },
    ),
    "best_checkpoint": Case(
        hooks.best_checkpoint(metric=LOSS, keep_best=2, tolerances=[1, 2]),
        {"metric": LOSS},
        {
            "name": "best",
            "metric": "score",
            "mode": "max",
            "min_delta": 0.1,
            "keep_best": 2,
            "tolerances": [1, 3],
            "export": True,
            "models": ["0"],
            "save_frozen_weights": False,
            "schedule": "every(epochs=1)",
        },
    ),
    "load_best_at_end": Case(
        hooks.load_best_at_end(metric=LOSS),
        {"metric": LOSS},
        {"name": "best", "metric": "score", "mode": "max", "min_delta": 0.1},
    ),
}
