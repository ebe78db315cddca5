"""The training loop: a generator of snapshots, read top to bottom as training goes."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from noether.distributed import Exchange, hear, mean_losses, total
from noether.errors import FeedError, NonFiniteError
from noether.feed import Feed, Window, advanced, counted, reached, to_device
from noether.feed.serving import Server, Update, updates
from noether.feed.streams import Part
from noether.machine import Machine, backward, finish_gradients, finite, forward, hyper
from noether.progress import Progress
from noether.state import Event, TrainState

Clock = Callable[[], float]


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
    base: TrainState,
    wanted: Callable[[Progress, Progress], frozenset[Event]],
    poll: Callable[[], None],
) -> Iterator[TrainState]:
    """Snapshots of every update until a limit is reached: one when it is complete, and those
    within it that `wanted` names, asked once per update with the counts before and after it.
    Nothing is computed ahead of the consumer. `poll` is called before each micro-batch and may
    raise.

    Raises NonFiniteError for a loss or gradient that is not finite, FeedError where there is no
    data.
    """
    course.since, course.elapsed = course.clock(), course.progress.seconds
    while not reached(course.progress, until):
        rest, moved = course.offset, False
        for update in updates(server, course.progress, course.offset):
            moved = True
            yield from _update(machine, server.feed, course, update, base, wanted, poll)
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
    base: TrainState,
    wanted: Callable[[Progress, Progress], frozenset[Event]],
    poll: Callable[[], None],
) -> Iterator[TrainState]:
    window, parts = update
    machine.module.train()
    machine.optimizer.zero_grad(set_to_none=True)
    machine.module.zero_grad(set_to_none=True)  # what the optimizer does not hold adds up too
    coming = advanced(course.progress, window)
    events = wanted(course.progress, coming)
    losses: dict[str, Tensor] = {}
    outputs: Any = None
    counters = Counter[str]()
    timings = dict.fromkeys(("data_wait", "forward", "backward"), 0.0)
    for number in range(1, len(window.micro_batches) + 1):
        poll()
        started = course.clock()
        part = next(parts)
        batch = _received(machine, feed, part, counters)
        loaded = course.clock()
        last = number == len(window.micro_batches)
        given, outputs = forward(machine, batch, last=last)
        forwarded = course.clock()
        found = backward(given, part.share)
        _add_losses(losses, found, part.share)
        timings["data_wait"] += loaded - started
        timings["forward"] += forwarded - loaded
        timings["backward"] += course.clock() - forwarded
        if "accumulation_step" in events:
            now = course.progress
            state = _snapshot(machine, base, "accumulation_step", now, now)
            yield replace(state, losses=found, outputs=outputs)
    started = course.clock()
    losses = mean_losses(machine.ranks, losses)
    finish_gradients(machine)
    performed = _judged(machine, course, losses)
    if performed and "before_update" in events:
        state = _snapshot(machine, base, "before_update", course.progress, coming)
        yield replace(state, losses=losses, outputs=outputs)
    if performed:
        machine.optimizer.step()
    if machine.scheduler is not None and _rate_steps(machine, window, performed=performed):
        machine.scheduler.step()
    ended = course.clock()
    timings |= {"step": ended - started, "pause": course.pause}
    course.pause = 0.0
    if feed.counters:
        counted_here = total(machine.ranks, {name: counters[name] for name in feed.counters})
        counters = Counter(coming.counters) + Counter(counted_here)
        coming = replace(coming, counters={**counted_here, **counters})
    before, course.progress = course.progress, _timed(course, coming, ended)
    course.offset = 0 if window.closes_epoch else course.offset + window.samples
    state = _snapshot(machine, base, "update", before, course.progress)
    yield replace(state, performed=performed, losses=losses, outputs=outputs, timings=timings)


def _received(machine: Machine, feed: Feed, part: Part, counters: Counter[str]) -> Any:
    """A micro-batch on the device, what it holds added to the counters."""
    if part.share:
        counters.update(counted(feed, part.batch))
    return to_device(part.batch, machine.device)


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
        return replace(progress, seconds=course.elapsed)
    heard = hear(course.exchange)
    return progress if heard is None else replace(progress, seconds=heard.seconds)


def _add_losses(losses: dict[str, Tensor], parts: Mapping[str, Tensor], share: float) -> None:
    for name, loss in parts.items():
        part = loss if share == 1.0 else loss * share
        losses[name] = losses[name] + part if name in losses else part


def _judged(machine: Machine, course: Course, losses: Mapping[str, Tensor]) -> bool:
    """Whether the optimizer may step. Skipping reads the verdict now, raising one tick later."""
    verdict = finite(machine, losses)
    if machine.max_skipped is None:
        judge(course)
        course.verdict = on_its_way(verdict)
        return True
    performed = bool(verdict)
    course.skipped = 0 if performed else course.skipped + 1
    if course.skipped > machine.max_skipped:
        raise NonFiniteError(
            f"{course.skipped} updates in a row were not finite, at update "
            f"{course.progress.update + 1}; on_nonfinite allows {machine.max_skipped}"
        )
    return performed


def on_its_way(verdict: Tensor) -> Callable[[], bool]:
    """Send a boolean to the CPU; who asks for it waits for what came before it and no longer."""
    if verdict.device.type != "cuda":
        return verdict.item  # type: ignore[return-value]
    here = torch.empty((), dtype=torch.bool, pin_memory=True)
    here.copy_(verdict, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()

    def read() -> bool:
        arrived.synchronize()
        return bool(here)

    return read


def _rate_steps(machine: Machine, window: Window, *, performed: bool) -> bool:
    return window.closes_epoch if machine.lr_interval == "epoch" else performed


def _snapshot(
    machine: Machine, base: TrainState, event: Event, before: Progress, now: Progress
) -> TrainState:
    return replace(base, event=event, before=before, now=now, hyper=hyper(machine.optimizer))
