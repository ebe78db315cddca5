"""Each tracker, by the library that people read it with: what a run logs, once."""

import json
import os
import sqlite3
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import noether
from noether import Callback, Log, Save, TrainState, Write, at, every, hooks, trackers
from noether.rundir import lock
from noether.trackers import Tracker
from tests.strategies import net, samples, squared_error
from tests.trackers.runs import (
    LOSS,
    READERS,
    SAVING,
    broken,
    logged,
    made,
    mlflow_id,
    near,
    of_csv,
    of_wandb,
    read_state,
    scalars,
    trackio_folder,
    train,
    wandb_records,
)

pytestmark = pytest.mark.filterwarnings("default")  # what the libraries are warned of is theirs


@pytest.mark.parametrize("name", READERS)
def test_what_is_tracked_is_what_the_journal_holds(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, trackers=[made(name, tmp_path)], console="json")
    assert near(READERS[name](tmp_path / "1"), logged(tmp_path / "1"))
    said = map(json.loads, capfd.readouterr().out.splitlines())
    assert {line["kind"] for line in said} == {"say", "metrics"}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("update", [1, 4, 5])
def test_a_resumed_run_tracks_no_tick_twice(name: str, update: int, tmp_path: Path) -> None:
    broken(tmp_path, update, trackers=[made(name, tmp_path)])
    train(tmp_path, SAVING, trackers=[made(name, tmp_path)], resume="auto")
    (run,) = [each for each in tmp_path.iterdir() if read_state(each) == "done"]
    found = READERS[name](run)
    assert [at for at, _ in found] == [1, 2, 3, 4, 5, 6]
    assert near(found, logged(run))


@pytest.mark.parametrize("name", READERS)
def test_a_tracker_that_is_new_in_a_resumed_run_gets_all_of_it(name: str, tmp_path: Path) -> None:
    broken(tmp_path, 5)
    train(tmp_path, SAVING, trackers=[made(name, tmp_path)], resume="auto")
    found = READERS[name](tmp_path / "1")
    assert [at for at, _ in found] == [1, 2, 3, 4, 5, 6]
    assert near(found, logged(tmp_path / "1"))


def test_mlflow_takes_any_number_of_metrics_of_any_name(tmp_path: Path) -> None:
    def many(state: TrainState) -> Log:
        return Log({f"weights[{n}]": float(n) for n in range(1_500)})

    train(
        tmp_path, every(updates=6)(Callback("many", on_schedule=many)), trackers=[trackers.mlflow()]
    )
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / '1' / 'trackers' / 'mlflow.db'}")
    found = client.get_run(mlflow_id(tmp_path / "1")).data.metrics
    assert {n: found[f"weights_{n}_"] for n in range(1_500)} == {n: n for n in range(1_500)}


def test_a_database_of_mlflow_that_was_left_half_made_is_made_anew(tmp_path: Path) -> None:
    broken(tmp_path, 5)
    left = tmp_path / "1" / "trackers" / "mlflow.db.new"
    left.parent.mkdir()
    with sqlite3.connect(left) as database:
        database.execute("create table webhooks (id integer)")
    train(tmp_path, SAVING, trackers=[made("mlflow", tmp_path)], resume="auto")
    assert near(READERS["mlflow"](tmp_path / "1"), logged(tmp_path / "1"))
    assert not left.exists()


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
    assert json.loads((folder / "metrics.config.json").read_text())["config"]["batch_size"] == 4


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


def written(state: TrainState) -> list[Write]:
    return [
        Write("drawn/stripes.png", torch.zeros(3, 4, 6)),
        Write("words.json", ["so it is"]),
        Write("rows.csv", {"n": [1.0, 2.0], "word": ["a", "b"]}),
        Write("raw", torch.zeros(2)),
    ]


def shown(name: str, folder: Path) -> Path:
    """A run that writes pictures, texts and tables."""
    writing = every(updates=6)(Callback("writing", on_schedule=written))
    train(folder, writing, trackers=[made(name, folder)])
    return folder / "1"


def test_wandb_shows_pictures_and_tables_and_keeps_the_rest(tmp_path: Path) -> None:
    run = shown("wandb", tmp_path)
    records = list(wandb_records(run))
    items = {
        item.key or item.nested_key[0]
        for record in records
        if record.WhichOneof("record_type") == "history" and record.history.step.num == 6
        for item in record.history.item
    }
    assert "drawn/stripes.png" in items
    assert "rows.csv" in items
    artifacts = {r.artifact.type for r in records if r.WhichOneof("record_type") == "artifact"}
    assert "output" in artifacts


