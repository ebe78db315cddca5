"""The training loop: a generator of snapshots, read top to bottom as training goes."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from noether.distributed import Exchange, hear, mean_losses, total
from noether.errors import FeedError, NonFiniteError
from noether.feed import Feed, Window, advanced, counted, reached, to_device
from noether.feed.serving import Server, Update, updates
from noether.feed.streams import Part
from noether.machine import Machine, backward, finish_gradients, forward, prepare
from noether.progress import Progress, at_seconds
from noether.randomness import drop_half_pair
from noether.state import Event, TrainState

Clock = Callable[[], float]
Snapshot = Callable[..., TrainState]
"""Makes a snapshot of an event, the counts before and after it, and what the loop saw of it."""

TIMINGS = ("data_wait", "forward", "backward", "step", "pause")
"""The parts whose seconds every update tells."""


@dataclass(slots=True)
class Course:
    """Where a run is: the mutable part of the loop, stored in a checkpoint."""

    progress: Progress
    offset: int = 0
    """Samples of the present epoch that have been trained on."""
    skipped: int = 0
    """Updates skipped in a row for being non-finite."""
    verdict: Callable[[], bool] | None = None
    """Whether the last update was finite, on its way from the device."""
    clock: Clock = time.monotonic
    since: float = 0.0
    """Clock reading at the last tick."""
    pause: float = 0.0
    """Seconds of data passes and saves since the last update."""
    elapsed: float = 0.0
    """Training time by this process's clock."""
    exchange: Exchange | None = None
    """What the ranks tell each other, where there are several."""


def snapshots(
    machine: Machine,
    server: Server,
    course: Course,
    until: Mapping[str, float],
    snapshot: Snapshot,
    wanted: Callable[[Progress, Progress], frozenset[Event]],
    attended: Callable[[Progress, Progress], bool],
    poll: Callable[[], None],
) -> Iterator[TrainState | None]:
    """Snapshots of every update until a limit is reached: those within it that `wanted` names,
    and one at its end, or None where it is not `attended`. Both are asked once per update with the
    counts before and after it, the one when it begins, the other when it is complete. Nothing is
    computed ahead of the consumer. `poll` is called before each micro-batch and may raise.

    Raises NonFiniteError for a loss or gradient that is not finite, FeedError where there is no
    data.
    """
    course.since, course.elapsed = course.clock(), course.progress.seconds
    while not reached(course.progress, until):
        rest, moved = course.offset, False
        machine.module.train()
        for update in updates(server, course.progress, course.offset):
            moved = True
            yield from _update(
                machine, server.feed, course, update, snapshot, wanted, attended, poll
            )
            if reached(course.progress, until):
                return
        if not moved:
            _next_epoch(course, rest)


def _next_epoch(course: Course, rest: int) -> None:
    """Go on where a resume with larger updates leaves none in the rest of an epoch."""
    epoch = course.progress.epoch
    if not rest:
        raise FeedError(f"the training set gave no update in epoch {epoch}")
    course.progress = replace(course.progress, epoch=epoch + 1)
    course.offset = 0


def judge(course: Course) -> None:
    """Read the last update's verdict; raises NonFiniteError, waits until the device has told it."""
    verdict, course.verdict = course.verdict, None
    if verdict is not None and not verdict():
        raise NonFiniteError(
            f"loss or gradient was not finite at or before update {course.progress.update}; the "
            "last checkpoint precedes it. on_nonfinite='skip' drops such updates instead"
        )


