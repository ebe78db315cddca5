"""What a run costs beside the same training by hand: all switched off, the default callbacks,
and a thousand callbacks that are hardly ever due.

    python benchmarks/loops.py [--rounds 9] [--updates 1200]

The ways alternate within one process on one thread; of each round the ratio of processor time per
update is taken, and of the ratios the median. The data is a TensorDataset, as each way takes it
by itself: the loop by hand through a DataLoader, noether by number.
"""

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import noether
from noether import Callback, TrainState, every

BATCH, WARM = 32, 50
DATA = TensorDataset(torch.randn(20_000, 20), torch.randint(0, 10, (20_000,)))
OPTIMIZERS: Mapping[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "AdamW": torch.optim.AdamW,
}


def model() -> torch.nn.Module:
    sizes = ((20, 64), (64, 64), (64, 10))
    layers = [part for size in sizes for part in (torch.nn.Linear(*size), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


class Clock:
    """A loss function that reads the processor's clock at its first counted update and its last."""

    def __init__(self, updates: int) -> None:
        self.updates, self.seen, self.readings = updates, 0, list[float]()

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        self.seen += 1
        if self.seen in (WARM, self.updates):
            self.readings.append(time.process_time())
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    def update(self) -> float:
        """Microseconds of an update."""
        first, last = self.readings
        return 1e6 * (last - first) / (self.updates - WARM)


def by_hand(name: str, updates: int) -> float:
    clock, net = Clock(updates), model()
    optimizer = OPTIMIZERS[name](net.parameters())
    loader = DataLoader(DATA, BATCH, shuffle=True)
    while clock.seen < updates:
        for batch in loader:
            optimizer.zero_grad()
            clock(net, batch).backward()
            optimizer.step()
            if clock.seen == updates:
                break
    return clock.update()


def ours(name: str, updates: int, **options: Any) -> float:
    clock = Clock(updates)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        noether.train(
            model(),
            DATA,
            loss=clock,
            optimizer=OPTIMIZERS[name],
            until={"updates": updates},
            batch_size=BATCH,
            **options,
        )
    return clock.update()


def nothing(state: TrainState) -> None: ...


def dormant(count: int) -> list[Callback]:
    schedule = every(updates=1000)
    return [Callback(f"c{i}", on_schedule=nothing, schedule=schedule) for i in range(count)]


WAYS: Mapping[str, Callable[[str, int], float]] = {
    "by hand": by_hand,
    "all off": lambda name, updates: ours(name, updates, defaults=False),
    "defaults, each 50 updates": lambda name, updates: ours(
        name, updates, log=every(updates=50), track=every(updates=50)
    ),
    "1,000 callbacks, each 1,000 updates": lambda name, updates: ours(
        name, updates, defaults=False, callbacks=dormant(1000)
    ),
}


def main() -> None:
    """Print microseconds per update, and the ratios to the loop by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=1200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in OPTIMIZERS:
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, train in WAYS.items():
                times[way].append(train(name, options.updates))
        print(f"{name}, {options.updates} updates of {BATCH} samples, {options.rounds} rounds")
        for way, found in times.items():
            ratios = [one / hand for one, hand in zip(found, times["by hand"], strict=True)]
            low, middle, high = statistics.quantiles(ratios)
            median = statistics.median(found)
            print(f"  {way:36} {median:6.0f} us  {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
