"""What a person sees of a run: lines, and on a terminal a block that is drawn anew."""

import json
import os
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, get_args

from noether.lines import printable, told
from noether.live import Best, View, can_draw, line, panel, with_best
from noether.plain import plain
from noether.progress import Progress
from noether.state import TrainState

Form = Literal["auto", "plain", "json", "quiet"]
FORMS = get_args(Form)
REDRAW = 0.1
"""Seconds between two drawings of what is live."""
WINDOW = 100
"""Drawings over which rates are taken."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a run was at a reading of the clock, and how its last update's time was spent."""

    reading: float
    now: Progress
    waited: float
    busy: float


@dataclass(slots=True)
class Console:
    """Prints lines to `out`; draws what is live on `err` when that is a terminal."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    form: Form = "auto"
    """`plain`: lines alone; `json`: one JSON value a line; `quiet`: warnings alone."""
    live: bool = True
    rich: bool = field(default_factory=can_draw)
    drawn: float = 0.0
    block: Any = None
    """What `rich` draws, while it is on the screen."""
    view: View | None = None
    marks: deque[Mark] = field(default_factory=lambda: deque(maxlen=WINDOW))
    started: Mark | None = None
    """This session's first tick, from which the time left is estimated."""
    best: Mapping[str, Best] = field(default_factory=dict)
    warnings: Counter[str] = field(default_factory=Counter)
    rank: int = 0
    """Of several ranks only the first one is heard, but for what it can't know."""

    def say(self, text: str, *, routine: bool = False) -> None:
        """Print a line above what is live; a `routine` one where that tells not as much."""
        if self.form == "json":
            self._json("say", text=text)
        elif self.form != "quiet" and not (routine and self._telling()):
            self._print(text)

    def warn(self, text: str, *, own: bool = False) -> None:
        """Print a warning the first time, count it each time; what is a rank's `own` it prints."""
        self.warnings[text] += 1
        if self.warnings[text] > 1 or not (own or not self.rank):
            return
        if self.form == "json":
            self._json("warning", text=text, rank=self.rank)
            return
        self.wipe()
        who = f"rank {self.rank}: " if self.rank else ""
        print(f"{who}warning: {text}", file=self.err, flush=True)

    def recap(self) -> None:
        """Repeat at the end what was warned of, as it may have scrolled away, and how often."""
        if not self.warnings:
            return
        many = sum(self.warnings.values())
        self.say(f"{many} warning{'s' if many > 1 else ''}:")
        for text, times in self.warnings.items():
            often = f" ({times} times)" if times > 1 else ""
            self.say(f"  {text.splitlines()[0]}{often}")

    def tick(self, state: TrainState, coming: Callable[[], Sequence[tuple[int, str]]]) -> None:
        """Take note of a tick, and redraw at most ten times a second what is live.

        What is `coming`, updates and callbacks, is asked for only to be drawn.
        """
        if state.fresh and self.form == "json":
            metrics = {name: state.metrics[name] for name in sorted(state.fresh)}
            now = {name: getattr(state.now, name) for name in ("epoch", "update", "sample")}
            self._json("metrics", **now, metrics=metrics)
        if not self._drawable():
            return
        if state.fresh:
            self.best = with_best(self.best, state.fresh, state.metrics, state.now.update)
        reading = self.clock()
        if self.started is None:
            self.started = _mark(state, reading)
        if self._due(reading):
            self.marks.append(_mark(state, reading))
            self._show(self._seen(state, reading, coming()))

    def passing(self, name: str, done: int, total: int | None) -> None:
        """Redraw with the batches of a pass that are done."""
        text = f"{name}: batch {done}{'' if total is None else f'/{total}'}"
        self._doing(text, done / total if total else None)

    def verifying(self, name: str, done: int, total: int) -> None:
        """Redraw with the bytes of checkpoints that are verified."""
        text = f"verifying {printable(name)}: {told(done)} of {told(total)}"
        self._doing(text, done / total if total else None)

    def reading(self, name: str, rows: int) -> None:
        """Redraw with the rows of a file that are read."""
        self._doing(f"reading {printable(name)}: {rows:,} rows")

    def wipe(self) -> None:
        """Clear what is live."""
        if self.block is not None:
            self.block.stop()
            self.block = None
        elif self.drawn:
            print("\r\x1b[2K", end="", file=self.err, flush=True)
        self.drawn = 0.0

    def _doing(self, text: str, share: float | None = None) -> None:
        if self._due(self.clock()):
            self._show(replace(self.view or View(), doing=text, done=share))

    def _telling(self) -> bool:
        """Whether who reads the lines sees the block under them."""
        return self._drawable() and self.rich and self.out.isatty()

    def _drawable(self) -> bool:
        return self.form == "auto" and self.live and not self.rank and self.err.isatty()

    def _due(self, reading: float) -> bool:
        """Whether what is live is to be drawn now; then it counts as drawn."""
        if reading - self.drawn < REDRAW or not self._drawable():
            return False
        self.drawn = reading
        return True

    def _seen(self, state: TrainState, reading: float, coming: Sequence[tuple[int, str]]) -> View:
        first, last = self.marks[0], self.marks[-1]
        seconds = last.reading - first.reading
        done = last.now.sample - first.now.sample
        busy = sum(mark.busy for mark in self.marks)
        self.view = View(
            state.now,
            state.total,
            state.metrics,
            self.best,
            pace=self._pace(state, reading),
            samples=done / seconds if seconds > 0 else None,
            waiting=sum(mark.waited for mark in self.marks) / busy if busy > 0 else None,
            coming=coming,
        )
        return self.view

    def _pace(self, state: TrainState, reading: float) -> float | None:
        assert self.started is not None
        updates = state.now.update - self.started.now.update
        return (reading - self.started.reading) / updates if updates else None

    def _show(self, view: View) -> None:
        if not self.rich:
            # A line that wraps could not be wiped any more.
            text = line(view)[: shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[2K{text}", end="", file=self.err, flush=True)
        elif self.block is None:
            self.block = _block(self.err, view)
        else:
            self.block.update(panel(view), refresh=True)

    def _print(self, text: str) -> None:
        if self.rank:
            return
        self.wipe()
        try:
            print(text, file=self.out, flush=True)
        except BrokenPipeError:
            # Nobody reads any more; a run of weeks must not end for that.
            self.out = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115

    def _json(self, kind: str, **more: Any) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._print(json.dumps(plain({"time": at, "kind": kind, **more}), allow_nan=False))


def _mark(state: TrainState, reading: float) -> Mark:
    spent = state.timings
    busy = sum(spent.get(part, 0.0) for part in ("data_wait", "forward", "backward", "step"))
    return Mark(reading, state.now, spent.get("data_wait", 0.0), busy)


def _block(stream: TextIO, view: View) -> Any:
    from rich.console import Console as Screen
    from rich.live import Live

    block = Live(
        panel(view),
        console=Screen(file=stream),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    block.start(refresh=True)
    return block
