"""Trackio as a tracker."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

from noether.callback import factory
from noether.plain import plain
from noether.trackers.remembered import keep, recall
from noether.trackers.tables import table
from noether.trackers.tracker import Begun, Line, Output, Summary, Tracker, needs, with_counts


@dataclass(slots=True)
class Open:
    """A run of theirs, the last update that it had when this session began, and the last since."""

    run: Any
    held: int
    update: int


@factory
def trackio(
    *, project: str = "noether", name: str | None = None, space_id: str | None = None
) -> Tracker:
    """Log to Trackio (extra `trackio`): metrics by update, settings, and the summary at the end.

    Of what callbacks write, pictures (`.png`), tables (`.csv`) and texts are shown.

    A run is called `name`, by default as its directory, with four characters that no other has.
    Into its own folder on this machine (`TRACKIO_DIR`), or the Space `space_id`. A resumed run goes
    on in its run of theirs; what that lacks is logged again, from the journal.

    >>> trackio(project="digits").name
    'trackio'
    """

    def begin(begun: Begun) -> Open:
        import trackio

        _hush()
        known = recall(begun, "trackio") if begun.resumed else {}
        run = trackio.init(
            project=project,
            name=known.get("name", _unlike(name or begun.name)),
            space_id=space_id,
            config=plain(begun.config),
            resume="allow" if known else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        keep(begun, "trackio", name=run.name)
        last = getattr(run, "_next_step", begun.now.update + 1) - 1
        return Open(run, last, begun.now.update)

    return Tracker("trackio", begin, _log, _end, _show, holds=attrgetter("held"), check=_check)


def _unlike(name: str | None) -> str | None:
    """The name with an end of its own: runs are gone on with by their names alone."""
    return None if name is None else f"{name}-{uuid4().hex[:4]}"


def _hush() -> None:
    """Let it say nothing on stdout, where a run's lines go."""
    import trackio

    for module in (trackio, trackio.run, trackio.utils):
        vars(module)["print"] = lambda *said, **how: None


def _check(run_dir: Path | None) -> None:
    needs("trackio", "trackio")


def _log(opened: Open, line: Line) -> None:
    opened.run.log(plain(with_counts(line)), step=line.now.update)
    opened.update = max(opened.update, line.now.update)


def _show(opened: Open, output: Output) -> None:
    if (shown := _shown(output.path)) is not None:
        opened.run.log({output.name: shown}, step=output.now.update)


def _shown(path: Path) -> Any:
    import trackio

    if path.suffix == ".png":
        return trackio.Image(str(path))
    if path.suffix == ".csv":
        found = table(path)
        return trackio.Table(found.columns, plain(found.rows))
    return trackio.Markdown(path.read_text("utf-8")) if path.suffix in (".json", ".txt") else None


def _end(opened: Open, summary: Mapping[str, Summary], state: str) -> None:
    told = {f"summary/{name}": plain(asdict(each)) for name, each in summary.items()}
    opened.run.log({**told, "state": state}, step=opened.update)
    opened.run.finish()
