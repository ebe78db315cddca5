import torch

from noether import every, hooks
from tests.hooks.cases.case import Case

PASS = {"name": "validation", "dataset": "val", "batch_size": 8, "weights": "ema", "limit": 3}

CASES = {
    "accuracy": Case(
        every(epochs=1)(hooks.accuracy(dataset="val")),
        {"dataset": "val", "every_n_epochs": 1},
        {**PASS, "every_n_updates": 10},
        {"correct": 0.5},
    ),
    "offline_loss": Case(
        hooks.offline_loss(dataset="val"),
        {"dataset": "val", "every_n_epochs": 1},
        {**PASS, "every_n_samples": 100},
        {"total": torch.tensor(0.5)},
    ),
}
