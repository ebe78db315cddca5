"""MLflow as a tracker."""

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from time import time
from typing import Any

from toolz import partition_all

from noether.callback import factory
from noether.plain import flat, plain
from noether.trackers.remembered import keep, recall
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

UPDATE = "progress/update"
"""Logged with every tick: tells how far a run has been tracked."""
STATES = {"done": "FINISHED", "failed": "FAILED", "preempted": "KILLED"}
AT_ONCE = 1000
"""Metrics that it takes in one call."""
LONGEST = 500
"""Characters that a parameter may have."""
REFUSED = re.compile(r"[^\w\-. :/]")
"""What names there may not hold."""


@dataclass(frozen=True, slots=True)
class Open:
    """A client, its run, and the last update that it had when this session began."""

    client: Any
    run: str
    held: int


@factory
def mlflow(
    *, uri: str | None = None, experiment: str = "noether", name: str | None = None
) -> Tracker:
    """Log to MLflow (extra `mlflow`): metrics by update, settings, and files as artifacts.

    Under `uri`, by default `trackers/mlflow.db` in the run directory, an SQLite database, with
    artifacts beside it. A resumed run goes on in its MLflow run; what that lacks is logged again,
    from the journal.

    >>> mlflow(uri="http://localhost:5000").name
    'mlflow'
    """

    def begin(begun: Begun) -> Open:
        from mlflow.tracking import MlflowClient

        where = uri or _database(place(None, "mlflow.db", begun.run).resolve(), MlflowClient)
        client = MlflowClient(where)
        known = recall(begun, "mlflow").get("id") if begun.resumed else None
        if known is None:
            artifacts = None if uri else place(None, "mlflow", begun.run).resolve().as_uri()
            return Open(client, _new(client, begun, _id(client, experiment, artifacts), name), -1)
        client.set_terminated(known, "RUNNING")
        return Open(client, known, int(client.get_run(known).data.metrics.get(UPDATE, -1)))

    return Tracker(
        "mlflow", begin, _log, _end, _show, holds=attrgetter("held"), check=partial(_check, uri)
    )


def _database(path: Path, client: Callable[[str], Any]) -> str:
    """The address of a database, made aside: none could use one that is left half made."""
    logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)  # it tells of each table
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.new")
        for left in path.parent.glob(f"{aside.name}*"):
            left.unlink()
        client(f"sqlite:///{aside}").search_experiments(max_results=1)
        os.replace(aside, path)
    return f"sqlite:///{path}"


def _id(client: Any, experiment: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(experiment)
    made = client.create_experiment(experiment, artifacts) if found is None else found.experiment_id
    return str(made)


def _new(client: Any, begun: Begun, experiment: str, name: str | None) -> str:
    made = client.create_run(experiment, run_name=name or begun.name)
    keep(begun, "mlflow", id=made.info.run_id)
    for key, value in flat(begun.config).items():
        client.log_param(made.info.run_id, REFUSED.sub("_", key), value[:LONGEST])
    return str(made.info.run_id)


def _check(uri: str | None, run_dir: Path | None) -> None:
    needs("mlflow", "mlflow")
    if uri is None:
        needs("mlflow.store.tracking.sqlalchemy_store", "mlflow")
        place(None, "mlflow", run_dir)


def _log(opened: Open, line: Line) -> None:
    """All of a tick; how far the run is tracked comes last, so that the rest is there then."""
    from mlflow.entities import Metric

    now, update = int(1000 * time()), line.now.update
    values = {**with_counts(line), **({} if line.event == "evaluation" else {UPDATE: update})}
    metrics = [Metric(REFUSED.sub("_", n), float(v), now, update) for n, v in values.items()]
    for some in partition_all(AT_ONCE, metrics):
        opened.client.log_batch(opened.run, metrics=some)


def _show(opened: Open, output: Output) -> None:
    opened.client.log_artifact(opened.run, str(output.path))


def _end(opened: Open, summary: Mapping[str, Summary], state: str) -> None:
    for name, each in summary.items():
        for what in ("min", "max", "best"):
            if (value := getattr(each, what)) is not None:
                opened.client.set_tag(
                    opened.run, f"{REFUSED.sub('_', name)}.{what}", str(plain(value))
                )
    opened.client.set_terminated(opened.run, STATES[state])
