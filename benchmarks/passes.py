"""The wait at the start of an evaluation each epoch: one pool, beside loaders of their own.

Run `make bench`. Each way trains the same epochs with two workers, in turn, in one run; the wait
is from the end of the epoch's last update to the first batch of the evaluation.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader

import noether
from noether import Callback, DataPass, TrainState, every

EPOCHS, REPEATS, WORKERS, BATCH = 6, 3, 2, 16
Way = Callable[[], tuple[list[float], float]]


class Images:
    """Samples that take about half a millisecond to make."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.full((3, 64, 64), float(index))
        return torch.nn.functional.avg_pool2d(image.sqrt().sin(), 8).flatten(), index % 10


TRAIN, VAL = Images(256), Images(64)


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(192, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))


def loss(model: Any, batch: Any) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


def pooled() -> tuple[list[float], float]:
    """noether: the evaluation's batches are loaded by training's workers, ahead of time."""
    waits: list[float] = []
    ended: list[float] = []

    def note(state: TrainState) -> None:
        ended[:] = [time.perf_counter()]

    def process(model: Any, batch: Any) -> dict[str, Any]:
        if ended:
            waits.append(time.perf_counter() - ended.pop())
        return {"right": model.predict(batch).argmax(-1) == batch[1]}

    noting = Callback("noting", after_update=note)
    passing = Callback(
        "passing",
        on_schedule=lambda state: None,
        data=DataPass("val", process, "mean"),
        schedule=every(epochs=1),
    )
    begun = time.perf_counter()
    noether.train(
        model(),
        TRAIN,
        loss=loss,
        optimizer=sgd,
        until={"epochs": EPOCHS},
        batch_size=BATCH,
        callbacks=[noting, passing],
        datasets={"val": VAL},
        workers=WORKERS,
        defaults=False,
    )
    return waits, time.perf_counter() - begun


def with_loaders(evaluation: Callable[[], Iterable[Any]]) -> tuple[list[float], float]:
    """A loop by hand, with a loader of persistent workers for training."""
    waits = []
    begun = time.perf_counter()
    options: dict[str, Any] = {"batch_size": BATCH, "num_workers": WORKERS}
    training = DataLoader(TRAIN, shuffle=True, persistent_workers=True, **options)
    net = model()
    optimizer = sgd(net.parameters())
    for _ in range(EPOCHS):
        for batch in training:
            optimizer.zero_grad()
            loss(net, batch).backward()
            optimizer.step()
        ended, first = time.perf_counter(), True
        with torch.no_grad():
            for inputs, labels in evaluation():
                if first:
                    waits.append(time.perf_counter() - ended)
                first = False
                (net(inputs).argmax(-1) == labels).float().mean()
    return waits, time.perf_counter() - begun


def persistent() -> tuple[list[float], float]:
    """By hand: a second loader, whose workers stay."""
    loader = DataLoader(VAL, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True)
    return with_loaders(lambda: loader)


def made_anew() -> tuple[list[float], float]:
    """By hand: a loader made for each evaluation."""
    return with_loaders(lambda: DataLoader(VAL, batch_size=BATCH, num_workers=WORKERS))


WAYS: dict[str, Way] = {"one pool": pooled, "persistent": persistent, "made anew": made_anew}


def main() -> None:
    """Print waits and times, and what they are beside the pool's."""
    waits: dict[str, list[float]] = {name: [] for name in WAYS}
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(REPEATS):
        for name, way in WAYS.items():
            seen, took = way()
            waits[name] += seen
            times[name].append(took)
    base, whole = statistics.median(waits["one pool"]), statistics.median(times["one pool"])
    print(f"wait at the start of a pass, {WORKERS} workers, {EPOCHS} epochs, {REPEATS} times each")
    for name in WAYS:
        wait, took = statistics.median(waits[name]), statistics.median(times[name])
        print(
            f"{name:10}  median {wait * 1e3:6.2f} ms ({wait / base:5.1f})  "
            f"longest {max(waits[name]) * 1e3:6.1f} ms  run {took:.2f} s ({took / whole:.2f})"
        )


if __name__ == "__main__":
    main()
