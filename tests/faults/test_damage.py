"""Rows 5, 6, 7, 43, 44 and 45: what lies in a run directory is damaged, foreign, moved or hostile.

All of it is met by a run's own resume.
"""

import hashlib
import os
import pickle
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from noether import Callback, CheckpointError, TrainState, at, every, hooks
from noether.checkpoint.manifest import MANIFEST, read_manifest, sealed
from noether.evaluation import evaluate
from tests.faults.runs import (
    Ended,
    assert_same_state,
    broken,
    checkpoints,
    in_child,
    newest_update,
    train,
)


@dataclass(frozen=True)
class Ground:
    """A run that was broken off after updates 2 and 4 were saved, and its unbroken end."""

    broken: Path
    whole: Ended

    def placed(self, folder: Path) -> Path:
        """A copy of the broken run's series; gives its run directory."""
        shutil.copytree(self.broken, folder)
        return folder / "1"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    broken(folder / "broken", 6)
    assert checkpoints(folder / "broken" / "1") == ["step-2", "step-4"]
    return Ground(folder / "broken", train(folder / "whole"))


FILES = ("weights.pt", "state.pt", MANIFEST)


def test_the_files_of_a_checkpoint_are_those_that_are_damaged_here(ground: Ground) -> None:
    step = ground.broken / "1" / "checkpoints" / "step-4"
    assert {path.name for path in step.iterdir()} == set(FILES)


def cut(path: Path, keep: float) -> None:
    """Let a file end after so many bytes; 0.5 is half of them, -1 all but one."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if keep == 0.5 else int(keep)])


def flip(path: Path, chance: random.Random) -> None:
    """Turn one bit of a file over."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


CUTS = [0, 1, 0.5, -1]


@pytest.mark.parametrize("keep", CUTS)
@pytest.mark.parametrize("name", FILES)
def test_a_torn_newest_checkpoint_is_set_aside_and_the_previous_goes_on(
    ground: Ground, tmp_path: Path, name: str, keep: float, capsys: pytest.CaptureFixture[str]
) -> None:
    # Row 5. By its path it is refused, the file named.
    run = ground.placed(tmp_path / "series")
    step = run / "checkpoints" / "step-4"
    cut(step / name, keep)
    with pytest.raises(CheckpointError, match=name):
        train(tmp_path / "series", resume=step)
    assert checkpoints(run) == ["step-2", "step-4"]
    assert_same_state(train(tmp_path / "series"), ground.whole)
    assert name in capsys.readouterr().err
    bad = run / "checkpoints" / ".bad-step-4"
    assert name in (bad / "reason.txt").read_text()
    assert {path.name for path in bad.iterdir()} == {*FILES, "reason.txt"}


@pytest.mark.parametrize("keep", CUTS)
@pytest.mark.parametrize("name", ["checkpoints/LATEST", "config.yaml", ".lock"])
def test_a_torn_file_beside_the_checkpoints_stops_nothing(
    ground: Ground, tmp_path: Path, name: str, keep: float
) -> None:
    # Row 5: none of them is needed.
    run = ground.placed(tmp_path / "series")
    cut(run / name, keep)
    assert_same_state(train(tmp_path / "series"), ground.whole)


@pytest.mark.parametrize("keep", CUTS)
def test_a_torn_status_is_named_and_nothing_else_is_lost(
    ground: Ground, tmp_path: Path, keep: float
) -> None:
    # Row 5: it says whether the run is done, so it is not guessed; without it the run goes on.
    run = ground.placed(tmp_path / "series")
    cut(run / "status.json", keep)
    try:
        ended = train(tmp_path / "series")
    except CheckpointError as error:
        assert "status.json" in str(error)  # noqa: PT017
        (run / "status.json").unlink()
        ended = train(tmp_path / "series")
    assert_same_state(ended, ground.whole)


