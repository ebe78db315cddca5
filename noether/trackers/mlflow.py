"""MLflow as a tracker."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import time
from typing import Any

from noether.callback import factory
from noether.plain import flat, plain
from noether.trackers.remembered import keep, recall
from noether.trackers.tracker import (
    FOLDER,
    Begun,
    Line,
    Output,
    Summary,
    Tracker,
    needs,
    place,
    with_counts,
)

SAMPLE = "progress/sample"
"""Logged with every tick: its steps tell how far a run has been tracked."""
STATES = {"done": "FINISHED", "failed": "FAILED", "preempted": "KILLED"}
LONGEST = 500
"""Characters that a parameter may have."""


@dataclass(slots=True)
class Open:
    """A client, its run, and the last update that it knows."""

    client: Any
    run: str
    known: int


@factory
def mlflow(
    *, uri: str | None = None, experiment: str = "noether", name: str | None = None
) -> Tracker:
    """Log to MLflow (extra `mlflow`): metrics by update, settings, and files as artifacts.

    Under `uri`, by default `trackers/mlflow.db` in the run directory, an SQLite database. A resumed
    run goes on in its MLflow run, without what that holds already.

    >>> mlflow(uri="http://localhost:5000").name
    'mlflow'
    """

    def begin(begun: Begun) -> Open:
        from mlflow.tracking import MlflowClient

        where = uri or f"sqlite:///{place(None, 'mlflow.db', begun.run).resolve()}"
        if uri is None and begun.run is not None:
            (begun.run / FOLDER).mkdir(parents=True, exist_ok=True)
        client = MlflowClient(where)
        known = recall(begun, "mlflow").get("id")
        if known is not None and begun.now.update:
            client.set_terminated(known, "RUNNING")
            history = client.get_metric_history(known, SAMPLE)
            return Open(client, known, max((each.step for each in history), default=0))
        return _fresh(client, begun, experiment, name)

    return Tracker("mlflow", begin, _log, _end, _show, partial(_check, uri))


def _fresh(client: Any, begun: Begun, experiment: str, name: str | None) -> Open:
    found = client.get_experiment_by_name(experiment)
    number = client.create_experiment(experiment) if found is None else found.experiment_id
    made = client.create_run(number, run_name=name or begun.name)
    keep(begun, "mlflow", id=made.info.run_id)
    for key, value in flat(begun.config).items():
        client.log_param(made.info.run_id, key, value[:LONGEST])
    return Open(client, made.info.run_id, -1)


def _check(uri: str | None, run_dir: Path | None) -> None:
    needs("mlflow", "mlflow")
    if uri is None:
        needs("sqlalchemy", "mlflow")
        place(None, "mlflow", run_dir)


def _log(opened: Open, line: Line) -> None:
    from mlflow.entities import Metric

    update = line.now.update
    if update <= opened.known:
        return
    now = int(1000 * time())
    metrics = [Metric(n, float(value), now, update) for n, value in with_counts(line).items()]
    opened.client.log_batch(opened.run, metrics=metrics)


def _show(opened: Open, output: Output) -> None:
    if output.now.update > opened.known:
        opened.client.log_artifact(opened.run, str(output.path))


def _end(opened: Open, summary: Mapping[str, Summary], state: str) -> None:
    for name, each in summary.items():
        for what in ("min", "max", "best"):
            if (value := getattr(each, what)) is not None:
                opened.client.set_tag(opened.run, f"{name}.{what}", str(plain(value)))
    opened.client.set_terminated(opened.run, STATES[state])