def test_trackio_shows_pictures_tables_and_texts(tmp_path: Path) -> None:
    shown("trackio", tmp_path)
    with sqlite3.connect(trackio_folder() / f"{tmp_path.name}.db") as database:
        found = database.execute("select step, metrics from metrics").fetchall()
    logged = [json.loads(text) for step, text in found if step == 6]
    told = {name: value for each in logged for name, value in each.items() if "." in name}
    assert {name: value["_type"] for name, value in told.items()} == {
        "drawn/stripes.png": "trackio.image",
        "rows.csv": "trackio.table",
        "words.json": "trackio.markdown",
    }
    assert told["rows.csv"]["_value"] == [{"n": 1.0, "word": "a"}, {"n": 2.0, "word": "b"}]


def test_mlflow_keeps_all_that_is_written_beside_its_database(tmp_path: Path) -> None:
    run = shown("mlflow", tmp_path)
    names = {path.name for path in (run / "trackers" / "mlflow").rglob("*") if path.is_file()}
    assert names == {"drawn.stripes.png", "rows.csv", "words.json", "raw.pt"}


def test_tensorboard_shows_the_first_rows_of_tables(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(shown("tensorboard", tmp_path) / "trackers" / "tensorboard"))
    found.Reload()
    (text,) = found.Tensors("rows.csv/text_summary")
    assert text.tensor_proto.string_val[0] == b"| n | word |\n|---|---|\n| 1.0 | a |\n| 2.0 | b |"


# ---------------------------------------------------------------- evaluations


RESULT = "evaluation/loss/val/total"


def evaluated(name: str, folder: Path, **options: Any) -> float:
    """A run that has ended, and one of its checkpoints, evaluated: the result."""
    early = at(updates=4)(Callback("early", on_schedule=lambda state: Save("early")))
    train(folder, SAVING, early, trackers=[made(name, folder)])
    given: dict[str, Any] = {"loss": squared_error, "datasets": {"val": samples(6, seed=2)}}
    given |= {"callbacks": hooks.offline_loss(dataset="val"), "trackers": [made(name, folder)]}
    found = noether.evaluate(net(), run=folder, **{**given, **options})
    return float(found.metrics["loss/val/total"])


@pytest.mark.parametrize("name", [name for name in READERS if name != "wandb"])
def test_results_of_an_evaluation_join_what_was_tracked(name: str, tmp_path: Path) -> None:
    found = evaluated(name, tmp_path)
    run = tmp_path / "1"
    assert near(READERS[name](run), logged(run))
    assert near(READERS[name](run, RESULT), [(6, found)])


def test_wandb_has_results_of_an_evaluation_in_its_summary(tmp_path: Path) -> None:
    found = evaluated("wandb", tmp_path)
    assert near(of_wandb(tmp_path / "1"), logged(tmp_path / "1"))
    summaries = {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in wandb_records(tmp_path / "1")
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert summaries["evaluation/update"] == 6
    assert summaries[RESULT]["last"] == pytest.approx(found)


def test_a_configuration_and_a_summary_survive_an_evaluation(tmp_path: Path) -> None:
    train(tmp_path, SAVING, trackers=[made("csv", tmp_path)])
    folder = tmp_path / "1" / "trackers"
    config, summary = (folder / f"metrics.{what}.json" for what in ("config", "summary"))
    before = json.loads(config.read_text()), json.loads(summary.read_text())
    evaluated("csv", tmp_path / "other")
    folder = tmp_path / "other" / "1" / "trackers"
    config, summary = (folder / f"metrics.{what}.json" for what in ("config", "summary"))
    after = json.loads(config.read_text()), json.loads(summary.read_text())
    assert after[0]["config"]["batch_size"] == before[0]["config"]["batch_size"] == 4
    assert after[1]["summary"].keys() == before[1]["summary"].keys() | {RESULT}
    assert after[1]["state"] == "done"


def test_an_earlier_checkpoint_evaluated_cuts_nothing(tmp_path: Path) -> None:
    found = evaluated("csv", tmp_path, checkpoint="early")
    assert of_csv(tmp_path / "1") == logged(tmp_path / "1")
    assert of_csv(tmp_path / "1", RESULT) == [(4, found)]


def test_trackers_of_a_run_that_is_being_trained_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, SAVING, trackers=[made("csv", tmp_path)])
    with lock(tmp_path / "1"):
        given: dict[str, Any] = {"loss": squared_error, "datasets": {"val": samples(6, seed=2)}}
        given |= {"callbacks": hooks.offline_loss(dataset="val"), "trackers": [trackers.csv()]}
        noether.evaluate(net(), run=tmp_path, **given)
    assert not (tmp_path / "1" / "trackers" / "metrics.evaluations.csv").exists()
    assert f"process {os.getpid()} may be using" in capsys.readouterr().err


