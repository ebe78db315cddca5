"""TensorBoard as a tracker."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from noether.callback import factory
from noether.plain import plain
from noether.trackers.tables import markdown, table
from noether.trackers.tracker import (
    Begun,
    Line,
    Output,
    Summary,
    Tracker,
    needs,
    place,
    with_counts,
)

ROWS = 100
"""Of a table, that are shown."""


@dataclass(slots=True)
class Open:
    """A writer of events, and the last update whose events all stay."""

    writer: Any
    held: int
    evaluations: Path
    """Where results of evaluations go: a run beside, of which nothing is purged."""


@factory
def tensorboard(*, path: str | None = None) -> Tracker:
    """Write event files for TensorBoard (extra `tensorboard`): scalars by update.

    Into `trackers/tensorboard` in the run directory, or a folder of the run's name in `path`.
    Epochs and samples are scalars too, the configuration and the summary texts; of what callbacks
    write, pictures (`.png`), texts and the first rows of tables (`.csv`) are shown. What was
    written after the checkpoint that a session goes on from is purged. Results of evaluations are
    a run beside.

    >>> tensorboard(path="logs").name
    'tensorboard'
    """

    def begin(begun: Begun) -> Open:
        from torch.utils.tensorboard import SummaryWriter

        folder = place(path, "tensorboard", begun.run)
        if path is not None and begun.name is not None:
            folder = folder / begun.name
        held = _held(begun)
        _pass_second(folder)
        writer: Any = SummaryWriter(str(folder), purge_step=held + 1)
        if held < 0:
            writer.add_text("config", _fenced(plain(begun.config)), 0)
        return Open(writer, held, folder / "evaluation")

    def check(run_dir: Path | None) -> None:
        needs("torch.utils.tensorboard", "tensorboard")
        place(path, "tensorboard", run_dir)

    return Tracker("tensorboard", begin, _log, _end, _show, holds=attrgetter("held"), check=check)


def _held(begun: Begun) -> int:
    """The last update of which all is written and stays; that of the last thing is begun anew."""
    last = begun.noted[0] if begun.noted is not None else -1
    return begun.now.update if last > begun.now.update else max(last - 1, -1)


def _pass_second(folder: Path) -> None:
    """Wait until files made now are read after those that are there: names begin by seconds.

    Two in one second would be in any order, and what the later one purges might come back.
    """
    newest = max((_second(path) for path in folder.glob("events.out.tfevents.*")), default=0)
    if 0 <= (ahead := newest + 1 - time.time()) <= 1:
        time.sleep(ahead)


def _second(path: Path) -> int:
    written = path.name.split(".")[3]
    return int(written) if written.isdigit() else 0


def _log(opened: Open, line: Line) -> None:
    if line.event == "evaluation":
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(opened.evaluations)) as writer:
            _add(writer, line)
        return
    _add(opened.writer, line)
    opened.writer.flush()


def _add(writer: Any, line: Line) -> None:
    for name, value in with_counts(line).items():
        writer.add_scalar(name, value, line.now.update)


def _show(opened: Open, output: Output) -> None:
    writer, name, update = opened.writer, output.name, output.now.update
    if output.path.suffix == ".png":
        import numpy
        from PIL import Image

        with Image.open(output.path) as picture:
            writer.add_image(name, numpy.asarray(picture.convert("RGB")), update, dataformats="HWC")
    elif output.path.suffix == ".csv":
        writer.add_text(name, markdown(table(output.path, ROWS)), update)
    elif output.path.suffix in (".json", ".txt"):
        writer.add_text(name, output.path.read_text(encoding="utf-8"), update)


def _end(opened: Open, summary: Mapping[str, Summary], state: str) -> None:
    told = {"state": state, **{name: asdict(each) for name, each in summary.items()}}
    opened.writer.add_text("summary", _fenced(plain(told)), 0)
    opened.writer.close()


def _fenced(told: Any) -> str:
    """Values as TensorBoard shows them unchanged."""
    return f"```\n{yaml.safe_dump(told, sort_keys=False)}```"
