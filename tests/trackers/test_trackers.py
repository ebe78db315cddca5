"""Trackers get what a run logs, once, whatever becomes of the run; and never the other way."""

import csv
import errno
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import noether
from noether import (
    Callback,
    ConfigurationError,
    HookError,
    TrainState,
    Write,
    every,
    hooks,
    trackers,
)
from noether.journal import read
from noether.trackers import Begun, Line, Summary, Tracker, sending
from noether.trackers.summary import summed
from tests.group import ROOT, Group
from tests.strategies import net, samples, sgd, squared_error

pytestmark = pytest.mark.filterwarnings("default")  # what the libraries are warned of is theirs

SAVING = hooks.checkpoint(schedule=every(updates=2))
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


def broken(folder: Path, update: int, **options: Any) -> None:
    """A run that fails after an update's tick was tracked, as if it had been killed: nothing of it
    is saved but what `SAVING` had.
    """

    def fail(state: TrainState) -> None:
        if state.now.update == update:
            raise ValueError("broken off")

    with pytest.raises(HookError):
        train(folder, SAVING, Callback("fail", before_update=fail), **options)


def logged(run: Path) -> list[tuple[int, float]]:
    """What the journal holds of the loss."""
    rows = read(run / "journal.jsonl")
    return [(row["update"], row["metrics"][LOSS]) for row in rows if LOSS in row["metrics"]]


# ---------------------------------------------------------------- what they write


def of_csv(run: Path) -> list[tuple[int, float]]:
    with open(run / "trackers" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(r["update"]), float(r["value"])) for r in rows if r["metric"] == LOSS]


def of_jsonl(run: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (run / "trackers" / "metrics.jsonl").read_text().splitlines())
    return [(each["update"], each["metrics"][LOSS]) for each in lines if LOSS in each["metrics"]]


def of_tensorboard(run: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "trackers" / "tensorboard"))
    found.Reload()
    return [(each.step, each.value) for each in found.Scalars(LOSS)]


def of_mlflow(run: Path) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run / 'trackers' / 'mlflow.db'}")
    found = client.get_metric_history(mlflow_id(run), LOSS)
    return [(each.step, each.value) for each in found]


def mlflow_id(run: Path) -> str:
    return str(json.loads((run / "trackers" / "mlflow.json").read_text())["id"])


def of_trackio(run: Path) -> list[tuple[int, float]]:
    from trackio.utils import TRACKIO_DIR

    with sqlite3.connect(Path(TRACKIO_DIR) / f"{run.parent.name}.db") as database:
        rows = database.execute("select step, metrics from metrics order by id").fetchall()
    return [(step, found[LOSS]) for step, text in rows if LOSS in (found := json.loads(text))]


def of_wandb(run: Path) -> list[tuple[int, float]]:
    found = []
    for record in wandb_records(run):
        if record.WhichOneof("record_type") == "history":
            items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            if LOSS in items:
                found.append((int(items["_step"]), float(items[LOSS])))
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


