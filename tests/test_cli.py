import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from noether import hooks
from noether.cli import main
from tests.command import ALLOW, ROOT, files, in_process, placed

TEXT = """\
run: {until: {epochs: 2}, batch_size: 4}
model: {kind: tests.sample_project.linear}
data:
  train: {kind: tests.sample_project.points}
  val: {kind: tests.sample_project.points, count: 4}
loss: {kind: tests.sample_project.squared}
optimizer: {kind: torch.optim.SGD, lr: 0.01}
callbacks:
- {kind: tests.sample_project.scheduled_reader, metric: loss/val/total}
- {kind: offline_loss, name: validation, dataset: val, every_n_epochs: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a configuration in it."""
    return placed(TEXT, tmp_path, monkeypatch)


# ---------------------------------------------------------------- check


def test_check_prints_the_order_and_leaves_no_trace(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "c.yaml", "run.dir=runs", "run.defaults=false", *ALLOW]) == 0
    assert capsys.readouterr().out == "validation  every(epochs=1)\nreader  every(updates=7)\nok\n"
    assert files(folder) == ["c.yaml"]


def test_check_builds_what_can_only_fail_when_built(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "c.yaml", "optimizer.lr=-1.0", *ALLOW]) == 2
    assert "c.yaml:7: SGD: Invalid learning rate" in capsys.readouterr().err


def test_overrides_may_stand_before_and_behind_options(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ["run.sead=1", *ALLOW, "model.inptus=3"]
    assert main(["check", "c.yaml", *text]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "override 'run.sead=1': run.sead: unknown option; Did you mean seed?",
        "override 'model.inptus=3': model.inptus: unknown option; Did you mean inputs?",
    ]


# ---------------------------------------------------------------- train and its exit codes


def test_train_trains_and_resumes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "c.yaml", "run.dir=runs", *ALLOW]) == 0
    assert (folder / "runs/1/config.yaml").is_file()
    assert main(["train", "c.yaml", "run.dir=runs", "--resume", "auto", *ALLOW]) == 0
    assert "done already" in capsys.readouterr().out
    assert files(folder / "runs") == ["1"]


@pytest.mark.parametrize(
    ("entry", "code", "said"),
    [
        ("failing", 1, "the disk is on fire"),
        ("ending, how: preempted", 75, "preempted; --resume auto goes on from here"),
        ("ending, how: interrupted", 130, "interrupted; --resume auto goes on"),
    ],
)
def test_exit_codes_tell_how_a_run_ended(
    folder: Path, capsys: pytest.CaptureFixture[str], entry: str, code: int, said: str
) -> None:
    override = f"callbacks=[{{kind: tests.sample_project.{entry}}}]"
    assert main(["train", "c.yaml", override, *ALLOW]) == code
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_a_traceback_is_printed_when_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    override = "callbacks=[{kind: tests.sample_project.failing}]"
    assert main(["train", "c.yaml", override, "--traceback", *ALLOW]) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("name", ["missing.yaml", ".", "broken.yaml", "bytes.yaml"])
def test_what_cannot_be_read_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Path("broken.yaml").write_text("a: [")
    Path("bytes.yaml").write_bytes(b"\xff")
    assert main(["train", name]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(name)


@pytest.mark.parametrize("kind", ["os.system", "builtins.eval", "logging.os.system"])
def test_what_a_file_may_not_name_is_not_run(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    assert main(["train", "c.yaml", f"loss={{kind: {kind}, command: touch it}}", *ALLOW]) == 2
    assert f"'{kind}' is refused" in capsys.readouterr().err
    assert files(folder) == ["c.yaml"]


@pytest.mark.parametrize(
    "command", [[], ["trian"], ["train"], ["train", "c.yaml", "--alow", "x"], ["hooks", "a", "b"]]
)
def test_a_command_line_that_cannot_be_read_is_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    assert "usage: noether" in capsys.readouterr().err


# ---------------------------------------------------------------- trust and the import path


def test_the_working_directory_is_searched_for_allowed_packages_only(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from noether import factory\nfrom tests import sample_project as s\n"
        "print('imported')\n\n@factory\ndef own():\n    return s.linear()\n"
    )
    (tmp_path / "c.yaml").write_text(TEXT.replace("tests.sample_project.linear", "mine.own"))
    script = "import sys; sys.path.remove(''); from noether.__main__ import run; run()"
    command = [sys.executable, "-c", script, "check", "c.yaml", *ALLOW]
    settings = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    refused = subprocess.run(command, capture_output=True, text=True, **settings)  # type: ignore[call-overload]
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "'mine.own' is refused" in refused.stderr
    command += ["--allow", "mine"]
    allowed = subprocess.run(command, capture_output=True, text=True, **settings)  # type: ignore[call-overload]
    assert (allowed.returncode, allowed.stdout.splitlines()[0]) == (0, "imported")


# ---------------------------------------------------------------- hooks


def test_hooks_lists_the_built_in_callbacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    entries = [line.split() for line in lines if line.startswith("  ")]
    assert sorted(entry[0] for entry in entries) == hooks.__all__
    assert all(len(entry) > 3 for entry in entries)
    themes = [line for line in lines if line and not line.startswith(" ")]
    assert themes == sorted(themes)
    assert "stopping" in themes


def test_hooks_are_listed_for_other_tools_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert sorted(listed) == hooks.__all__
    stopping = listed["early_stopping"]
    assert stopping["reads"] == ["<metric>"]
    assert stopping["options"]["patience"] == {"type": "int", "default": None, "required": True}
    assert stopping["theme"] == "stopping"


@pytest.mark.parametrize("name", hooks.__all__)
def test_hooks_shows_each_of_them(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["hooks", name]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{name}: ")
    assert f"kind: {name}" in said


def test_a_page_shows_options_with_types_and_defaults_reads_and_writes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["hooks", "offline_loss"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[2:7] == [
        "dataset: str",
        "batch_size: int | None = None",
        "output_patterns_to_log: Sequence[str] | None = None",
        "weights: str = 'live'",
        "limit: int | None = None",
    ]
    assert lines[7:9] == ["reads: nothing", "writes: loss/<dataset>/*, lossdiff/<dataset>/*"]
    assert "- {kind: offline_loss, dataset: <dataset>, every_n_epochs: 1}" in lines


def test_an_unknown_callback_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["hooks", "acuracy"]) == 2
    assert capsys.readouterr().err.endswith("Did you mean accuracy?\n")


# ---------------------------------------------------------------- the process


def test_help_is_quick_and_needs_no_torch(tmp_path: Path) -> None:
    script = """
import sys
from noether.cli import main
try:
    main(["train", "--help"])
finally:
    print('torch' in sys.modules, 'yaml' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False False"
    before = os.times()
    assert in_process("--help", cwd=tmp_path).returncode == 0
    spent = os.times()
    assert spent.children_user - before.children_user < 0.3


def test_a_file_that_does_not_parse_is_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: [")
    script = "import sys; from noether.cli import main; code = main(['check', sys.argv[1]])\n"
    script += "print(code, 'torch' in sys.modules)"
    command = [sys.executable, "-c", script, str(tmp_path / "c.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "2 False\n"


def test_a_reader_that_leaves_is_no_error_to_speak_of(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "noether", "hooks"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