def test_runs_whose_trackers_have_one_path_leave_each_others_files_alone(tmp_path: Path) -> None:
    def at_one_path() -> list[Tracker]:
        folder = tmp_path / "all"
        csv, jsonl = (str(folder / name) for name in ("metrics.csv", "lines.jsonl"))
        boards = trackers.tensorboard(path=str(folder / "boards"))
        return [trackers.csv(path=csv), trackers.jsonl(path=jsonl), boards]

    series = tmp_path / "runs"
    train(series, SAVING, trackers=at_one_path())
    train(series, SAVING, trackers=at_one_path(), until={"updates": 9})
    second = (tmp_path / "all" / "metrics.csv").read_bytes()
    given: dict[str, Any] = {"loss": squared_error, "datasets": {"val": samples(6, seed=2)}}
    given |= {"callbacks": hooks.offline_loss(dataset="val"), "trackers": at_one_path()}
    noether.evaluate(net(), run=series / "1", **given)
    first, kept = (tmp_path / "all" / f"metrics{n}.csv" for n in (".1", ".2"))
    assert kept.read_bytes() == second
    assert first.read_bytes() == (tmp_path / "all" / "metrics.csv").read_bytes()
    for number, updates in (("1", 6), ("2", 9)):
        assert len(scalars(tmp_path / "all" / "boards" / f"runs-{number}")) == updates


@pytest.mark.parametrize("name", ["csv", "jsonl", "tensorboard"])
def test_results_of_several_evaluations_stay_also_when_the_run_goes_on(
    name: str, tmp_path: Path
) -> None:
    broken(tmp_path, 5, trackers=[made(name, tmp_path)])
    given: dict[str, Any] = {"loss": squared_error, "datasets": {"val": samples(6, seed=2)}}
    given |= {"callbacks": hooks.offline_loss(dataset="val"), "run": tmp_path}
    for _ in range(2):
        noether.evaluate(net(), trackers=[made(name, tmp_path)], **given)
    train(tmp_path, SAVING, trackers=[made(name, tmp_path)], resume="auto")
    noether.evaluate(net(), trackers=[made(name, tmp_path)], **given)
    assert [at for at, _ in READERS[name](tmp_path / "1", RESULT)] == [4, 4, 6]
    assert near(READERS[name](tmp_path / "1"), logged(tmp_path / "1"))


@pytest.mark.parametrize("tracked", [True, False])
def test_a_run_with_its_checkpoints_alone_is_evaluated(tmp_path: Path, *, tracked: bool) -> None:
    train(tmp_path, SAVING)
    run = tmp_path / "1"
    (run / "journal.jsonl").unlink()
    (run / "status.json").write_text('{"state": "do')
    given: dict[str, Any] = {"loss": squared_error, "datasets": {"val": samples(6, seed=2)}}
    given |= {"callbacks": hooks.offline_loss(dataset="val"), "run": run}
    found = noether.evaluate(net(), trackers=[trackers.csv()] if tracked else [], **given)
    told = of_csv(run, RESULT) if tracked else []
    assert told == [(6, found.metrics["loss/val/total"])][: len(told)]
    assert bool(told) is tracked


def test_runs_of_one_name_are_two_of_trackios(tmp_path: Path) -> None:
    tracker = trackers.trackio(project=tmp_path.name, name="mine")
    train(tmp_path, trackers=[tracker])
    train(tmp_path, trackers=[tracker])
    with sqlite3.connect(trackio_folder() / f"{tmp_path.name}.db") as database:
        names = {name for (name,) in database.execute("select run_name from metrics")}
    assert len(names) == 2
    assert all(name.startswith("mine-") for name in names)


def test_an_evaluation_of_an_empty_set_tracks_nothing(tmp_path: Path) -> None:
    train(tmp_path, SAVING, trackers=[trackers.jsonl()])
    given: dict[str, Any] = {"loss": squared_error, "datasets": {"val": samples(0)}}
    given |= {"callbacks": hooks.offline_loss(dataset="val"), "trackers": [trackers.jsonl()]}
    assert noether.evaluate(net(), run=tmp_path, **given).fresh == frozenset()
    assert not (tmp_path / "1" / "trackers" / "metrics.evaluations.jsonl").exists()