READERS: dict[str, Callable[[Path], list[tuple[int, float]]]] = {
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


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What trackers keep of themselves goes where tests may write."""
    if "trackio" not in sys.modules:  # it looks once
        os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.mktemp("wandb")))


def near(found: list[tuple[int, float]], wanted: list[tuple[int, float]]) -> bool:
    """Whether the updates are equal, and the values to what a tracker stores of them."""
    (ats, values), (others, losses) = (zip(*each, strict=True) for each in (found, wanted))
    return bool(ats == others and values == pytest.approx(losses))


@pytest.mark.parametrize("name", READERS)
def test_what_is_tracked_is_what_the_journal_holds(name: str, tmp_path: Path) -> None:
    train(tmp_path, trackers=[made(name, tmp_path)])
    assert near(READERS[name](tmp_path / "1"), logged(tmp_path / "1"))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("update", [1, 4, 5])
def test_a_resumed_run_tracks_no_tick_twice(name: str, update: int, tmp_path: Path) -> None:
    broken(tmp_path, update, trackers=[made(name, tmp_path)])
    train(tmp_path, SAVING, trackers=[made(name, tmp_path)], resume="auto")
    (run,) = [each for each in tmp_path.iterdir() if read_state(each) == "done"]
    found = READERS[name](run)
    assert [at for at, _ in found] == [1, 2, 3, 4, 5, 6]
    assert near(found, logged(run))


def read_state(run: Path) -> Any:
    return json.loads((run / "status.json").read_text())["state"]


@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_files_hold_the_configuration_and_the_summary_of_all_sessions(
    name: str, tmp_path: Path
) -> None:
    broken(tmp_path, 4, trackers=[made(name, tmp_path)])
    train(tmp_path, SAVING, trackers=[made(name, tmp_path)], resume="auto")
    folder = tmp_path / "1" / "trackers"
    losses = [loss for _, loss in logged(tmp_path / "1")]
    told = json.loads((folder / "metrics.summary.json").read_text())
    assert told["state"] == "done"
    wanted = {"min": min(losses), "max": max(losses), "last": losses[-1], "best": min(losses)}
    assert told["summary"][LOSS] == wanted
    assert json.loads((folder / "metrics.config.json").read_text())["batch_size"] == 4


def test_tensorboard_has_samples_configuration_and_summary(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(None, trackers=[trackers.tensorboard(path=str(tmp_path / "logs"))])
    found = EventAccumulator(str(tmp_path / "logs"))
    found.Reload()
    assert [each.value for each in found.Scalars("progress/sample")] == [4, 8, 12, 16, 20, 24]
    texts = {
        name: found.Tensors(name)[0].tensor_proto.string_val[0] for name in found.Tags()["tensors"]
    }
    assert b"batch_size: 4" in texts["config/text_summary"]
    assert b"state: done" in texts["summary/text_summary"]


def test_tensorboard_shows_pictures_and_texts_that_callbacks_write(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def draw(state: TrainState) -> list[Write]:
        picture = torch.zeros(3, 4, 6)
        picture[0, :, state.now.update :] = 1.0
        return [
            Write("stripes.png", picture),
            Write("words.txt", "so it is"),
            Write("raw", picture),
        ]

    drawing = every(updates=3)(Callback("drawing", on_schedule=draw))
    train(tmp_path, drawing, trackers=[trackers.tensorboard(), trackers.csv()])
    found = EventAccumulator(str(tmp_path / "1" / "trackers" / "tensorboard"))
    found.Reload()
    first, last = found.Images("stripes.png")
    assert (first.step, last.step, first.width, first.height) == (3, 6, 6, 4)
    with Image.open(BytesIO(first.encoded_image_string)) as opened:
        assert [opened.getpixel((x, 0)) for x in (2, 3)] == [(0, 0, 0), (255, 0, 0)]
    (text, _) = found.Tensors("words.txt/text_summary")
    assert text.tensor_proto.string_val[0] == b"so it is"


VICTIM = """
import os, signal, sys
import noether
from noether import Callback, every, hooks, trackers
from tests.strategies import net, samples, sgd, squared_error
def end(state):
    if state.now.update == 3:
        os.kill(os.getpid(), signal.SIGTERM)
noether.train(net(), samples(40), loss=squared_error, optimizer=sgd, until={"updates": 9},
    batch_size=4, defaults=False, run_dir=sys.argv[1], trackers=[trackers.csv()],
    callbacks=[every(updates=1)(hooks.online_loss()), Callback("end", after_update=end)])
"""


def test_a_signal_leaves_nothing_untold(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, str(tmp_path)], env=environment, timeout=60
    )
    assert done.returncode == 75
    assert of_csv(tmp_path / "1") == logged(tmp_path / "1")
    summary = json.loads((tmp_path / "1" / "trackers" / "metrics.summary.json").read_text())
    assert summary["state"] == "preempted"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# ---------------------------------------------------------------- what they can't do


def nothing(handle: Any, *more: Any) -> None: ...


def hanging(released: threading.Event) -> Tracker:
    def wait(handle: Any, line: Line) -> None:
        released.wait()

    return Tracker("stuck", lambda begun: None, wait, nothing)


def full(handle: Any, line: Line) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def down(begun: Begun) -> None:
    raise ConnectionError("nobody answers")


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    monkeypatch.setattr(sending, "FLUSH", 0.05)
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("hangs", r"tracker 'stuck' lost \d+ lines: it did not end within"),
        ("full", "tracker 'full' lost 6 lines: OSError: .*No space left"),
        ("down", "tracker 'down' lost 8 lines: ConnectionError: nobody answers"),
    ],
)
def test_a_tracker_in_trouble_changes_nothing_and_is_told_of(
    kind: str, said: str, released: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {
        "hangs": hanging(released),
        "full": Tracker("full", lambda begun: None, full, nothing),
        "down": Tracker("down", down, nothing, nothing),
    }
    tracked, plain = (train(None, trackers=each) for each in ([made[kind]], []))
    for one, other in zip(tracked.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert re.search(said, capsys.readouterr().err)


def test_a_full_queue_loses_lines_and_never_waits(released: threading.Event) -> None:
    sender = sending.start(hanging(released), Begun())
    line = Line(noether.Progress(update=1), {"a": 1.0})
    for _ in range(sending.MOST + 50):
        sending.send(sender, line)  # would block here
    assert 48 <= sender.lost <= 50
    assert sending.trouble(sender) == (
        "tracker 'stuck' fails: it is too slow, or hangs; training goes on"
    )
    assert sending.trouble(sender) is None
    released.set()
    sending.finish([sender], "done")


def test_without_a_tracker_there_is_no_thread() -> None:
    before, seen = set(threading.enumerate()), set[threading.Thread]()

    def look(state: TrainState) -> None:
        seen.update(threading.enumerate())

    train(None, Callback("look", after_update=look))
    assert seen <= before


def ranked(folder: str) -> None:
    train(Path(folder), trackers=[trackers.csv()])


def test_of_two_ranks_the_first_tracks(tmp_path: Path) -> None:
    group = Group(2, tmp_path / "log")
    group.log.touch()
    try:
        group.call(ranked, str(tmp_path / "runs"))
    finally:
        group.close()
    assert of_csv(tmp_path / "runs" / "1") == logged(tmp_path / "runs" / "1")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["csv"], "trackers: 'csv' is none; make one by noether.trackers"),
        ([trackers.csv()], "metrics.csv has no place to write to"),
        (trackers.csv(path="a"), "trackers is a Tracker; expected a list"),
        ([trackers.csv(path="a"), trackers.csv(path="b")], "two trackers are 'csv'"),
        ([trackers.tensorboard()], "tensorboard has no place to write to"),
    ],
)
def test_what_cannot_track_is_refused_before_the_run(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        train(None, trackers=given)


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noether.trackers.tracker.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"noether-callbacks\[tensorboard\]"):
        train(tmp_path, trackers=[trackers.tensorboard()])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- summaries


@given(st.lists(st.floats(allow_nan=True), min_size=1))
def test_a_summary_holds_extremes_the_last_value_and_the_best(values: list[float]) -> None:
    known: dict[str, Summary] = {}
    for value in values:
        known = summed(known, {"accuracy": value, "size": value, "optim/lr": value})
    finite = [value for value in values if value - value == 0]
    assert known.keys() == {"accuracy", "size"}
    found = known["accuracy"]
    assert str(found.last) == str(values[-1])
    if finite:
        assert (found.min, found.max, found.best) == (min(finite), max(finite), max(finite))
        assert known["size"].best is None
