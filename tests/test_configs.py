"""Every file in configs/ is checked, equals its Python form, and runs."""

import importlib.util
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import noether
from noether.journal import read
from tests.strategies import unmeasured

CONFIGS = Path(__file__).parent.parent / "configs"


def module_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(tmp_path: Path) -> Any:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "noether", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    return run


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_is_checked_and_runs_short(path: Path, command: Any) -> None:
    checked = command("check", str(path))
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "ok"), checked.stderr
    trained = command("train", str(path), "run.until.epochs=1")
    assert trained.returncode == 0, trained.stderr


def test_yaml_and_python_build_equal_pipelines() -> None:
    from_yaml = noether.load(CONFIGS / "digits.yaml").callbacks
    assert from_yaml == module_of(CONFIGS / "digits.py").pipeline
    assert pickle.loads(pickle.dumps(from_yaml)) == from_yaml
    assert len({str(callback) for callback in from_yaml}) == len(from_yaml)


def test_the_python_form_is_short() -> None:
    lines = (CONFIGS / "digits.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) < 30


def test_the_demo_reaches_97_percent_and_says_where_why_and_what_was_best(
    command: Any, tmp_path: Path
) -> None:
    done = command("train", str(CONFIGS / "digits.yaml"))
    assert done.returncode == 0, done.stderr
    rows = list(read(tmp_path / "runs/digits/1/journal.jsonl"))
    accuracies = [
        row["metrics"]["accuracy/val"] for row in rows if "accuracy/val" in row["metrics"]
    ]
    assert max(accuracies) >= 0.97
    ending = done.stdout.splitlines()[-3:]
    assert ending[0].startswith("best loss/val/total: 0.0")
    assert ending[1].startswith("done: loss/val/total has not improved for 8 values")
    assert ending[2] == "run directory runs/digits/1"
    assert "\x1b" not in done.stdout + done.stderr


def test_a_config_in_the_run_directory_repeats_the_run(command: Any, tmp_path: Path) -> None:
    first = command("train", str(CONFIGS / "digits.yaml"), "run.until={updates: 3}")
    assert first.returncode == 0, first.stderr
    shutil.copy(tmp_path / "runs/digits/1/config.yaml", tmp_path / "again.yaml")
    again = command("train", "again.yaml")
    assert again.returncode == 0, again.stderr
    one, two = (list(read(tmp_path / f"runs/digits/{n}/journal.jsonl")) for n in (1, 2))
    assert [unmeasured(row["metrics"]) for row in one] == [unmeasured(r["metrics"]) for r in two]
