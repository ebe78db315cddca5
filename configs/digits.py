"""The same run as digits.yaml, in Python."""

from functools import partial

import torch

import noether
from noether import after, chain, every, hooks, on_improvement
from noether.examples import cross_entropy, digits, mlp

METRIC = "loss/val/total"
pipeline = chain(
    every(epochs=1)(hooks.offline_loss(dataset="val")).named("validation"),
    every(epochs=1)(hooks.accuracy(dataset="val")),
    hooks.best_checkpoint(metric=METRIC, schedule=on_improvement(METRIC) & after(epochs=2)),
    hooks.early_stopping(metric=METRIC, patience=8),
)

if __name__ == "__main__":
    torch.manual_seed(0)
    noether.train(
        mlp(hidden=256, dropout=0.3),
        digits(split="train"),
        loss=cross_entropy(),
        optimizer=partial(torch.optim.AdamW, lr=2e-3),
        lr_scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=2700),
        until={"epochs": 60},
        batch_size=32,
        callbacks=pipeline,
        datasets={"val": digits(split="val")},
        run_dir="runs/digits",
    )
