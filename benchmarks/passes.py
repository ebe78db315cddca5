"""The wait at the start of an evaluation each epoch: one pool, beside loaders by hand.

Each way trains the same epochs with two workers; the wait is from the end of the epoch's last
update to the first batch of the evaluation.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from measured import Reading, Row, alternated, compared, cpu_of_ended
from torch.utils.data import DataLoader

import noether
from noether import Callback, DataPass, TrainState, every

WORKERS, BATCH = 2, 16
BASE = "by hand, workers that stay"


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
PER_EPOCH = len(TRAIN) // BATCH


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(192, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))


def loss(model: Any, batch: Any) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


def reading(train: Callable[[int], list[float]], epochs: int) -> Reading:
    """What a training of so many epochs took, the end of its workers too."""
    wall, cpu = time.perf_counter(), time.process_time() + cpu_of_ended()
    waits = train(epochs)
    gc.collect()  # workers of loaders end with them
    wall, cpu = time.perf_counter() - wall, time.process_time() + cpu_of_ended() - cpu
    return {
        "wait, ms": 1e3 * statistics.median(waits),
        "wall, ms per epoch": 1e3 * wall / epochs,
        "CPU, ms per epoch": 1e3 * cpu / epochs,
    }


def pooled(epochs: int) -> list[float]:
    """The waits of noether: evaluation's batches are loaded ahead by training's workers."""
    ended: list[float] = []
    waits: list[float] = []

    def note(state: TrainState) -> None:
        ended[:] = [time.perf_counter()]

    def process(model: Any, batch: Any) -> dict[str, Any]:
        if ended:
            waits.append(time.perf_counter() - ended.pop())
        return {"right": model.predict(batch).argmax(-1) == batch[1]}

    passing = DataPass("val", process, "mean")
    noether.train(
        model(),
        TRAIN,
        loss=loss,
        optimizer=sgd,
        until={"epochs": epochs},
        batch_size=BATCH,
        callbacks=[
            Callback("noting", after_update=note),
            every(epochs=1)(Callback("passing", on_schedule=nothing, data=passing)),
        ],
        datasets={"val": VAL},
        workers=WORKERS,
        defaults=False,
    )
    return waits


def nothing(state: TrainState) -> None:
    """What is done with the results of a pass."""


def served(data: Images, *, stay: bool, shuffle: bool = False) -> Any:
    """A loader by hand."""
    return DataLoader(data, BATCH, shuffle, num_workers=WORKERS, persistent_workers=stay)


def by_hand(epochs: int, evaluation: Callable[[], Iterable[Any]]) -> list[float]:
    """The waits of a loop by hand, with a loader of workers that stay for training."""
    training, net, waits = served(TRAIN, stay=True, shuffle=True), model(), []
    optimizer = sgd(net.parameters())
    for _ in range(epochs):
        for batch in training:
            optimizer.zero_grad()
            loss(net, batch).backward()
            optimizer.step()
        ended = time.perf_counter()
        first, *_ = evaluated(net, evaluation())
        waits.append(first - ended)
    return waits


@torch.no_grad()
def evaluated(net: torch.nn.Module, batches: Iterable[Any]) -> Iterator[float]:
    """Evaluate a network; when each batch came."""
    for inputs, labels in batches:
        yield time.perf_counter()
        (net(inputs).argmax(-1) == labels).float().mean()


def staying(epochs: int) -> list[float]:
    """A second loader, whose workers stay."""
    loader = served(VAL, stay=True)
    return by_hand(epochs, lambda: loader)


def made_anew(epochs: int) -> list[float]:
    """A loader made for each evaluation."""
    return by_hand(epochs, lambda: served(VAL, stay=False))


WAYS: dict[str, Callable[[int], list[float]]] = {
    BASE: staying,
    "by hand, a loader for each pass": made_anew,
    "noether": pooled,
}


def measure(rounds: int, updates: int) -> list[Row]:
    epochs = max(updates // PER_EPOCH, 1)
    ways = {name: lambda way=way: reading(way, epochs) for name, way in WAYS.items()}
    return compared(alternated(ways, rounds), BASE)
