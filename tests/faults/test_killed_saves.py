"""Rows 2, 3, 4 and 39: a process that dies anywhere in a save leaves the old or the new one.

The save is the whole of what a run makes of it: commit, LATEST, pruning and status.
"""

import itertools
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noether import Callback, TrainState
from noether.checkpoint import newest
from noether.rundir import read_status
from tests.faults.runs import (
    KILLED,
    Ended,
    assert_each_sample_once,
    assert_same_state,
    broken,
    checkpoints,
    differences,
    in_child,
    left_aside,
    storage,
    stored,
    train,
)

OLD, NEW = 4, 6
Call = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Ground:
    """A run that was broken off, what each of its checkpoints holds, and its unbroken end."""

    broken: Path
    whole: Ended
    held: dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    broken(folder / "broken", 6, keep=1)
    whole = train(folder / "whole", keep=1)
    kept = train(folder / "kept", keep=None).run / "checkpoints"
    held = {update: stored(kept / f"step-{update}") for update in (OLD, NEW)}
    return Ground(folder / "broken", whole, held)


def placed(ground: Ground, tmp_path: Path, name: object) -> Path:
    """A copy of the broken run's series."""
    series = tmp_path / str(name)
    shutil.copytree(ground.broken, series)
    return series


def session(series: Path, act: Callable[[str, tuple[Any, ...]], object]) -> None:
    """The next session, which tells `act` each call of the tick that saves, and of the pruning that
    goes on beside training after it; then it ends.
    """
    armed: list[int] = []

    def arm(state: TrainState) -> None:
        if state.now.update == NEW:
            armed.append(NEW)

    def leave(state: TrainState) -> None:
        if state.now.update == NEW:
            deadline = time.monotonic() + 20
            while checkpoints(series / "1") != [f"step-{NEW}"] and time.monotonic() < deadline:
                time.sleep(0.001)  # a thread prunes
            os._exit(0)

    arming = Callback("arming", after_update=arm, after_accumulation_step=leave)
    with storage(lambda name, args: act(name, args) if armed else None):
        train(series, arming, keep=1)


def calls_of(ground: Ground, tmp_path: Path) -> list[str]:
    """The names of all calls to the disk of the tick that saves."""
    series = placed(ground, tmp_path, "counted")
    told = tmp_path / "told"

    def note(name: str, args: tuple[Any, ...]) -> None:
        with open(told, "a") as file:
            file.write(f"{name}\n")

    assert in_child(lambda: session(series, note)) == 0
    return told.read_text().split()


def dying(
    k: int, how: Callable[[str, tuple[Any, ...]], object], *names: str
) -> Callable[..., None]:
    """Dies before the call of that number, of these names, having done what `how` does of it."""
    calls = itertools.count(1)

    def act(name: str, args: tuple[Any, ...]) -> None:
        if (not names or name in names) and next(calls) == k:
            how(name, args)
            os._exit(KILLED)

    return act


def nothing(name: str, args: tuple[Any, ...]) -> None:
    """Die before anything of it is done."""


