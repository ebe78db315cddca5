"""The ranks of a run, and the few things that they tell each other."""

import gc
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from noether.feed.fetches import portable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train one model."""

    rank: int = 0
    size: int = 1


ALONE = Ranks()


def ranks_here() -> Ranks:
    """The ranks as torch's process group has them, else as its launcher's environment says."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return Ranks(int(os.environ.get("RANK", "0")), size) if size > 1 else ALONE


@contextmanager
def joined(ranks: Ranks) -> Iterator[None]:
    """A process group around a run on several ranks, unless there is one already."""
    if ranks.size == 1 or dist.is_initialized():
        yield
        return
    gpu = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    try:
        yield
    finally:
        gc.collect()  # the group's threads end with it, and it lives while a model refers to it
        dist.destroy_process_group()


def apart(ranks: Ranks) -> Any:
    """A group of all ranks whose collectives meet none of training's; None where there is one."""
    return None if ranks.size == 1 else dist.new_group(backend="gloo")


def part(group: Any) -> None:
    """End such a group."""
    if group is not None and dist.is_initialized():
        dist.destroy_process_group(group)


def local_device(device: str | None, ranks: Ranks) -> str | None:
    """The device of this rank: of several GPUs in one machine each rank has its own."""
    if device == "cuda" and ranks.size > 1:
        own = int(os.environ.get("LOCAL_RANK", ranks.rank)) % torch.cuda.device_count()
        torch.cuda.set_device(own)
        return f"cuda:{own}"
    return device


def restarted(launch: Any) -> bool:
    """Whether a launcher has started this group again, after a failure of that launch."""
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return again and launch is not None and launch == this_launch()


def this_launch() -> str | None:
    """The launcher of this process, the same when it starts the group again."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if run is None else f"{run}/{os.getppid()}"


def launched() -> bool:
    """Whether a launcher takes any exit code but 0 for a failure, and starts the group again."""
    return "TORCHELASTIC_RUN_ID" in os.environ


# ---------------------------------------------------------------- values


def gathered(ranks: Ranks, value: T) -> list[T]:
    """What each rank has, in their order."""
    if ranks.size == 1:
        return [value]
    found: list[Any] = [None] * ranks.size
    dist.all_gather_object(found, value)
    return found


def from_first(ranks: Ranks, make: Callable[[], T]) -> T:
    """What `make` gives or raises on rank 0, on every rank; it must be fit for pickling."""
    if ranks.size == 1:
        return make()
    told: list[Any] = [None, None]
    if ranks.rank == 0:
        try:
            told[0] = make()
        except Exception as error:
            told[1] = portable(error)
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    found: T = told[0]
    return found


def agreed(ranks: Ranks, verdict: bool) -> bool:  # noqa: FBT001
    """Whether it holds on every rank."""
    return all(gathered(ranks, verdict))


def total(ranks: Ranks, counts: Mapping[str, int]) -> dict[str, int]:
    """Counts added up over the ranks."""
    found = gathered(ranks, dict(counts))
    return {name: sum(counts.get(name, 0) for counts in found) for name in counts}


def mean_losses(ranks: Ranks, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each loss over the ranks, still on the device."""
    if ranks.size == 1:
        return losses
    stacked = torch.stack([loss.detach() for loss in losses.values()])
    dist.all_reduce(stacked)
    return dict(zip(losses, stacked / ranks.size, strict=True))


def combined(
    ranks: Ranks, values: Mapping[str, float], over: Mapping[str, str]
) -> dict[str, float]:
    """Metrics made equal on all ranks, each in its own way; what some lack the others give."""
    if not _some(ranks, bool(values)):
        return {}
    found = gathered(ranks, (dict(values), dict(over)))
    ways = {name: way for _, over in found for name, way in over.items()}
    return {
        name: _combined([values[name] for values, _ in found if name in values], way)
        for name, way in ways.items()
        if any(name in values for values, _ in found)
    }


def _some(ranks: Ranks, here: bool) -> bool:  # noqa: FBT001
    """Whether it holds on some rank."""
    found = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks.size)]
    # No reduction, for which another rank's `tell` could be taken.
    dist.all_gather(found, torch.tensor([int(here)]))
    return any(bool(each) for each in found)


def _combined(values: Sequence[float], way: str) -> float:
    first = values[0]
    if way == "none" or (way != "sum" and all(value == first for value in values)):
        return first
    if way in ("min", "max"):
        nan = next((value for value in values if math.isnan(value)), None)
        return nan if nan is not None else (min if way == "min" else max)(values)
    whole = sum(values) if not all(map(math.isfinite, values)) else math.fsum(values)
    if way == "sum":
        return int(whole) if all(isinstance(value, int) for value in values) else whole
    return whole / len(values)


# ---------------------------------------------------------------- once per update


@dataclass(frozen=True, slots=True)
class Heard:
    """What all ranks told after an update."""

    stops: int
    """How many of them were asked to stop."""
    signal: int | None
    """A signal that at least one of them has got."""
    seconds: float
    """Training time by the clock of rank 0."""
    unsaved: bool
    """Whether too many saves in a row have failed, as one of them knows already."""


@dataclass(slots=True)
class Exchange:
    """One small reduction after each update, heard during the next one."""

    ranks: Ranks
    run: str
    """A name that no other run of these processes has."""
    work: Any = None
    sent: Tensor | None = None
    heard: Heard | None = None


def tell(
    exchange: Exchange,
    *,
    stops: bool,
    unsaved: bool,
    signal_number: int | None,
    seconds: float,
) -> None:
    """Tell the other ranks, and wait for nobody."""
    here = exchange.ranks.rank == 0
    flags = [
        float(stops),
        float(signal_number == signal.SIGINT),
        float(signal_number not in (None, signal.SIGINT)),
        seconds if here else 0.0,
        float(unsaved),
    ]
    exchange.sent = torch.tensor(flags, dtype=torch.float64)
    exchange.work = dist.all_reduce(exchange.sent, async_op=True)
    exchange.heard = None


PATIENCE = timedelta(seconds=5)
"""How long a rank that fails waits to learn if the others fail too."""


def all_fail(exchange: Exchange | None, update: int) -> bool:
    """Whether the run ends with an error on every rank, as it does on this one.

    A collective would stay behind where the others join none, and keep this process from ending.
    """
    if exchange is None:
        return True
    keys = [f"noether/{exchange.run}/{update}/{rank}" for rank in range(exchange.ranks.size)]
    store = dist.distributed_c10d._get_default_store()
    try:
        store.set(keys[exchange.ranks.rank], "failed")
        store.wait(keys, PATIENCE)
    except RuntimeError:
        return False
    return True


def hear(exchange: Exchange) -> Heard | None:
    """What was told after the last update; None before the first."""
    if exchange.work is not None and exchange.sent is not None:
        exchange.work.wait()
        stops, interrupts, terms, seconds, unsaved = exchange.sent.tolist()
        number = signal.SIGINT if interrupts else signal.SIGTERM if terms else None
        exchange.heard = Heard(round(stops), number, seconds, unsaved > 0)
        exchange.work = None
    return exchange.heard