def flipped(ground: Ground, tmp_path: Path, name: str, times: int) -> None:
    """A flipped bit is never loaded: another state than the unbroken one would come of it."""
    chance = random.Random(f"{name} {times}")
    found = 0
    for number in range(times):
        run = ground.placed(tmp_path / str(number))
        flip(run / "checkpoints" / "step-4" / name, chance)
        assert_same_state(train(tmp_path / str(number)), ground.whole)
        found += (run / "checkpoints" / ".bad-step-4").is_dir()
        shutil.rmtree(tmp_path / str(number))
    # A space of the manifest may become another kind of space; all else is found out.
    assert found >= (times * 0.95 if name == MANIFEST else times)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_never_loaded(ground: Ground, tmp_path: Path, name: str) -> None:
    # Row 6; 200 offsets of each file are read in tests/checkpoint.
    flipped(ground, tmp_path, name, 15)


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FILES)
def test_200_flipped_bits_are_never_loaded(ground: Ground, tmp_path: Path, name: str) -> None:
    # Row 6.
    flipped(ground, tmp_path, name, 200)


@pytest.mark.parametrize("name", ["status.json", "config.yaml", "checkpoints/LATEST"])
def test_a_flipped_bit_beside_the_checkpoints_changes_no_training(
    ground: Ground, tmp_path: Path, name: str
) -> None:
    # Row 6.
    chance = random.Random(name)
    for number in range(6):
        run = ground.placed(tmp_path / str(number))
        flip(run / name, chance)
        try:
            ended = train(tmp_path / str(number))
        except CheckpointError as error:
            assert name in str(error)  # noqa: PT017
        else:
            assert_same_state(ended, ground.whole)


# ---------------------------------------------------------------- foreign directories


def test_what_is_no_checkpoint_is_ignored_and_said_so(
    ground: Ground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Row 7: without a manifest, half copied, written by another host or process.
    folder = ground.placed(tmp_path / "series") / "checkpoints"
    strays = ["step-8", "step-9", f"step-6.tmp-{os.getppid()}-{'0' * 16}", "notes", "step-6.part"]
    for name in strays:
        (folder / name).mkdir()
    shutil.copy(folder / "step-4" / "weights.pt", folder / "step-9")
    shutil.copytree(folder / "step-4", folder / strays[2], dirs_exist_ok=True)
    (folder / "step-7").write_text("a file")
    assert_same_state(train(tmp_path / "series"), ground.whole)
    output = capsys.readouterr()
    for name in (*strays, "step-7"):
        assert f"ignored {name}" in output.out + output.err
        assert (folder / name).exists()


def test_a_partial_copy_with_a_manifest_is_set_aside(ground: Ground, tmp_path: Path) -> None:
    # Row 7.
    folder = ground.placed(tmp_path / "series") / "checkpoints"
    (folder / "step-5").mkdir()
    shutil.copy(folder / "step-4" / MANIFEST, folder / "step-5")
    shutil.copy(folder / "step-4" / "state.pt", folder / "step-5")
    assert_same_state(train(tmp_path / "series"), ground.whole)
    assert (folder / "step-4").is_dir() or (folder / "step-8").is_dir()


def test_the_integer_in_the_manifest_decides_which_is_the_newest(
    ground: Ground, tmp_path: Path
) -> None:
    # Row 43: names with more or fewer digits, with zeros, and times say nothing.
    folder = ground.placed(tmp_path / "series") / "checkpoints"
    for name in ("step-1000000", "step-00005", "step-10", "step-9", "zzz", "step-2 (copy)"):
        shutil.copytree(folder / "step-2", folder / name)
        os.utime(folder / name, (2e9, 2e9))
    os.utime(folder / "step-4", (1e9, 1e9))
    ended = train(tmp_path / "series")
    assert_same_state(ended, ground.whole)
    assert (folder / "LATEST").read_text().strip() == "step-9-2"


def test_of_9_10_99_and_100_updates_100_is_the_newest(tmp_path: Path) -> None:
    # Row 43, as a run itself names them.
    saving = hooks.checkpoint(schedule=at(updates=[9, 10, 99, 100]), keep_last=None)
    broken(tmp_path, 102, callbacks=[saving], until={"updates": 120})
    assert len(checkpoints(tmp_path / "1")) == 4
    assert newest_update(tmp_path / "1") == 100
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=[interrupting(seen)], until={"updates": 120})
    assert seen == [101]


def interrupting(seen: list[int]) -> Callback:
    """Notes the first update of a session, and ends it there."""

    def note(state: TrainState) -> None:
        seen.append(state.now.update)
        signal.raise_signal(signal.SIGINT)

    return Callback("interrupting", after_update=note)


