"""The command `noether plan`: what it prints, draws, warns of and refuses."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from noether import (
    Callback,
)
from noether.cli import main
from noether.errors import ConfigurationError
from noether.journal import read
from noether.plan import plan
from tests import sample_project
from tests.command import ALLOW, files, in_process, placed

TEXT = """\
run: {dir: runs, until: {epochs: 3}, batch_size: 3}
model: {kind: tests.sample_project.linear}
data:
  train: {kind: tests.sample_project.points}
  val: {kind: tests.sample_project.points, count: 4}
loss: {kind: tests.sample_project.squared}
optimizer: {kind: torch.optim.SGD, lr: 0.01}
callbacks:
- {kind: tests.sample_project.scheduled_reader, metric: loss/val/total}
- {kind: tests.sample_project.scheduled_reader, metric: loss/val/total, name: keen,
   schedule: always}
- {kind: offline_loss, name: validation, dataset: val, every_n_epochs: 1}
- kind: best_checkpoint
  metric: loss/val/total
  name: best
  schedule: on_improvement("loss/val/total", mode="min")
"""
CAPTURE = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a configuration in it."""
    return placed(TEXT, tmp_path, monkeypatch)


def as_json(capsys: CAPTURE, *command: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["plan", "c.yaml", "--json", *command, *ALLOW]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def as_rows(rows: Sequence[Mapping[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
    """A journal in the words of the calendar, each name once per tick, of these callbacks alone."""
    found = [
        {key: row[key] for key in ("tick", "epoch", "update", "sample")}
        | {
            "fires": list(
                dict.fromkeys(
                    effect["by"]
                    for effect in row["effects"]
                    if effect["hook"] == "on_schedule" and effect["by"] in names
                )
            )
        }
        for row in rows
    ]
    return [row for row in found if row["fires"]]


def only(rows: Sequence[Mapping[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
    """Rows of a calendar, of these callbacks alone."""
    found = [{**row, "fires": [name for name in row["fires"] if name in names]} for row in rows]
    return [row for row in found if row["fires"]]


@pytest.mark.parametrize(
    ("planned", "trained"),
    [
        ([], []),
        (["--updates", "4"], ["run.until={updates: 4}"]),
        (["--epochs", "2"], ["run.until={epochs: 2}"]),
        (["run.until.epochs=2", "--updates", "9"], ["run.until={updates: 9}"]),
        (["run.until={seconds: 9}", "--updates", "5"], ["run.until={updates: 5}"]),
        (["run.batch_size=4", "run.drop_last=true"], ["run.batch_size=4", "run.drop_last=true"]),
        (["data.train.count=1"], ["data.train.count=1"]),
        (["--updates", "0"], ["run.until={updates: 0}"]),
    ],
)
def test_the_json_is_what_the_journal_of_train_says(
    folder: Path, capsys: CAPTURE, planned: list[str], trained: list[str]
) -> None:
    found = as_json(capsys, *planned)
    assert main(["train", "c.yaml", *trained, *ALLOW]) == 0
    rows = list(read(Path("runs/1/journal.jsonl")))
    known = [callback["name"] for callback in found["callbacks"] if callback["count"] is not None]
    assert {"reader", "keen", "validation", "checkpoint"} <= set(known)
    assert only(found["calendar"], known) == as_rows(rows, known)
    for callback in found["callbacks"]:
        ran = sum(callback["name"] in row["fires"] for row in as_rows(rows, found["order"]))
        assert callback["count"] in (None, ran)


def test_the_json_says_who_reads_what_and_what_is_unknown(folder: Path, capsys: CAPTURE) -> None:
    found = as_json(capsys, "run.defaults=false")
    assert found["order"] == ["validation", "reader", "keen", "best"]
    callbacks = {callback["name"]: callback for callback in found["callbacks"]}
    assert list(callbacks) == found["order"]
    assert {name: callback["schedule"] for name, callback in callbacks.items()} == {
        "validation": "every(epochs=1)",
        "reader": "every(updates=7)",
        "keen": "always",
        "best": 'on_improvement("loss/val/total", mode="min")',
    }
    assert callbacks["validation"]["writes"] == ["loss/val/*", "lossdiff/val/*"]
    assert callbacks["reader"]["reads"] == callbacks["best"]["reads"] == ["loss/val/total"]
    # `keen` waits for the first validation: ticks 3 to 9, none on the opening one.
    counts = {name: callback["count"] for name, callback in callbacks.items()}
    assert counts == {"validation": 3, "reader": 1, "keen": 7, "best": None}
    assert not any("best" in row["fires"] for row in found["calendar"])


def test_the_json_of_what_clocks_counters_and_predicates_decide_has_no_count(
    folder: Path, capsys: CAPTURE
) -> None:
    entry = "{{kind: tests.sample_project.writer, name: a, metric: a, schedule: '{}'}}"
    for schedule in ("every(seconds=5)", "every(lengths=5)", "first(2, every(minutes=1))"):
        found = as_json(
            capsys,
            "run.defaults=false",
            "run.counters={lengths: {kind: tests.sample_project.lengths}}",
            f"callbacks=[{entry.format(schedule)}]",
        )
        assert [callback["count"] for callback in found["callbacks"]] == [None]
        assert found["calendar"] == []


def test_the_text_names_order_counts_and_what_decides_the_rest(
    folder: Path, capsys: CAPTURE
) -> None:
    assert main(["plan", "c.yaml", "run.defaults=false", *ALLOW]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [line.split() for line in printed.out.splitlines() if line]
    rows = [words for words in lines if words[0] in ("validation", "reader", "keen", "best")][:4]
    assert [words[0] for words in rows] == ["validation", "reader", "keen", "best"]
    assert [words[1] for words in rows][:3] == ["3", "1", "7"]
    assert "validation" in rows[1][2:]  # which it reads from
    assert not rows[3][1].isdigit()
    assert ["best", "by", "loss/val/total"] in lines


def test_the_text_is_ascii_where_the_output_is(folder: Path) -> None:
    done = in_process("plan", "c.yaml", *ALLOW, cwd=folder, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "validation" in done.stdout


# ---------------------------------------------------------------- it builds and writes little


def test_only_the_training_set_is_built_and_nothing_written(folder: Path, capsys: CAPTURE) -> None:
    sample_project.MADE.clear()
    assert main(["plan", "c.yaml", *ALLOW]) == 0
    assert sample_project.MADE == ["8 points"]
    assert files(folder) == ["c.yaml"]


def test_the_model_is_not_built(folder: Path, capsys: CAPTURE) -> None:
    override = "model={kind: tests.sample_project.unbuildable}"
    assert main(["plan", "c.yaml", override, *ALLOW]) == 0
    assert main(["check", "c.yaml", override, *ALLOW]) == 2
    assert "it was built" in capsys.readouterr().err


def test_the_picture_is_well_formed_and_has_every_name(folder: Path, capsys: CAPTURE) -> None:
    odd = "callbacks.0.name='a<b & \"ü\" ]]>'"
    assert main(["plan", "c.yaml", odd, "--svg", "plan.svg", *ALLOW]) == 0
    assert files(folder) == ["c.yaml", "plan.svg"]
    root = ElementTree.parse("plan.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = {element.text for element in root.iter()}
    names = [callback["name"] for callback in as_json(capsys, odd)["callbacks"]]
    assert {'a<b & "ü" ]]>', "best", "progress"} <= set(names) <= texts


def test_names_with_control_characters_do_no_harm(folder: Path, capsys: CAPTURE) -> None:
    assert main(["plan", "c.yaml", 'callbacks.0.name="a\\x01b"', "--svg", "p.svg", *ALLOW]) == 0
    ElementTree.parse("p.svg")


@pytest.mark.parametrize("path", ["missing/plan.svg", "."])
def test_a_picture_that_cannot_be_written_is_one_line(
    folder: Path, capsys: CAPTURE, path: str
) -> None:
    assert main(["plan", "c.yaml", "--svg", path, *ALLOW]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert path in line
    assert files(folder) == ["c.yaml"]


def test_a_reader_that_leaves_is_no_error_to_speak_of(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = in_process("plan", "c.yaml", "--json", *ALLOW, cwd=folder, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


# ---------------------------------------------------------------- what is wrong


def test_seconds_alone_need_a_length(folder: Path, capsys: CAPTURE) -> None:
    assert main(["plan", "c.yaml", "run.until={seconds: 9}", *ALLOW]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--updates" in printed.err
    assert "--epochs" in printed.err


def test_seconds_alone_need_a_length_in_python_too() -> None:
    with pytest.raises(ConfigurationError):
        plan(Callback("a", on_schedule=print), samples=8, until={"seconds": 9})


@pytest.mark.parametrize(
    "length", [["--updates", "-1"], ["--epochs", "1.5"], ["--updates", "2", "--epochs", "2"]]
)
def test_a_length_is_one_whole_number(folder: Path, capsys: CAPTURE, length: list[str]) -> None:
    try:
        code: Any = main(["plan", "c.yaml", *length, *ALLOW])
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert length[0] in capsys.readouterr().err


def with_entry(*lines: str) -> int:
    """Put a reader into the file, after the others; gives the line it begins at."""
    first = "- kind: tests.sample_project.scheduled_reader"
    Path("c.yaml").write_text("\n".join([TEXT.rstrip(), first, "  metric: loss/val/total", *lines]))
    return len(TEXT.splitlines()) + 1


NEVER = [
    "every(updates=10) & at(updates=3)",
    "at(updates=99)",
    "every(epochs=4)",
    "after(updates=5) & until(updates=4)",
    "first(1, at(samples=1000))",
    "skip(9, every(updates=3))",
    "at(updates=4) & every(epochs=1)",
]


@pytest.mark.parametrize("command", ["plan", "check"])
@pytest.mark.parametrize("schedule", NEVER)
def test_a_schedule_that_never_fires_is_a_warning_at_its_line(
    folder: Path, capsys: CAPTURE, schedule: str, command: str
) -> None:
    line = 3 + with_entry("  name: x", f"  schedule: {schedule}")
    assert main([command, "c.yaml", *ALLOW]) == 0
    printed = capsys.readouterr()
    (told,) = printed.err.splitlines()
    start = f"c.yaml:{line}: warning: callback 'x' can never run: "
    assert told.startswith(start)
    assert len(told) > len(start)


@pytest.mark.parametrize("command", ["plan", "check"])
def test_readers_of_what_is_never_written_never_run_either(
    folder: Path, capsys: CAPTURE, command: str
) -> None:
    wait = "callbacks.2.every_n_epochs=4"
    assert main([command, "c.yaml", wait, "run.defaults=false", *ALLOW]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    for name, line in (("reader", 9), ("keen", 11), ("best", 16)):
        start = f"c.yaml:{line}: warning: callback {name!r} can never run: "
        assert any(text.startswith(start) and "validation" in text for text in told), name
    assert any("callback 'validation' can never run: " in text for text in told)


@pytest.mark.parametrize("schedule", ["never", "every(updates=9)", "once_at_end", "at(epochs=3)"])
def test_nobody_is_warned_of_what_runs_once_or_is_meant_not_to(
    folder: Path, capsys: CAPTURE, schedule: str
) -> None:
    with_entry("  name: x", f"  schedule: {schedule}")
    assert main(["plan", "c.yaml", *ALLOW]) == 0
    assert capsys.readouterr().err == ""


MALFORMED = [
    "every(updates=0)",
    "every(updates=-3)",
    "every(updates=1.5)",
    "every(updates=true)",
    "every(fortnights=2, epochs=1)",
    "every(fortnights=2)",
    "every(updates=2, epochs=1)",
    "at(updates=0)",
    "at(epochs=[1, -1])",
    "after(updates=true)",
    "every(fraction=0)",
    "first(0, every(updates=2))",
    "cooldown(every(updates=2), updates=0)",
    "every(updates=2",
    "sometimes",
]


@pytest.mark.parametrize("command", ["plan", "check"])
@pytest.mark.parametrize(
    "entry",
    [
        *(f"schedule: {schedule}" for schedule in MALFORMED),
        *(f"every_n_epochs: {n}" for n in ("0", "-1", "1.5", "true", "two")),
    ],
)
def test_a_malformed_schedule_is_an_error_at_its_line(
    folder: Path, capsys: CAPTURE, entry: str, command: str
) -> None:
    line = with_entry("  name: x", f"  {entry}")
    assert main([command, "c.yaml", *ALLOW]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (told,) = printed.err.splitlines()
    assert told.startswith(f"c.yaml:{line + 3}: ")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.train.count=-1", "count is -1"),
        ("data.train.count=0", "0 samples"),
        ("callbacks.0.metric=loss/vla/total", "Did you mean"),
        ("callbacks.2.dataset=vla", "Did you mean"),
        ("run.sead=1", "Did you mean seed?"),
    ],
)
def test_what_train_would_refuse_plan_refuses(
    folder: Path, capsys: CAPTURE, override: str, said: str
) -> None:
    assert main(["plan", "c.yaml", override, *ALLOW]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err


def test_a_config_of_ten_million_updates_is_planned(folder: Path, capsys: CAPTURE) -> None:
    with_entry("  name: x", "  schedule: every(updates=7) & after(epochs=9) | once_at_end")
    assert main(["plan", "c.yaml", "--updates", "10000000", *ALLOW]) == 0
    lines = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()]
    counts = {words[0]: words[1] for words in reversed(lines) if len(words) > 1}
    # Three updates an epoch: every seventh from update 35 on, and the closing tick.
    assert (counts["validation"], counts["x"]) == ("3333333", str(10_000_000 // 7 - 4 + 1))


def test_a_picture_never_takes_the_place_of_the_configuration(
    folder: Path, capsys: CAPTURE
) -> None:
    text = Path("c.yaml").read_text()
    for path in ("c.yaml", str(folder / "c.yaml"), ""):
        assert main(["plan", "c.yaml", "--svg", path, *ALLOW]) == 2
        assert "give the name of a picture" in capsys.readouterr().err
    assert Path("c.yaml").read_text() == text


def test_a_name_that_the_terminal_cannot_write_ends_nothing(folder: Path) -> None:
    for command in ("plan", "check"):
        told = in_process(
            command, "c.yaml", "callbacks.0.name=é", *ALLOW, cwd=folder, PYTHONIOENCODING="ascii"
        )
        assert (told.returncode, told.stderr) == (0, "")
        assert "\\xe9" in told.stdout


@pytest.mark.parametrize("given", ["", "5", "{}"])
def test_callbacks_that_are_no_list_are_one_error(
    folder: Path, capsys: CAPTURE, given: str
) -> None:
    assert main(["check", "c.yaml", f"callbacks={given}", *ALLOW]) == 2
    assert "callbacks: expected a list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"until": {"epoch": 5}}, "no unit is named 'epoch'"),
        ({"until": {}}, "expected at least one limit"),
        ({"until": {"updates": 10**30}}, "expected at most"),
        ({"until": {"epochs": 1}, "batch_size": 0}, "batch_size is 0"),
        ({"until": {"epochs": 1}, "samples": 0}, "samples is 0"),
    ],
)
def test_what_cannot_be_planned_in_python_is_refused_with_the_reason(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        plan((), **{"samples": 5, **options})
