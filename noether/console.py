"""What a person sees of a run: lines, and on a terminal one line that is rewritten."""

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TextIO

from noether.lines import printable, told
from noether.progress import Progress

BAR = 12
REDRAW = 0.1
"""Seconds between two drawings of the live line."""


@dataclass(slots=True)
class Console:
    """Prints lines to `out`; draws the live line on `err` when that is a terminal."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    live: bool = True
    drawn: float = 0.0
    started: tuple[float, int] | None = None
    """Clock and update at this session's first tick, from which the rate is measured."""
    warnings: Counter[str] = field(default_factory=Counter)
    rank: int = 0
    """Of several ranks only the first one is heard, but for what it can't know."""

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        if self.rank:
            return
        self.wipe()
        try:
            print(text, file=self.out, flush=True)
        except BrokenPipeError:
            # Nobody reads any more; a run of weeks must not end for that.
            self.out = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115

    def warn(self, text: str, *, own: bool = False) -> None:
        """Print a warning the first time, count it each time; what is a rank's `own` it prints."""
        self.warnings[text] += 1
        if self.warnings[text] == 1 and (own or not self.rank):
            self.wipe()
            who = f"rank {self.rank}: " if self.rank else ""
            print(f"{who}warning: {text}", file=self.err, flush=True)

    def tick(self, now: Progress, total: Progress, metrics: Mapping[str, float]) -> None:
        """Redraw the live line, at most ten times a second; nothing unless on a terminal."""
        reading = self.clock()
        if self.started is None:
            self.started = (reading, now.update)
        if self._due(reading):
            seconds, updates = reading - self.started[0], now.update - self.started[1]
            self._draw(live_line(now, total, metrics, seconds / updates if updates else None))

    def passing(self, name: str, done: int, total: int | None) -> None:
        """Redraw the live line with the batches of a pass that are done."""
        if self._due(self.clock()):
            self._draw(f"{name}: batch {done}{_of(total)}")

    def verifying(self, name: str, done: int, total: int) -> None:
        """Redraw the live line with the bytes of checkpoints that are verified."""
        if self._due(self.clock()):
            self._draw(f"verifying {printable(name)}: {told(done)} of {told(total)}")

    def _due(self, reading: float) -> bool:
        """Whether the live line is to be drawn now; then it counts as drawn."""
        if self.rank or not self.live or reading - self.drawn < REDRAW or not self.err.isatty():
            return False
        self.drawn = reading
        return True

    def _draw(self, line: str) -> None:
        # A line that wraps could not be wiped any more.
        line = line[: shutil.get_terminal_size().columns - 1]
        print(f"\r\x1b[2K{line}", end="", file=self.err, flush=True)

    def wipe(self) -> None:
        """Clear the live line."""
        if self.drawn:
            print("\r\x1b[2K", end="", file=self.err, flush=True)
            self.drawn = 0.0


def live_line(
    now: Progress, total: Progress, metrics: Mapping[str, float], pace: float | None
) -> str:
    """Bar, counts, the last loss, and the time left at `pace` seconds an update.

    >>> live_line(Progress(1, 50, 3200), Progress(2, 100, 6400), {}, 0.1)
    '[######......]  50%  epoch 1/2  update 50/100  0:00:05 left'
    """
    parts = [f"epoch {now.epoch}{_of(total.epoch)}", f"update {now.update}{_of(total.update)}"]
    if total.update:
        share = min(now.update / total.update, 1.0)
        filled = round(share * BAR)
        parts.insert(0, f"[{'#' * filled}{'.' * (BAR - filled)}] {share:4.0%}")
    loss = next((v for k, v in metrics.items() if k.startswith("loss/online/total/")), None)
    if loss is not None:
        parts.append(f"loss {loss:.4g}")
    if total.update and pace is not None:
        parts.append(f"{span(pace * max(total.update - now.update, 0))} left")
    return "  ".join(parts)


def span(seconds: float) -> str:
    """Seconds as H:MM:SS."""
    return str(timedelta(seconds=round(seconds)))


def _of(count: int | None) -> str:
    return "" if count is None else f"/{count}"
