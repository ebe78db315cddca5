"""What training hands to a tracker and forgets: a queue, and a thread that serves it."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Full, Queue
from typing import Any

from noether.trackers.remembered import note, noted
from noether.trackers.summary import summed
from noether.trackers.tracker import ALL, Begun, Line, Output, Position, Summary, Tracker

MOST = 10_000
"""Lines that wait at most; a tracker that is slower than that loses the next ones."""
PAUSE = 50e-6
"""Seconds, every ten rows of a long journal, in which training can have the interpreter: it would
wait a hundred times as long for it each time that it asks."""
FLUSH = 20.0
"""Seconds that the end of a run waits for what was not sent yet."""


@dataclass(slots=True)
class Sender:
    """A tracker, and what is on its way to it."""

    tracker: Tracker
    begun: Begun
    earlier: Iterable[Line | Output] = ()
    """What the sessions before have logged and written."""
    held: Position | None = None
    """What the tracker had when it began; None: it is given all that comes."""
    at: Position = (-1, 0)
    """Of what came last."""
    waiting: Queue[Line | Output | str] = field(default_factory=lambda: Queue(MOST))
    lost: int = 0
    error: str = ""
    """What went wrong first."""
    thread: threading.Thread | None = None
    warned: bool = False


def start(tracker: Tracker, begun: Begun, earlier: Iterable[Line | Output] = ()) -> Sender:
    """A tracker's thread, begun. It is a daemon: one that hangs keeps no process alive."""
    known = replace(begun, noted=noted(begun, tracker.name) if begun.resumed else None)
    made = Sender(tracker, known, earlier)
    made.thread = threading.Thread(
        target=_serve, args=(made,), name=f"tracker {tracker.name}", daemon=True
    )
    made.thread.start()
    return made


def send(sender: Sender, told: Line | Output) -> None:
    """Hand something over, without waiting."""
    try:
        sender.waiting.put_nowait(told)
    except Full:
        _lose(sender, "it is too slow, or hangs")


def finish(senders: Sequence[Sender], state: str) -> list[str]:
    """Let what is on its way arrive, all together for so long at most; tells what was lost."""
    until = time.monotonic() + FLUSH
    full = [sender for sender in senders if not _told(sender, state)]  # the others wait for none
    for sender in full:
        _told(sender, state, max(until - time.monotonic(), 0.001))
    for sender in senders:
        _end(sender, until)
    return [said for sender in senders if (said := losses(sender)) is not None]


def _told(sender: Sender, state: str, timeout: float | None = None) -> bool:
    try:
        sender.waiting.put(state, block=timeout is not None, timeout=timeout)
    except Full:
        return False
    return True


def _end(sender: Sender, until: float) -> None:
    assert sender.thread is not None
    sender.thread.join(max(until - time.monotonic(), 0.001))
    if sender.thread.is_alive():
        sender.lost += sum(isinstance(item, Line) for item in [*sender.waiting.queue])
        later = "; the next session sends what it lacks" if sender.tracker.holds else ""
        sender.error = sender.error or f"it did not end within {FLUSH:.0f} s{later}"


def trouble(sender: Sender) -> str | None:
    """What to warn of, the first time that there is something."""
    if sender.warned or not sender.error:
        return None
    sender.warned = True
    return f"tracker {sender.tracker.name!r} fails: {sender.error}; training goes on"


def losses(sender: Sender) -> str | None:
    """What a tracker did not get, in words; None where it got all."""
    if not sender.error:
        return None
    lines = f"{sender.lost} line{'' if sender.lost == 1 else 's'}"
    return f"tracker {sender.tracker.name!r} lost {lines}: {sender.error}"


def _serve(sender: Sender) -> None:
    try:
        _served(sender)
    except BaseException as error:  # nobody else would hear of it
        _lose(sender, f"{type(error).__name__}: {error}")


def _served(sender: Sender) -> None:
    tracker, begun = sender.tracker, sender.begun
    handle = _tried(sender, tracker.begin, begun)
    known = _caught_up(sender, handle)
    while not isinstance(item := sender.waiting.get(), str):
        if isinstance(item, Line):
            known = summed(known, item.metrics)
        _give(sender, handle, item)
    _tried(sender, tracker.end, handle, known, item)


def _caught_up(sender: Sender, handle: Any) -> Mapping[str, Summary]:
    """Give what the tracker lacks of earlier sessions; gives the summaries up to here."""
    known: dict[str, Summary] = {}
    sender.held = _held(sender, handle)
    try:
        for number, item in enumerate(sender.earlier):
            if number % 10 == 0:
                time.sleep(PAUSE)
            if isinstance(item, Line):
                known = summed(known, item.metrics)
            _give(sender, handle, item, again=True)
    except Exception as error:  # of the journal: to track less is better than nothing
        _lose(sender, f"{type(error).__name__}: {error}")
    return known


def _held(sender: Sender, handle: Any) -> Position | None:
    """What a resumed tracker has: up to what it was given last, as far as it holds that."""
    holds, noted = sender.tracker.holds, sender.begun.noted
    if holds is None or not sender.begun.resumed or handle is NOTHING:
        return None
    update = _tried(sender, holds, handle)
    if update is NOTHING:
        return None
    if noted is None or noted[0] < update:
        return update, 0
    return noted if noted[0] == update else (update, ALL)


def _give(sender: Sender, handle: Any, item: Line | Output, *, again: bool = False) -> None:
    """Give a thing that the tracker has not; `again` where it comes from the journal."""
    show, log = sender.tracker.show, sender.tracker.log
    evaluated = item.event == "evaluation"
    if not evaluated:
        update, part = item.now.update, sender.at[1] + 1
        sender.at = update, (part if update == sender.at[0] else 0)
        if again if sender.held is None else sender.at <= sender.held:
            return
    if isinstance(item, Line):
        _tried(sender, log, handle, item)
    elif show is not None:
        _tried(sender, show, handle, item)
    if sender.tracker.holds is not None and not evaluated and handle is not NOTHING:
        with suppress(OSError):
            note(sender.begun, sender.tracker.name, sender.at)


def _tried(sender: Sender, function: Callable[..., Any], *args: Any) -> Any:
    if function is not sender.tracker.begin and args[0] is NOTHING:
        return _lose(sender, sender.error)
    try:
        return function(*args)
    except BaseException as error:  # nothing that a tracker does ends more than its call
        return _lose(sender, f"{type(error).__name__}: {error}")


NOTHING: Any = object()
"""What is there of a tracker that could not begin."""


def _lose(sender: Sender, why: str) -> Any:
    sender.lost += 1
    sender.error = sender.error or why
    return NOTHING
