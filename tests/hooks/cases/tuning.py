from noether import at, hooks
from tests.hooks.cases.case import Case

LOSS = "loss/val/total"
COURSE = {
    "shape": "step",
    "warmup": 2,
    "by": "epoch",
    "groups": ["default"],
    "power": 1.0,
    "gamma": 0.5,
    "steps": 2,
}
POWER = ("power",)
"""Of another shape than `gamma` and `steps`."""
UNKNOWN = (ValueError,)
"""Where the length of the run is not known, or it has no such group."""
STAGE = {"patterns": ["0.*"], "schedule": "at(epochs=1)"}
BOTH = ["*.weight"]
"""Fits what models of drawn snapshots and of real runs have."""

CASES = {
    "freeze": Case(hooks.freeze(patterns=BOTH), {"patterns": ["0.*"]}, {"name": "still", **STAGE}),
    "lr_schedule": Case(
        hooks.lr_schedule(warmup=2),
        {},
        {"name": "rates", "min_lr": 0.1, **COURSE},
        raises=UNKNOWN,
        usual=POWER,
    ),
    "reduce_on_plateau": Case(
        hooks.reduce_on_plateau(metric=LOSS, patience=0, cooldown=1, factor=0.5),
        {"metric": LOSS},
        {
            "name": "down",
            "metric": "score",
            "mode": "max",
            "factor": 0.5,
            "patience": 2,
            "cooldown": 1,
            "min_lr": 0.01,
            "min_delta": 0.1,
            "groups": ["default"],
            "schedule": "every(epochs=1)",
        },
    ),
    "unfreeze": Case(
        at(updates=4)(hooks.unfreeze(patterns=BOTH)),
        STAGE,
        {"name": "wake", "lr_scale": 0.5, **STAGE},
    ),
    "weight_decay_schedule": Case(
        hooks.weight_decay_schedule(end=0.4, groups=["default"]),
        {"end": 0.4},
        {"name": "decay", "end": 0.2, **COURSE},
        raises=UNKNOWN,
        usual=POWER,
    ),
}
