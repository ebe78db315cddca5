"""Weights & Biases as a tracker."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

from noether.callback import factory
from noether.plain import plain
from noether.trackers.offline import last_step
from noether.trackers.remembered import keep, recall
from noether.trackers.tables import table
from noether.trackers.tracker import (
    FOLDER,
    Begun,
    Line,
    Output,
    Summary,
    Tracker,
    needs,
    with_counts,
)


@dataclass(frozen=True, slots=True)
class Open:
    """A run of theirs, and the last update that it had when this session began."""

    run: Any
    held: int


@factory
def wandb(
    *,
    project: str = "noether",
    name: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    offline: bool = False,
) -> Tracker:
    """Log to Weights & Biases (extra `wandb`): metrics by update, settings and a summary.

    Of what callbacks write, pictures (`.png`) and tables (`.csv`) are shown, and all else kept as
    artifacts.

    offline: write into `trackers/wandb` of the run directory, for `wandb sync` to send later.

    A resumed run goes on in its run of theirs; what that lacks is sent again, from the journal.

    >>> wandb(project="digits", offline=True).name
    'wandb'
    """
    options: dict[str, Any] = {"project": project, "entity": entity, "group": group}

    def begin(begun: Begun) -> Open:
        import wandb

        known = recall(begun, "wandb") if begun.resumed else {}
        folder = None if begun.run is None else begun.run / FOLDER
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        run: Any = wandb.init(
            **options,
            name=name or begun.name,
            tags=[*tags],
            id=known.get("id", uuid4().hex[:8]),
            resume="allow",
            mode="offline" if offline else "online",
            dir=None if folder is None else str(folder),
            settings=wandb.Settings(console="off", silent=True),
        )
        run.config.update(plain(begun.config), allow_val_change=True)
        keep(begun, "wandb", id=run.id)
        if folder is not None and offline:
            return Open(run, last_step(folder / "wandb", run.id))
        return Open(run, run.starting_step - 1)

    return Tracker("wandb", begin, _log, _end, _show, holds=attrgetter("held"), check=_check)


def _check(run_dir: Path | None) -> None:
    needs("wandb", "wandb")


def _log(opened: Open, line: Line) -> None:
    """By update; what is told of an earlier one than the last goes to the summary."""
    if line.event == "evaluation":
        opened.run.summary.update({**line.metrics, "evaluation/update": line.now.update})
        return
    opened.run.log(with_counts(line), step=line.now.update)


def _show(opened: Open, output: Output) -> None:
    import wandb

    if output.event == "evaluation":  # of an earlier step, perhaps, than the last
        opened.run.log_artifact(str(output.path), type="output")
    elif output.path.suffix == ".png":
        picture = wandb.Image(str(output.path))
        opened.run.log({output.name: picture}, step=output.now.update)
    elif output.path.suffix == ".csv":
        found = table(output.path)
        shown = wandb.Table([*found.columns], found.rows, allow_mixed_types=True)
        opened.run.log({output.name: shown}, step=output.now.update)
    else:
        opened.run.log_artifact(str(output.path), type="output")


def _end(opened: Open, summary: Mapping[str, Summary], state: str) -> None:
    for name, each in summary.items():
        opened.run.summary[name] = plain(asdict(each))
    opened.run.finish(exit_code=0 if state == "done" else 1)
