"""How the suite measures: ways alternate in one run, and what they took becomes rows."""

import contextlib
import gc
import io
import multiprocessing
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

Reading = Mapping[str, float]
"""What one training took, by what was read and its unit: "CPU, us" say."""
Spread = list[float]
"""The lower quartile, the median and the upper one."""


@dataclass(frozen=True)
class Row:
    """What is said of one way: numbers, spreads, or words, each under the title of its column."""

    way: str
    values: Mapping[str, Any]
    group: str = ""


@dataclass(slots=True)
class Clock:
    """Reads both clocks as the first counted update computes its loss, and after the last one."""

    counted: int
    warm: int = 50
    seen: int = 0
    readings: list[tuple[float, float]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The updates to be made: some to get warm, those that count, one that tells their end."""
        return self.warm + self.counted

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        """The loss of a batch of (inputs, labels)."""
        self.seen += 1
        if self.seen in (self.warm, self.total):
            self.readings.append((time.process_time(), time.perf_counter()))
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    def reading(self) -> Reading:
        """Microseconds of an update."""
        (cpu, wall), (cpu_end, wall_end) = self.readings
        share = 1e6 / self.counted
        return {"CPU, us": share * (cpu_end - cpu), "wall, us": share * (wall_end - wall)}


def alternated(ways: Mapping[str, Callable[[], Reading]], rounds: int) -> dict[str, list[Reading]]:
    """What every way took in every round; each round begins with another one."""
    found: dict[str, list[Reading]] = {way: [] for way in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            gc.collect()
            gc.freeze()  # what others have imported is nothing this way's collector should visit
            found[name].append(ways[name]())
    return found


def compared(found: Mapping[str, Sequence[Reading]], base: str, group: str = "") -> list[Row]:
    """A row for each way: medians, and the spread of the ratios to the base in the same round."""
    rows = []
    for way, readings in found.items():
        values: dict[str, Any] = {}
        for what in readings[0]:
            values[what] = statistics.median(reading[what] for reading in readings)
            values[ratio_of(what)] = spread(
                [one[what] / hand[what] for one, hand in zip(readings, found[base], strict=True)]
            )
        rows.append(Row(way, values, group))
    return rows


def ratio_of(what: str) -> str:
    """The title of the column of ratios: "CPU, us" has "CPU ratio"."""
    return f"{what.partition(',')[0]} ratio"


def spread(values: Sequence[float]) -> Spread:
    """The quartiles; of a single value that value."""
    if len(values) == 1:
        return [values[0]] * 3
    return statistics.quantiles(values, method="inclusive")


def cpu_of_ended() -> float:
    """Processor seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function gives in a fresh process of one thread."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_single_threaded, function, *arguments).result()


def _single_threaded(function: Callable[..., Any], *arguments: Any) -> Any:
    multiprocessing.set_start_method(None, force=True)  # as in any process, not as for this one
    torch.set_num_threads(1)
    return function(*arguments)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed or warned of within."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
