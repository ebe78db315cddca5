"""What training hands to a tracker and forgets: a queue, and a thread that serves it."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Full, Queue
from typing import Any

from noether.trackers.summary import summed
from noether.trackers.tracker import Begun, Line, Output, Summary, Tracker

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
    held: int | None = None
    """The last update that the tracker had when it began; None: it is given all that comes."""
    waiting: Queue[Line | Output | str] = field(default_factory=lambda: Queue(MOST))
    lost: int = 0
    error: str = ""
    """What went wrong first."""
    thread: threading.Thread | None = None
    warned: bool = False


def start(tracker: Tracker, begun: Begun, earlier: Iterable[Line | Output] = ()) -> Sender:
    """A tracker's thread, begun. It is a daemon: one that hangs keeps no process alive."""
    made = Sender(tracker, begun, earlier)
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
    for sender in senders:
        with suppress(Full):
            sender.waiting.put(state, timeout=max(until - time.monotonic(), 0.001))
    for sender in senders:
        _end(sender, until)
    return [said for sender in senders if (said := losses(sender)) is not None]


def _end(sender: Sender, until: float) -> None:
    assert sender.thread is not None
    sender.thread.join(max(until - time.monotonic(), 0.001))
    if sender.thread.is_alive():
        sender.lost += sender.waiting.qsize()
        sender.error = sender.error or f"it did not end within {FLUSH:.0f} s"


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
    tracker = sender.tracker
    handle = _tried(sender, tracker.begin, sender.begun)
    known = _caught_up(sender, handle)
    while not isinstance(item := sender.waiting.get(), str):
        if isinstance(item, Line):
            known = summed(known, item.metrics)
        if _due(sender, item):
            _give(sender, handle, item)
    _tried(sender, tracker.end, handle, known, item)


def _caught_up(sender: Sender, handle: Any) -> Mapping[str, Summary]:
    """Give what the tracker lacks of earlier sessions; gives the summaries up to here."""
    known: dict[str, Summary] = {}
    if sender.tracker.holds is not None and sender.begun.resumed and handle is not NOTHING:
        held = _tried(sender, sender.tracker.holds, handle)
        sender.held = None if held is NOTHING else held
    try:
        for number, item in enumerate(sender.earlier):
            if number % 10 == 0:
                time.sleep(PAUSE)
            if isinstance(item, Line):
                known = summed(known, item.metrics)
            if sender.held is not None and item.now.update > sender.held:
                _give(sender, handle, item)
    except Exception as error:  # of the journal: to track less is better than nothing
        _lose(sender, f"{type(error).__name__}: {error}")
    return known


def _due(sender: Sender, item: Line | Output) -> bool:
    """Whether it is none of those that come once more, equal to what the tracker has."""
    if sender.held is None or (isinstance(item, Line) and item.event == "end"):
        return True
    at = item.now.update
    return at > sender.held or at <= sender.begun.now.update


def _give(sender: Sender, handle: Any, item: Line | Output) -> None:
    if isinstance(item, Line):
        _tried(sender, sender.tracker.log, handle, item)
    elif sender.tracker.show is not None:
        _tried(sender, sender.tracker.show, handle, item)


def _tried(sender: Sender, function: Callable[..., Any], *args: Any) -> Any:
    if function is not sender.tracker.begin and args[0] is NOTHING:
        return _lose(sender, sender.error)
    try:
        return function(*args)
    except Exception as error:
        return _lose(sender, f"{type(error).__name__}: {error}")


NOTHING: Any = object()
"""What is there of a tracker that could not begin."""


def _lose(sender: Sender, why: str) -> Any:
    sender.lost += 1
    sender.error = sender.error or why
    return NOTHING
