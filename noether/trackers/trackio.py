"""Trackio as a tracker."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from noether.callback import factory
from noether.plain import plain
from noether.trackers.remembered import keep, recall
from noether.trackers.tracker import Begun, Line, Summary, Tracker, needs, with_counts


@dataclass(slots=True)
class Open:
    """A run of theirs, and the last update that it knows."""

    run: Any
    known: int
    begun: Begun


@factory
def trackio(
    *, project: str = "noether", name: str | None = None, space_id: str | None = None
) -> Tracker:
    """Log to Trackio (extra `trackio`): metrics by update, settings, and the summary at the end.

    Into its own folder on this machine (`TRACKIO_DIR`), or the Space `space_id`. A resumed run goes
    on in its run of theirs, without what was handed over already.

    >>> trackio(project="digits").name
    'trackio'
    """

    def begin(begun: Begun) -> Open:
        import trackio

        known = recall(begun, "trackio") if begun.now.update else {}
        run = trackio.init(
            project=project,
            name=known.get("name", name or begun.name),
            space_id=space_id,
            config=plain(begun.config),
            resume="allow" if known else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return Open(run, known.get("update", -1), begun)

    return Tracker("trackio", begin, _log, _end, check=_check)


def _check(run_dir: Path | None) -> None:
    needs("trackio", "trackio")


def _log(opened: Open, line: Line) -> None:
    update = line.now.update
    if update > opened.known:
        opened.run.log(plain(with_counts(line)), step=update)
        keep(opened.begun, "trackio", name=opened.run.name, update=update)


def _end(opened: Open, summary: Mapping[str, Summary], state: str) -> None:
    told = {f"summary/{name}": plain(asdict(each)) for name, each in summary.items()}
    opened.run.log({**told, "state": state})
    opened.run.finish()
