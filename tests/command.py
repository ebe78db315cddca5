"""The command line as tests run it: in a folder with a configuration, or as its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOW = ["--allow", "tests.sample_project"]


def placed(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as the working directory, with a configuration in it."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    Path("c.yaml").write_text(text)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_process(
    *command: str, cwd: Path, stdout: int = subprocess.PIPE, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "noether", *command],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )
