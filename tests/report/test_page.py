"""What the page about a run says is what its run directory holds."""

import json
import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import Callback, ConfigurationError, HookError, Stop, TrainState, every, hooks
from noether.cli import main
from noether.console import Console
from noether.errors import CheckpointError
from noether.journal import follow, open_journal, row
from noether.progress import Progress
from noether.report import history, page, publish
from noether.report.document import differences, document
from noether.report.reading import renewed
from noether.rundir import lock, write_status
from tests.strategies import net, samples, sgd, squared_error


def train(series: Path, *callbacks: Callback, **options: Any) -> TrainState:
    given: dict[str, Any] = {"until": {"updates": 6}, "batch_size": 4, "log": every(updates=2)}
    return noether.train(
        net(),
        samples(12),
        loss=squared_error,
        optimizer=sgd,
        callbacks=callbacks,
        datasets={"val": samples(6, seed=2)},
        run_dir=series,
        **{**given, **options},
    )


def told(*runs: Path) -> dict[str, Any]:
    """The data in the page."""
    text = page([history(run) for run in runs])
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    made: dict[str, Any] = json.loads(found[1])
    return made


def invented(run: Path, *metrics: dict[str, float], **status: Any) -> Path:
    """A run directory with a row for each update."""
    run.mkdir(parents=True)
    journal = open_journal(run / "journal.jsonl")
    for update, found in enumerate(metrics, 1):
        now = Progress(update=update, sample=8 * update, seconds=update**2 / 2)
        journal.append(row("update", now, metrics=found))
    journal.close()
    write_status(run, state="done", reason="enough", failed={}, **status)
    return run


# ---------------------------------------------------------------- runs


def test_curves_firings_and_checkpoints_are_those_of_the_journal(tmp_path: Path) -> None:
    evaluated: Any = every(updates=3)(hooks.offline_loss(dataset="val"))
    name = evaluated.name
    train(tmp_path, evaluated, hooks.hook_times(schedule=every(updates=2)))
    rows = list(map(json.loads, (tmp_path / "1" / "journal.jsonl").read_text().splitlines()))
    (run,) = told(tmp_path)["runs"]
    curve = run["series"]["loss/val/total"]
    seen = [
        (r["update"], r["metrics"]["loss/val/total"])
        for r in rows
        if "loss/val/total" in r["metrics"]
    ]
    assert list(zip(curve["x"], curve["y"], strict=True)) == seen
    lowest = min(seen, key=lambda point: point[1])
    assert curve["best"] == list(lowest)
    fired = {each["name"]: each["at"] for each in run["firings"]}
    assert fired[name] == [3, 6]
    assert run["saves"] == [3, 6]  # after each epoch, and at the end
    assert run["parts"].keys() >= {"data_wait", "forward", "backward", "optimizer", "getitem"}
    assert run["parts"]["optimizer"] >= 0
    assert set(run["hooks"]) >= {name, "hook_times"}
    assert run["headline"] == "Done at update 6: reached 6 updates"


def test_who_stopped_a_run_stands_in_the_first_line(tmp_path: Path) -> None:
    def stop(state: TrainState) -> Stop:
        return Stop("seen enough")

    train(tmp_path, Callback("bored", on_schedule=stop, schedule=every(updates=2)))
    (run,) = told(tmp_path / "1")["runs"]
    assert run["headline"] == "Done at update 2: seen enough (asked by bored)"
    assert run["stops"] == []


def test_a_run_that_failed_says_where_with_its_traceback(tmp_path: Path) -> None:
    def fail(state: TrainState) -> None:
        raise ValueError("a hole in the data")

    with pytest.raises(HookError):
        train(tmp_path, Callback("bad", on_schedule=fail, schedule=every(updates=2)))
    (run,) = told(tmp_path)["runs"]
    assert run["state"] == "failed"
    assert "a hole in the data" in run["headline"]
    assert "ValueError: a hole in the data" in run["traceback"]


def test_a_resume_is_marked_where_it_went_on(tmp_path: Path) -> None:
    def fail(state: TrainState) -> None:
        raise ValueError("broken off")

    saves = hooks.checkpoint(schedule=every(updates=2))
    broken = Callback("broken", on_schedule=fail, schedule=every(updates=5))
    with pytest.raises(HookError):
        train(tmp_path, saves, broken)
    train(tmp_path, saves, resume="auto")
    (run,) = told(tmp_path)["runs"]
    assert run["sessions"] == [5]  # saved as it failed
    assert ["sessions", "2"] in run["facts"]


def test_several_runs_are_told_apart_with_what_differs(tmp_path: Path) -> None:
    train(tmp_path, seed=1)
    train(tmp_path, seed=2, clip_norm=1.0)
    found = told(tmp_path / "1", tmp_path / "2")
    assert [run["name"].endswith(f"/{n}") for n, run in enumerate(found["runs"], 1)] == [True, True]
    assert dict(found["differences"])["seed"] == ["1", "2"]
    assert dict(found["differences"])["clip_norm"] == ["None", "1.0"]
    assert "batch_size" not in dict(found["differences"])
    assert differences([history(tmp_path / "1")] * 2) == []


def test_what_is_not_finite_is_marked_and_drawn_nowhere(tmp_path: Path) -> None:
    run = invented(tmp_path / "1", {"loss/a": 1.0}, {"loss/a": math.nan}, {"loss/a": math.inf})
    series = told(run)["runs"][0]["series"]["loss/a"]
    assert (series["x"], series["y"], series["broken"]) == ([1], [1.0], [2, 3])


# ---------------------------------------------------------------- the file


NASTY = "</script><img src=x onerror=alert(1)><!--"


def test_nothing_in_a_run_can_run_in_the_page(tmp_path: Path) -> None:
    run = invented(tmp_path / "<b>1", {NASTY: 1.0}, {f"loss/{NASTY}": 1.0})
    (run / "config.yaml").write_text(f"a: '{NASTY}'")
    write_status(run, state="failed", reason=NASTY, failed={NASTY: 3})
    (run / "traceback.txt").write_text(NASTY)
    text = page([history(run)])
    assert "<img" not in text.split("<script>")[0]
    assert "<b>" not in text
    assert told(run)["runs"][0]["headline"].endswith(NASTY)


def test_the_page_asks_for_nothing_elsewhere(tmp_path: Path) -> None:
    text = page([history(invented(tmp_path / "1", {"loss/a": 1.0}))])
    assert "default-src 'none'" in text
    frame = text.replace(max(re.findall(r"<script>(.*?)</script>", text, re.S), key=len), "")
    assert "http" not in frame.replace("http-equiv", "")
    assert "refresh" not in frame
    assert len(text) < 6_000_000


def test_it_is_written_into_the_run_or_where_one_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = invented(tmp_path / "1", {"loss/a": 1.0})
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run)]) == 0
    assert main(["report", str(run), str(run), "-o", "both.html"]) == 0
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "both.html").is_file()
    assert capsys.readouterr().out == f"{run / 'report.html'}\nboth.html\n"


def test_a_live_page_is_written_until_the_run_ends(tmp_path: Path) -> None:
    run = invented(tmp_path / "1", {"loss/a": 1.0})
    write_status(run, state="running")
    seen: list[bool] = []

    def sleep(seconds: float) -> None:
        seen.append("refresh" in (run / "report.html").read_text().split("<style>")[0])
        if len(seen) == 2:
            write_status(run, state="done", reason="enough", failed={})

    publish([run], None, Console(form="quiet"), live=True, sleep=sleep)
    assert seen == [True, True]
    assert "refresh" not in (run / "report.html").read_text().split("<style>")[0]


def test_a_run_whose_process_is_gone_was_killed(tmp_path: Path) -> None:
    def never(seconds: float) -> None:
        raise AssertionError("a live page about it ends at once")

    run = invented(tmp_path / "1", {"loss/a": 1.0})
    write_status(run, state="running")
    with lock(run):
        assert told(run)["runs"][0]["headline"] == "Running, at update 1"
    (found,) = told(run)["runs"]
    assert (found["state"], found["headline"].split(",")[0]) == ("killed", "Its process is gone")
    publish([run], None, Console(form="quiet"), live=True, sleep=never)


