"""The command line under torchrun: two processes do what one does, and say it once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noether.journal import read
from noether.rundir import read_status
from tests.command import in_process
from tests.group import ROOT, torchrun

EPOCHS = 2


def training(series: Path) -> list[str]:
    """The arguments of noether; without dropout, whose draws differ by rank."""
    return [
        *("train", str(ROOT / "configs" / "digits.yaml"), f"run.dir={series}"),
        *(f"run.until={{epochs: {EPOCHS}}}", "run.device=cpu", "model.dropout=0.0"),
    ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run printed and kept."""

    lines: list[str]
    rows: list[dict[str, Any]]

    def values(self, metric: str) -> dict[int, float]:
        """A metric by update."""
        return {
            row["update"]: row["metrics"][metric] for row in self.rows if metric in row["metrics"]
        }


def outcome(series: Path, lines: list[str]) -> Outcome:
    """The only run of the series, done."""
    (journal,) = series.rglob("journal.jsonl")
    assert journal.parent == series / "1"
    assert read_status(series / "1")["state"] == "done"
    return Outcome(lines, list(read(journal)))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one")
    done = in_process(*training(folder / "runs"), cwd=folder)
    assert done.returncode == 0, done.stderr
    return outcome(folder / "runs", done.stdout.splitlines())


def losses(run: Outcome) -> list[str]:
    """The names of the losses that a run reported."""
    names = {name for row in run.rows for name in row["metrics"]}
    return sorted(name for name in names if name.startswith("loss/"))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_as_one_and_speak_once(
    one: Outcome, tmp_path: Path, parallel: str
) -> None:
    series = tmp_path / "runs"
    chosen = [] if parallel == "ddp" else [f"run.parallel={parallel}"]
    command = ["--nproc-per-node", "2", "-m", "noether", *training(series), *chosen]
    done = torchrun(command, cwd=tmp_path)
    assert done.returncode == 0, done.errors
    two = outcome(series, done.lines)

    counts = [
        [(row["tick"], row["epoch"], row["update"], row["sample"]) for row in run.rows]
        for run in (one, two)
    ]
    assert counts[0] == counts[1]
    assert len(one.values("loss/val/total")) == EPOCHS
    assert losses(two) == losses(one)
    for name in losses(one):
        assert two.values(name) == pytest.approx(one.values(name), abs=1e-3), name
    accuracies = one.values("accuracy/val")
    assert two.values("accuracy/val") == pytest.approx(accuracies, abs=0.02)
    assert max(accuracies.values()) > 0.8, "a run that learns nothing proves nothing"

    assert len(two.lines) == len(one.lines), done.output
    for said in ("run directory", "parameters,"):
        assert spoken(two, said) == spoken(one, said) > 0


def spoken(run: Outcome, words: str) -> int:
    return sum(words in line for line in run.lines)
