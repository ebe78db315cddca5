"""The soak of `make torture`, made short; and its comparison, which must find what differs."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(name="soak")
def _soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The soak's modules, by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_a_training_that_is_killed_three_times_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    # No kill comes near the end: three of them leave a run of the default length unfinished.
    command = [sys.executable, str(BENCHMARKS / "torture.py"), "--kills", "3", "--seed", "1"]
    ended = subprocess.run(
        [*command, "--keep", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "3 of 3 kills survived" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_runs_of_one_seed_are_equal_and_those_of_two_seeds_are_not(
    soak: Any, tmp_path: Path
) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        soak("victim").train(tmp_path / name, 13, lambda where, update: None, seed=seed)
    differences = soak("compared").differences
    assert differences(tmp_path / "one", tmp_path / "same") == []
    found = {line.partition(",")[0] for line in differences(tmp_path / "one", tmp_path / "other")}
    assert {"journal.jsonl", "newest checkpoint", "best checkpoint"} <= found


def test_one_bit_of_one_number_is_a_difference(soak: Any) -> None:
    tree = {"memories": {"ema": [torch.zeros(3), float("nan")]}, "seconds": 1.0}
    flipped = {"memories": {"ema": [torch.tensor([0.0, -0.0, 0.0]), float("nan")]}, "seconds": 2.0}
    unequal = soak("compared").unequal
    assert list(unequal(tree, tree, "state")) == []
    assert [where for where, *_ in unequal(tree, flipped, "state")] == ["state, memories, ema, 0"]
