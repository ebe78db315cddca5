"""A run that trackers are told of, and readers of what they wrote."""

import csv
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import noether
from noether import (
    Callback,
    HookError,
    TrainState,
    every,
    hooks,
    once_at_end,
    trackers,
)
from noether.journal import read
from noether.trackers import Tracker
from tests.strategies import net, samples, sgd, squared_error

SAVING = hooks.checkpoint(schedule=every(updates=2))
RARELY = hooks.checkpoint(schedule=every(updates=4))
CLOSING = hooks.checkpoint(schedule=once_at_end)
LOSS = "loss/online/total/U1"


def train(folder: Path | None, *callbacks: Callback, **options: Any) -> Any:
    """A model, trained."""
    model = net()
    given: dict[str, Any] = {"until": {"updates": 6}, "batch_size": 4, "defaults": False}
    noether.train(
        model,
        samples(12),
        loss=squared_error,
        optimizer=sgd,
        callbacks=[every(updates=1)(hooks.online_loss()), *callbacks],
        run_dir=folder,
        **{**given, **options},
    )
    return model


def broken(folder: Path, update: int, *callbacks: Callback, **options: Any) -> None:
    """A run that fails after an update's tick was tracked, as if it had been killed: nothing of it
    is saved but what `SAVING` had.
    """

    def fail(state: TrainState) -> None:
        if state.now.update == update:
            raise ValueError("broken off")

    with pytest.raises(HookError):
        train(folder, SAVING, *callbacks, Callback("fail", before_update=fail), **options)
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()  # the next session has a process of its own there, too


def logged(run: Path) -> list[tuple[int, float]]:
    """What the journal holds of the loss."""
    rows = read(run / "journal.jsonl")
    return [(row["update"], row["metrics"][LOSS]) for row in rows if LOSS in row["metrics"]]


def kind(name: str) -> str:
    """Results of evaluations have files of their own."""
    return ".evaluations" if name.startswith("evaluation/") else ""


def of_csv(run: Path, name: str = LOSS) -> list[tuple[int, float]]:
    with open(run / "trackers" / f"metrics{kind(name)}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(r["update"]), float(r["value"])) for r in rows if r["metric"] == name]


def of_jsonl(run: Path, name: str = LOSS) -> list[tuple[int, float]]:
    lines = map(
        json.loads, (run / "trackers" / f"metrics{kind(name)}.jsonl").read_text().splitlines()
    )
    return [(each["update"], each["metrics"][name]) for each in lines if name in each["metrics"]]


def of_tensorboard(run: Path, name: str = LOSS) -> list[tuple[int, float]]:
    folder = run / "trackers" / "tensorboard"
    return scalars(folder / "evaluation" if kind(name) else folder, name)


def scalars(folder: Path, name: str = LOSS) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [(each.step, each.value) for each in found.Scalars(name)]


def of_mlflow(run: Path, name: str = LOSS) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run / 'trackers' / 'mlflow.db'}")
    found = client.get_metric_history(mlflow_id(run), name)
    return [(each.step, each.value) for each in found]


def mlflow_id(run: Path) -> str:
    return str(json.loads((run / "trackers" / "mlflow.json").read_text())["id"])


def trackio_folder() -> Path:
    from trackio.utils import TRACKIO_DIR

    return Path(TRACKIO_DIR)


def of_trackio(run: Path, name: str = LOSS) -> list[tuple[int, float]]:
    with sqlite3.connect(trackio_folder() / f"{run.parent.name}.db") as database:
        rows = database.execute("select step, metrics from metrics order by id").fetchall()
    return [(step, found[name]) for step, text in rows if name in (found := json.loads(text))]


def of_wandb(run: Path, name: str = LOSS) -> list[tuple[int, float]]:
    found = []
    for record in wandb_records(run):
        if record.WhichOneof("record_type") == "history":
            items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            if name in items:
                found.append((int(items["_step"]), float(items[name])))
    return found


def wandb_records(run: Path) -> Iterator[Any]:
    """What its files hold: records in blocks of 32 KiB, each part behind 7 bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    kinds: Any = wandb_internal_pb2
    for file in sorted((run / "trackers" / "wandb").glob("offline-run*/*.wandb")):
        data, at, whole = file.read_bytes(), 7, b""
        while at + 7 <= len(data):
            left = 32768 - at % 32768
            if left < 7:
                at += left
                continue
            length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                yield kinds.Record.FromString(whole)
                whole = b""


READERS: dict[str, Callable[..., list[tuple[int, float]]]] = {
    "csv": of_csv,
    "jsonl": of_jsonl,
    "mlflow": of_mlflow,
    "tensorboard": of_tensorboard,
    "trackio": of_trackio,
    "wandb": of_wandb,
}


def made(name: str, series: Path) -> Tracker:
    """A tracker that writes here."""
    options: dict[str, Any] = {"wandb": {"offline": True}, "trackio": {"project": series.name}}
    tracker: Tracker = getattr(trackers, name)(**options.get(name, {}))
    return tracker


def near(found: list[tuple[int, float]], wanted: list[tuple[int, float]]) -> bool:
    """Whether the updates are equal, and the values to what a tracker stores of them."""
    (ats, values), (others, losses) = (zip(*each, strict=True) for each in (found, wanted))
    return bool(ats == others and values == pytest.approx(losses))


def read_state(run: Path) -> Any:
    return json.loads((run / "status.json").read_text())["state"]