@given(data=st.data(), first=st.integers(0, 5), more=st.integers(0, 5))
def test_a_page_that_goes_on_tells_what_one_read_anew_does(
    data: st.DataObject, first: int, more: int
) -> None:
    with TemporaryDirectory() as folder:
        losses = [{"loss/a": float(n)} for n in range(first + more)]
        run = invented(Path(folder) / "1", *losses[:first])
        known = history(run)
        cut = data.draw(st.integers(0, first))  # as a resume from an earlier checkpoint does
        lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)[:cut]
        (run / "journal.jsonl").write_bytes(b"".join(lines))
        again = open_journal(run / "journal.jsonl")
        for update, found in enumerate(losses[cut:], cut + 1):
            again.append(row("update", Progress(update=update, session=2), metrics=found))
        again.close()
        with open(run / "journal.jsonl", "ab") as file:
            file.write(data.draw(st.sampled_from([b"", b'{"tick": "u'])))
        assert document([renewed(known)]) == document([history(run)])


def test_a_page_that_goes_on_reads_what_is_new_alone(tmp_path: Path) -> None:
    run = invented(tmp_path / "1", *({"loss/a": 1.0} for _ in range(50)))
    known = history(run)
    journal = open_journal(run / "journal.jsonl")
    journal.append(row("update", Progress(update=51), metrics={"loss/a": 2.0}))
    journal.close()
    told = list(follow(known.reader))
    assert [each["update"] for each in told] == [51]


def test_evaluations_of_checkpoints_are_told(tmp_path: Path) -> None:
    train(tmp_path, hooks.checkpoint())
    given: dict[str, Any] = {"loss": squared_error, "datasets": {"val": samples(6, seed=2)}}
    loss = hooks.offline_loss(dataset="val")
    state = noether.evaluate(net(), run=tmp_path, callbacks=loss, **given)
    (found,) = told(tmp_path / "1")["runs"]
    value = state.metrics["loss/val/total"]
    assert found["evaluations"] == [{"update": 6, "metrics": {"loss/val/total": value}}]


def test_a_damaged_status_hides_no_curve(tmp_path: Path) -> None:
    run = invented(tmp_path / "1", {"loss/a": 1.0})
    (run / "status.json").write_text("{")
    (found,) = told(run)["runs"]
    assert found["headline"] == "Its status is unknown; the last row is of update 1"
    assert found["series"]["loss/a"]["y"] == [1.0]


def test_a_run_without_a_row_has_a_page(tmp_path: Path) -> None:
    run = invented(tmp_path / "1")
    assert document([history(run)])["groups"] == []
    assert told(run)["runs"][0]["headline"].startswith("Done at update 0")


@pytest.mark.parametrize("torn", ['{"tick": "upd', "\n\n"])
def test_a_torn_end_is_left_out(tmp_path: Path, torn: str) -> None:
    run = invented(tmp_path / "1", {"loss/a": 1.0})
    with open(run / "journal.jsonl", "a") as file:
        file.write(torn)
    assert history(run).rows == 1


def test_what_is_no_run_is_an_error_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError, match=r"is no run directory with a journal\.jsonl"):
        history(tmp_path)
    assert main(["report", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ['{"tick": "update"}', '{"update": [], "tick": 3}', "[]\n{}", "x\n{}"]
)
def test_rows_that_are_none_are_an_error_naming_the_file(tmp_path: Path, line: str) -> None:
    run = invented(tmp_path / "1")
    (run / "journal.jsonl").write_text(f"{line}\n")
    with pytest.raises(CheckpointError, match=r"journal\.jsonl"):
        history(run)


@pytest.mark.parametrize("line", ["{}", '{"update": 1, "metrics": null}'])
def test_rows_of_evaluations_that_are_none_are_an_error_naming_the_file(
    tmp_path: Path, line: str
) -> None:
    run = invented(tmp_path / "1", {"loss/a": 1.0})
    (run / "evaluation.jsonl").write_text(f"{line}\n")
    with pytest.raises(CheckpointError, match=r"evaluation\.jsonl"):
        history(run)


def test_a_place_that_cannot_be_written_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    run = invented(tmp_path / "1", {"loss/a": 1.0})
    with pytest.raises(ConfigurationError, match=r"cannot be written.*-o FILE\.html"):
        publish([run], str(tmp_path / "missing" / "page.html"), Console(form="quiet"))


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = invented(tmp_path / "1", {"loss/a": 1.0})
    monkeypatch.setattr("noether.report.rendering.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"noether-callbacks\[report\]"):
        page([history(run)])
