import torch

from noether import hooks
from tests.hooks.cases.case import Case

CASES = {
    "swa": Case(
        hooks.swa(start=0.5, lr=0.01, anneal_epochs=2, update_bn="val"),
        {},
        {
            "name": "mean",
            "start": 0.5,
            "every": 2,
            "lr": 0.01,
            "anneal": "linear",
            "anneal_epochs": 5,
            "buffers": "average",
            "update_bn": "val",
            "every_n_epochs": 2,
        },
        {"norm.running_mean": torch.zeros(4).double(), "norm.running_var": torch.ones(4).double()},
        raises=(ValueError,),
    ),
    "ema": Case(
        hooks.ema(decay=[0.9, 0.5], start=2, every=2, warmup=True),
        {"decay": 0.9},
        {
            "name": "averages",
            "decay": [0.9, 0.5],
            "start": 2,
            "every": 2,
            "warmup": True,
            "buffers": "average",
            "model_paths": ["0"],
            "device": "cpu",
            "schedule": "every(epochs=1)",
        },
    ),
}
