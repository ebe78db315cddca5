"""The batches a session will ask for, in their order, as far as counts foresee them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from noether.agenda import Agenda, agenda, due
from noether.callback import Callback, Pipeline
from noether.feed.fetches import Fetch, pass_fetches, training_fetches
from noether.feed.horizon import advanced, pace, reached
from noether.feed.windows import Feed, windows
from noether.progress import Progress
from noether.schedules import Tick
from noether.turn import asked


@dataclass(slots=True)
class Outlook:
    """Where a session stands before its opening tick, and what is known of what comes."""

    feed: Feed
    until: Mapping[str, float]
    total: Progress
    now: Progress
    offset: int
    lengths: Mapping[str, int]
    """Samples of the evaluation sets that have numbers."""
    lockstep: bool
    pipeline: Pipeline
    """The callbacks with passes that counts foresee, in the fold's order."""
    schedules: dict[str, Any]
    """The memories of their schedules."""
    fired: frozenset[str]
    """Who fired at the present counts; the closing tick spares them."""
    agenda: Agenda = field(init=False)

    def __post_init__(self) -> None:
        ahead = pace(self.feed, self.now, self.offset, self.total)
        self.agenda = agenda(self.pipeline, self.now, ahead)


def fetches(outlook: Outlook) -> Iterator[Fetch]:
    """Every batch in order: the opening tick's passes, each update's batches, then its passes."""
    now, offset = outlook.now, outlook.offset
    yield from _passes(outlook, Tick(now, now, "start", outlook.total), keep=now.session == 1)
    while not reached(now, outlook.until):
        moved = False
        for window in windows(outlook.feed, now.epoch, offset):
            moved = True
            before, now = now, advanced(now, window)
            yield from training_fetches(outlook.feed, window, before.epoch, now.update)
            yield from _passes(outlook, Tick(before, now, "update", outlook.total))
            if reached(now, outlook.until):
                break
        now = now if moved else replace(now, epoch=now.epoch + 1)
        offset = 0
    yield from _passes(outlook, Tick(now, now, "end", outlook.total))


def _passes(outlook: Outlook, tick: Tick, *, keep: bool = True) -> Iterator[Fetch]:
    """The batches of the passes of a tick; those that read the same are one."""
    served = set()
    for callback in _firing(outlook, tick, keep=keep):
        data = callback.data
        if data is not None and data.dataset in outlook.lengths and data.source not in served:
            served.add(data.source)
            length = outlook.lengths[data.dataset]
            yield from pass_fetches(
                outlook.feed, data, length, tick.now.update, lockstep=outlook.lockstep
            )


def _firing(outlook: Outlook, tick: Tick, *, keep: bool) -> list[Callback]:
    every = range(len(outlook.pipeline))
    positions = sorted(set(due(outlook.agenda, tick.now))) if tick.event == "update" else every
    stepped: dict[str, Any] = {}
    asking = [outlook.pipeline[position] for position in positions]
    firing = [c for c in asking if asked(c, tick, outlook.schedules, stepped)]
    spared = outlook.fired if tick.event == "end" else frozenset[str]()
    if keep:
        earlier = frozenset[str]() if tick.event == "update" else outlook.fired
        outlook.schedules |= stepped
        outlook.fired = earlier | {callback.name for callback in firing}
    return [callback for callback in firing if callback.name not in spared]
