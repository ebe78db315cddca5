"""SIGTERM and SIGINT as flags: the handler sets one, the loop asks."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PREEMPTED = 75
"""Exit code of a run that a SIGTERM ended, resumable."""


class Preempted(SystemExit):
    """SIGTERM ended the run, with a checkpoint where there is a run directory."""


@dataclass(slots=True)
class Signals:
    """What has arrived so far."""

    first: int | None = None
    count: int = 0

    def receive(self, number: int, _: Any) -> None:
        """Remember a signal; the whole of the handler."""
        self.first = self.first or number
        self.count += 1

    def poll(self) -> None:
        """Abandon what is under way once a second signal has come."""
        if self.count > 1:
            raise self.error()

    def error(self) -> Preempted | KeyboardInterrupt:
        """How the run ends: exit code 75 after SIGTERM, KeyboardInterrupt after SIGINT."""
        # A subclass of KeyboardInterrupt would not let the interpreter exit as interrupted.
        return KeyboardInterrupt() if self.first == signal.SIGINT else Preempted(PREEMPTED)

    @property
    def name(self) -> str | None:
        """The first signal's name."""
        return None if self.first is None else signal.Signals(self.first).name


@contextmanager
def listening() -> Iterator[Signals]:
    """Flags for SIGTERM and SIGINT; elsewhere than in the main thread nothing ever arrives.

    A handler that Python code had installed before is called too, and all are put back.
    """
    flags = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield flags
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    earlier = {number: signal.getsignal(number) for number in numbers}

    def receive(number: int, frame: Any) -> None:
        flags.receive(number, frame)
        chained = earlier[signal.Signals(number)]
        if callable(chained) and chained is not signal.default_int_handler:
            chained(number, frame)

    for number in numbers:
        signal.signal(number, receive)
    try:
        yield flags
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