def _update(
    machine: Machine,
    feed: Feed,
    course: Course,
    update: Update,
    snapshot: Snapshot,
    wanted: Callable[[Progress, Progress], frozenset[Event]],
    attended: Callable[[Progress, Progress], bool],
    poll: Callable[[], None],
) -> Iterator[TrainState | None]:
    window, parts = update
    clock, number, last = course.clock, 0, len(window.micro_batches)
    prepare(machine)
    coming = advanced(course.progress, window)
    events = wanted(course.progress, coming)
    losses: dict[str, Tensor] = {}
    outputs: Any = None
    counters = Counter[str]()
    loading: dict[str, float] = {}
    waited = forwards = backwards = 0.0
    for number in range(1, last + 1):
        poll()
        started = clock()
        part = next(parts)
        batch = _received(machine, feed, part, counters, loading)
        loaded = clock()
        given, outputs = forward(machine, batch, last=number == last)
        forwarded = clock()
        found = backward(given, part.share)
        _add_losses(losses, found, part.share)
        waited += loaded - started
        forwards += forwarded - loaded
        backwards += clock() - forwarded
        if "accumulation_step" in events:
            now = course.progress
            yield snapshot("accumulation_step", now, now, losses=found, outputs=outputs)
    started = clock()
    losses = mean_losses(machine.ranks, losses)
    finish_gradients(machine)
    performed = _judged(machine, course, losses)
    if performed and "before_update" in events:
        seen = {"losses": losses, "outputs": outputs}
        yield snapshot("before_update", course.progress, coming, **seen)
    if performed:
        machine.optimizer.step()
    if machine.scheduler is not None and _rate_steps(machine, window, performed=performed):
        machine.scheduler.step()
    ended = clock()
    times = (waited, forwards, backwards, ended - started, course.pause)
    course.pause = 0.0
    if feed.counters:
        coming = _with_counters(machine, feed, coming, counters)
    before, course.progress = course.progress, _timed(course, coming, ended)
    course.offset = 0 if window.closes_epoch else course.offset + window.samples
    if not attended(before, course.progress):
        yield None
        return
    timings = dict(zip(TIMINGS, times, strict=True), **loading)
    seen = {"performed": performed, "losses": losses, "outputs": outputs, "timings": timings}
    yield snapshot("update", before, course.progress, **seen)


def _received(
    machine: Machine, feed: Feed, part: Part, counters: Counter[str], loading: dict[str, float]
) -> Any:
    """A micro-batch on the device, what it holds added to the counters, and its seconds."""
    if part.share:
        counters.update(counted(feed, part.batch))
    for name, seconds in part.seconds.items():
        loading[name] = loading.get(name, 0.0) + seconds
    drop_half_pair()
    return to_device(part.batch, machine.device)


def _with_counters(
    machine: Machine, feed: Feed, progress: Progress, counters: Counter[str]
) -> Progress:
    here = total(machine.ranks, {name: counters[name] for name in feed.counters})
    return replace(progress, counters={**here, **(Counter(progress.counters) + Counter(here))})


@contextmanager
def paused(course: Course) -> Iterator[None]:
    """Around what training stands still for; not by the run's clock, whose readings are few."""
    begun = perf_counter()
    try:
        yield
    finally:
        course.pause += perf_counter() - begun


def _timed(course: Course, progress: Progress, now: float) -> Progress:
    # A clock that jumps back must not take training time away.
    passed = max(now - course.since, 0.0)
    course.since = now
    course.elapsed += passed
    if course.exchange is None:
        return at_seconds(progress, course.elapsed)
    heard = hear(course.exchange)
    return progress if heard is None else at_seconds(progress, heard.seconds)


def _add_losses(losses: dict[str, Tensor], parts: Mapping[str, Tensor], share: float) -> None:
    for name, loss in parts.items():
        part = loss if share == 1.0 else loss * share
        losses[name] = losses[name] + part if name in losses else part


def _judged(machine: Machine, course: Course, losses: Mapping[str, Tensor]) -> bool:
    """Whether the optimizer may step. Skipping reads the verdict now, raising one tick later."""
    verdict = finite(losses["total"], machine.grad_norm)
    if machine.max_skipped is None:
        judge(course)
        course.verdict = verdict
        return True
    performed = verdict()
    course.skipped = 0 if performed else course.skipped + 1
    if course.skipped > machine.max_skipped:
        raise NonFiniteError(
            f"{course.skipped} updates in a row were not finite, at update "
            f"{course.progress.update + 1}; on_nonfinite allows {machine.max_skipped}"
        )
    return performed


def finite(loss: Tensor, norm: Tensor | None) -> Callable[[], bool]:
    """Whether loss and gradients are finite, on its way from the device.

    Who asks waits for what came before it and no longer.
    """
    both = (loss,) if norm is None else (loss, norm)
    if all(each.device.type != "cuda" for each in both):
        return partial(_all_finite, both)
    here = torch.empty(len(both), dtype=torch.bool, pin_memory=True)
    for place, each in zip(here, both, strict=True):
        place.copy_(torch.isfinite(each), non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()

    def read() -> bool:
        arrived.synchronize()
        return bool(here.all())

    return read


def _all_finite(values: Sequence[Tensor]) -> bool:
    return all(map(math.isfinite, map(Tensor.item, values)))


def _rate_steps(machine: Machine, window: Window, *, performed: bool) -> bool:
    return window.closes_epoch if machine.lr_interval == "epoch" else performed
