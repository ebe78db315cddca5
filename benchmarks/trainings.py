"""The small training that loops are measured with: by hand, and with noether."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from measured import Clock, Reading, quiet
from torch.utils.data import DataLoader, TensorDataset

import noether
from noether import Callback, TrainState, every

BATCH = 32
DATA = TensorDataset(torch.randn(20_000, 20), torch.randint(0, 10, (20_000,)))
OPTIMIZERS: Mapping[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "AdamW": torch.optim.AdamW,
}
BETWEEN = 50
"""Updates between two looks at the usual monitoring."""
DUE = 1000
"""Updates between two firings of a dormant callback."""


def model() -> torch.nn.Module:
    """20 inputs, two hidden layers of 64, 10 classes."""
    sizes = ((20, 64), (64, 64), (64, 10))
    layers = [part for size in sizes for part in (torch.nn.Linear(*size), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


def loader() -> Any:
    """What is given to each loop that takes a loader."""
    return DataLoader(DATA, BATCH, shuffle=True)


def gathered() -> Iterator[Any]:
    """An epoch's batches, taken from the whole tensors without a loader."""
    for chosen in torch.randperm(len(DATA)).split(BATCH):
        yield [whole[chosen] for whole in DATA.tensors]


def endless(epoch: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    while True:
        yield from epoch()


def by_hand(optimizer: str, counted: int, epoch: Callable[[], Iterable[Any]] = loader) -> Reading:
    """The loop that anyone writes."""
    clock, net = Clock(counted), model()
    steps = OPTIMIZERS[optimizer](net.parameters())
    for batch in islice(endless(epoch), clock.total):
        steps.zero_grad()
        clock(net, batch).backward()
        steps.step()
    return clock.reading()


def ours(optimizer: str, counted: int, data: Any = DATA, **options: Any) -> Reading:
    """The same with noether."""
    clock = Clock(counted)
    with quiet():
        noether.train(
            model(),
            data,
            loss=clock,
            optimizer=OPTIMIZERS[optimizer],
            until={"updates": clock.total},
            batch_size=BATCH,
            **options,
        )
    return clock.reading()


def monitored(optimizer: str, counted: int, **options: Any) -> Reading:
    """The default callbacks."""
    look = every(updates=BETWEEN)
    return ours(optimizer, counted, log=look, track=look, **options)


def journalled(optimizer: str, counted: int) -> Reading:
    """The default callbacks without checkpoints, all that they say written to the disk."""
    with tempfile.TemporaryDirectory() as folder:
        return monitored(optimizer, counted, defaults={"checkpoint": False}, run_dir=folder)


def dormant(optimizer: str, counted: int, callbacks: int, due: int = DUE) -> Reading:
    """Callbacks that are hardly ever due."""
    schedule = every(updates=due)
    waiting = [Callback(f"c{i}", on_schedule=nothing, schedule=schedule) for i in range(callbacks)]
    return ours(optimizer, counted, callbacks=waiting, defaults=False)


def nothing(state: TrainState) -> None:
    """The hook of a callback that only waits."""
