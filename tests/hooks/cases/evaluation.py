import torch

from noether import every, hooks
from tests.hooks.cases.case import Case
from tests.sample_project import absolute_errors, largest_error
from tests.strategies import labelled

PASS = {"name": "validation", "dataset": "val", "batch_size": 8, "weights": "ema", "limit": 3}
PROJECT = "tests.sample_project"
FUNCTIONS = {"process": {"kind": f"{PROJECT}.errors"}, "finish": {"kind": f"{PROJECT}.worst"}}

CASES = {
    "accuracy": Case(
        every(epochs=1)(hooks.accuracy(dataset="val")),
        {"dataset": "val", "every_n_epochs": 1},
        {**PASS, "every_n_updates": 10},
        {"correct": 0.5},
        datasets={"val": labelled(6)},
    ),
    "best_metric": Case(
        hooks.best_metric(
            source="loss/val/total",
            targets=["loss/val/mse"],
            optional_targets=["accuracy/val"],
            min_delta=0.1,
        ),
        {"source": "loss/val/total", "targets": ["accuracy/val"]},
        {
            "name": "at best",
            "source": "score",
            "targets": ["a"],
            "optional_targets": ["b"],
            "mode": "max",
            "min_delta": 0.1,
            "schedule": "every(epochs=1)",
        },
    ),
    "evaluate": Case(
        every(epochs=1)(
            hooks.evaluate(
                dataset="val",
                process=absolute_errors,
                finish=largest_error,
                reduce={"error": "max"},
                writes=["error/worst"],
            )
        ),
        {"dataset": "val", **FUNCTIONS, "every_n_epochs": 1},
        {**PASS, **FUNCTIONS, "reduce": "max", "writes": ["error/worst"], "every_n_updates": 10},
        {"error": torch.tensor(0.5)},
    ),
    "offline_loss": Case(
        every(epochs=1)(hooks.offline_loss(dataset="val", output_patterns_to_log=["size"])),
        {"dataset": "val", "every_n_epochs": 1},
        {**PASS, "output_patterns_to_log": ["size"], "every_n_samples": 100},
        {"loss/val/total": torch.tensor(0.5), "size/val": torch.tensor(2.0)},
    ),
}