def half(name: str, args: tuple[Any, ...]) -> None:
    """Let half of a write reach the file, and leave every other call undone."""
    if name == "write":
        args[0].write(bytes(args[1])[: len(args[1]) // 2])
        args[0].flush()


def found_after(ground: Ground, series: Path) -> int:
    """The update that the loader gives: all of one checkpoint, pointed to, the status behind it."""
    run = series / "1"
    status = read_status(run)
    found = newest(run / "checkpoints")
    assert found is not None
    update = found.manifest.update
    assert list(differences(stored(found.directory), ground.held[update])) == []
    assert (run / "checkpoints" / "LATEST").read_text().strip() == found.directory.name
    assert status["state"] == "running"
    assert OLD <= status["update"] <= update
    assert not [name for name in checkpoints(run) if name.startswith(".bad")]
    return update


def goes_on(ground: Ground, series: Path) -> None:
    """A real resume: to the unbroken end, nothing of the dead process left."""
    ended = train(series, keep=1)
    assert_same_state(ended, ground.whole)
    assert_each_sample_once(ended)
    assert left_aside(ended.run / "checkpoints") == []


def swept(
    ground: Ground, tmp_path: Path, stride: int, resumed: int, how: Callable[..., object]
) -> list[int]:
    """What the loader gives after a death at each call of the save, and at each so many of the
    writes that go one after the other into a file; those and fewer of the writes are `resumed`.
    """
    outcomes: list[int] = []
    for k, name in enumerate(calls_of(ground, tmp_path), 1):
        if name == "write" and k % stride:
            continue
        series = placed(ground, tmp_path, k)
        act = dying(k, how)
        assert in_child(lambda series=series, act=act: session(series, act)) == KILLED  # type: ignore[misc]
        outcomes.append(found_after(ground, series))
        if name != "write" or k % resumed == 0:
            goes_on(ground, series)
        shutil.rmtree(series)
    return outcomes


def test_killed_at_any_call_of_a_save_the_old_or_the_new_one_is_there(
    ground: Ground, tmp_path: Path
) -> None:
    # Row 2.
    outcomes = swept(ground, tmp_path, 6, 24, nothing)
    assert outcomes == sorted(outcomes), "a later death gave an older checkpoint"
    assert set(outcomes) == {OLD, NEW}


def test_a_process_that_lives_until_after_the_save_is_resumed_from_it(
    ground: Ground, tmp_path: Path
) -> None:
    # Row 2, beyond its last call.
    series = placed(ground, tmp_path, "all")
    assert in_child(lambda: session(series, nothing)) == 0
    assert found_after(ground, series) == NEW
    goes_on(ground, series)


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_killed_in_the_middle_of_any_write_of_a_save_it_is_resumed(
    ground: Ground, tmp_path: Path
) -> None:
    # Row 2: every call, half done where it writes, and a real resume after each.
    outcomes = swept(ground, tmp_path, 1, 1, half)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {OLD, NEW}


def test_killed_between_commit_and_pointer_the_new_one_is_found_and_pointed_to(
    ground: Ground, tmp_path: Path
) -> None:
    # Row 3: the first replacement of a text in the save is that of LATEST.
    series = placed(ground, tmp_path, "pointer")
    assert in_child(lambda: session(series, dying(1, nothing, "replace"))) == KILLED
    folder = series / "1" / "checkpoints"
    assert (folder / "LATEST").read_text().strip() == f"step-{OLD}"
    assert (folder / f"step-{NEW}" / "manifest.json").is_file()
    assert found_after(ground, series) == NEW
    goes_on(ground, series)


@pytest.mark.parametrize("place", ["rename", "first", "middle", "last", "rmdir"])
def test_killed_while_pruning_the_newest_is_whole_and_the_rest_is_cleaned(
    ground: Ground, tmp_path: Path, place: str
) -> None:
    # Row 4. What is half deleted is no checkpoint any more; the next start removes it.
    series = placed(ground, tmp_path, "pruning")
    files = calls_of(ground, tmp_path).count("remove")
    act = {
        "rename": dying(2, nothing, "rename"),  # the first one is the commit
        "first": dying(1, nothing, "remove"),
        "middle": dying(files // 2, nothing, "remove"),
        "last": dying(files, nothing, "remove"),
        "rmdir": dying(1, nothing, "rmdir"),
    }[place]
    assert in_child(lambda: session(series, act)) == KILLED
    run = series / "1"
    trash = [name for name in checkpoints(run) if name.startswith(".trash-")]
    assert len(trash) == (0 if place == "rename" else 1)
    assert found_after(ground, series) == NEW
    goes_on(ground, series)


def test_killed_while_the_status_is_written_nothing_is_left_of_it_in_the_end(
    ground: Ground, tmp_path: Path
) -> None:
    # Row 4: the last replacement of a text in the save's tick is that of the status.
    series = placed(ground, tmp_path, "status")
    assert in_child(lambda: session(series, dying(2, nothing, "replace"))) == KILLED
    assert found_after(ground, series) == NEW
    assert_same_state(train(series, keep=1), ground.whole)
    assert left_aside(series) == []