# ---------------------------------------------------------------- moved and copied


def moved(run: Path, to: Path) -> None:
    run.rename(to)


def copied_with_cp(run: Path, to: Path) -> None:
    subprocess.run(["cp", "-r", str(run), str(to)], check=True)


def copied_without_hidden_files(run: Path, to: Path) -> None:
    to.mkdir()
    subprocess.run(f"cp -r {run}/* {to}", shell=True, check=True)


@pytest.mark.deep
@pytest.mark.parametrize("way", [moved, copied_with_cp, copied_without_hidden_files])
def test_a_run_directory_elsewhere_goes_on_there_alone(
    ground: Ground, tmp_path: Path, way: Callable[[Path, Path], None]
) -> None:
    # Row 44: nothing in it tells where it was.
    run = ground.placed(tmp_path / "before")
    (tmp_path / "after").mkdir()
    way(run, tmp_path / "after" / "1")
    left = sorted(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert_same_state(train(tmp_path / "after"), ground.whole)
    assert sorted(path.read_bytes() for path in run.rglob("*") if path.is_file()) == left


# ---------------------------------------------------------------- hostile content


class Hostile:
    """Its pickle makes a directory when it is read without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


def payload(form: str, tree: Any, file: Path) -> bytes:
    if form == "bare":
        return pickle.dumps(tree)
    torch.save(tree, file, _use_new_zipfile_serialization=form == "zip")
    return file.read_bytes()


def forge(step: Path, name: str, data: bytes) -> None:
    """Put other content into a checkpoint, its digests rewritten so that they fit."""
    content = dict(read_manifest(step).content)
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (step / name).write_bytes(data)
    (step / MANIFEST).write_text(sealed({**content, "files": {**content["files"], name: record}}))


@pytest.mark.parametrize("name", ["weights.pt", "state.pt"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
@pytest.mark.parametrize("where", ["alone", "within"])
def test_a_payload_with_fitting_digests_never_runs(
    ground: Ground,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    form: str,
    where: str,
) -> None:
    # Row 45, also where torch is told to load without care.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    run = ground.placed(tmp_path / "series")
    step, mark = run / "checkpoints" / "step-4", tmp_path / "ran"
    tree = torch.load(step / name, weights_only=True)
    hostile = Hostile(mark) if where == "alone" else {**tree, "more": [Hostile(mark)]}
    forge(step, name, payload(form, hostile, tmp_path / "made"))
    ways: list[Callable[[], object]] = [
        lambda: train(tmp_path / "series"),
        lambda: train(tmp_path / "series", resume="must"),
        lambda: train(tmp_path / "series", resume=run),
        lambda: train(tmp_path / "series", resume=step),
    ]
    for way in ways:
        with pytest.raises(CheckpointError, match=name):
            way()
        assert not mark.exists()
    assert in_child(lambda: careless(step / name, form)) == 0
    assert mark.is_dir(), "the payload is none"


def careless(path: Path, form: str) -> None:
    if form == "bare":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)


def test_a_payload_in_the_best_checkpoint_never_runs_in_an_evaluation(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Row 45.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    run = ground.placed(tmp_path / "series")
    mark = tmp_path / "ran"
    for step in (run / "checkpoints").glob("step-*"):
        forge(step, "weights.pt", payload("zip", [Hostile(mark)], tmp_path / "made"))
    with pytest.raises(CheckpointError, match=r"weights\.pt"):
        evaluate(
            torch.nn.Linear(3, 2),
            datasets={"val": [(torch.zeros(3), torch.zeros(2))]},
            loss=lambda model, batch: model(batch[0]).sum(),
            callbacks=[every(epochs=1)(hooks.offline_loss(dataset="val"))],
            run=run,
        )
    assert not mark.exists()


def test_a_recorded_configuration_never_runs(ground: Ground, tmp_path: Path) -> None:
    # Row 45: what a run has recorded is read again on a resume, as plain values only.
    run = ground.placed(tmp_path / "series")
    mark = tmp_path / "ran"
    hostile = f"run: !!python/object/apply:os.mkdir ['{mark}']\n"
    (run / "config.yaml").write_text(hostile)
    assert_same_state(train(tmp_path / "series"), ground.whole)
    assert not mark.exists()
