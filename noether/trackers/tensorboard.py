"""TensorBoard as a tracker."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from noether.callback import factory
from noether.plain import plain
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


@factory
def tensorboard(*, path: str | None = None) -> Tracker:
    """Write event files for TensorBoard (extra `tensorboard`): scalars by update.

    Into the folder `path`, by default `trackers/tensorboard` in the run directory. Epochs and
    samples are scalars too, the configuration and the summary texts; of what callbacks write,
    pictures (`.png`) and texts are shown. What was written after the checkpoint that a session
    goes on from is purged.

    >>> tensorboard(path="logs").name
    'tensorboard'
    """

    def begin(begun: Begun) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        update = begun.now.update
        folder = place(path, "tensorboard", begun.run)
        writer: Any = SummaryWriter(str(folder), purge_step=update + 1 if update else None)
        if not update:
            writer.add_text("config", _fenced(plain(begun.config)), 0)
        return writer

    def check(run_dir: Path | None) -> None:
        needs("tensorboard", "tensorboard")
        place(path, "tensorboard", run_dir)

    return Tracker("tensorboard", begin, _log, _end, _show, check)


def _log(writer: Any, line: Line) -> None:
    for name, value in with_counts(line).items():
        writer.add_scalar(name, value, line.now.update)
    writer.flush()


def _show(writer: Any, output: Output) -> None:
    name, update = output.name, output.now.update
    if output.path.suffix == ".png":
        import numpy
        from PIL import Image

        with Image.open(output.path) as picture:
            writer.add_image(name, numpy.asarray(picture.convert("RGB")), update, dataformats="HWC")
    elif output.path.suffix == ".txt":
        writer.add_text(name, output.path.read_text(encoding="utf-8"), update)


def _end(writer: Any, summary: Mapping[str, Summary], state: str) -> None:
    told = {"state": state, **{name: asdict(each) for name, each in summary.items()}}
    writer.add_text("summary", _fenced(plain(told)), 0)
    writer.close()


def _fenced(told: Any) -> str:
    """Values as TensorBoard shows them unchanged."""
    return f"```\n{yaml.safe_dump(told, sort_keys=False)}```"
