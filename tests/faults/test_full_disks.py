"""Rows 8 to 11: a disk that is full, broken, read-only or gone."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import Callback, CheckpointError, TrainState
from noether.rundir import read_status
from tests.faults.runs import (
    Call,
    Disk,
    Ended,
    assert_same_state,
    broken,
    checkpoints,
    in_child,
    left_aside,
    newest_update,
    train,
    train_on,
)
from tests.strategies import Samples, net, samples

OTHERS = [errno.EDQUOT, errno.EFBIG, errno.EIO]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return train(tmp_path_factory.mktemp("whole"))


def at(update: int, act: Any) -> Callback:
    """Acts in the tick of an update."""

    def do(state: TrainState) -> None:
        if state.now.update == update:
            act()

    return Callback(f"at {update}", after_update=do)


def in_checkpoint(call: Call) -> bool:
    return "checkpoints" in call.path.parts


# ---------------------------------------------------------------- in process


def places(series: Path) -> list[tuple[str, int]]:
    """The calls of the save of update 4, by name and number: of each name first, middle, last.

    Those of the status, which is no part of the checkpoint, are left out.
    """
    told: list[Call] = []

    def note(call: Call) -> bool:
        told.append(call)
        return False

    train_on(Disk(note), series, until={"updates": 5})
    found = [call for call in told if call.update == 4 and in_checkpoint(call)]
    chosen: list[tuple[str, int]] = []
    for name in dict.fromkeys(call.name for call in found):
        own = [call.number for call in found if call.name == name]
        chosen += [(name, own[k]) for k in sorted({0, len(own) // 2, len(own) - 1})]
    return chosen


def test_full_at_one_call_of_a_save_it_is_reported_and_training_goes_on(
    tmp_path: Path, whole: Ended, capsys: pytest.CaptureFixture[str]
) -> None:
    # Row 8: at first, middle and last call of each kind. What the save left is removed, the
    # previous one is whole, and the run ends as if nothing had been.
    for name, number in places(tmp_path / "places"):
        if name == "free":  # who can't say what room there is hinders no save
            continue
        disk = Disk(lambda call, n=number: (call.update, call.number) == (4, n))  # type: ignore[misc]
        series = tmp_path / f"{name}{number}"
        seen: list[tuple[int, list[str]]] = []

        def look(series: Path = series, seen: Any = seen) -> None:
            run = series / "1"
            seen.append((newest_update(run), left_aside(run / "checkpoints")))

        capsys.readouterr()
        ended = train_on(disk, series, at(5, look))
        assert len(disk.refused) == 1
        assert "No space left on device" in capsys.readouterr().err, (name, number)
        assert_same_state(ended, whole)
        ((update, left),) = seen
        assert update in (2, 4)
        assert not [part for part in left if ".tmp-" in part], (name, number)
        assert left_aside(ended.run) == []


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, *(pytest.param(code, marks=pytest.mark.deep) for code in OTHERS)]
)
def test_three_failed_saves_in_a_row_end_the_run_with_their_error(
    tmp_path: Path, whole: Ended, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # Rows 8 and 9: each is named, and what was there before goes on to the unbroken end.
    disk = Disk(lambda call: call.update > 3 and in_checkpoint(call) and call.name == "fsync", code)
    with pytest.raises(CheckpointError, match=os.strerror(code)) as caught:
        train_on(disk, tmp_path)
    cause = caught.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == code
    assert [call.update for call in disk.refused] == [4, 6, 8]
    assert capsys.readouterr().err.count(os.strerror(code)) == 2
    run = tmp_path / "1"
    assert checkpoints(run) == ["step-2"]
    status = read_status(run)
    assert (status["state"], status["update"]) == ("failed", 2)
    assert os.strerror(code) in status["reason"]
    assert_same_state(train(tmp_path), whole)


@pytest.mark.deep
@pytest.mark.parametrize("name", ["write", "close", "rename", "sync_directory", "mkdir"])
@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EIO])
def test_a_broken_call_of_one_save_loses_that_save_alone(
    tmp_path: Path, whole: Ended, name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # Row 9.
    disk = Disk(lambda call: call.update == 4 and in_checkpoint(call) and call.name == name, code)
    assert_same_state(train_on(disk, tmp_path), whole)
    assert disk.refused
    assert os.strerror(code) in capsys.readouterr().err


def test_two_failed_saves_a_good_one_and_two_failed_ones_do_not_end_the_run(
    tmp_path: Path, whole: Ended
) -> None:
    # Row 8: three in a row, not three in all.
    bad = (2, 4, 8)
    disk = Disk(lambda call: call.update in bad and in_checkpoint(call) and call.name == "create")
    ended = train_on(disk, tmp_path)
    assert [call.update for call in disk.refused] == [2, 4, 8]
    assert_same_state(ended, whole)


def test_a_failed_preemption_save_ends_the_run_with_an_error(tmp_path: Path, whole: Ended) -> None:
    # Row 8.
    disk = Disk(lambda call: call.update == 5 and in_checkpoint(call) and call.name == "write")
    with pytest.raises(CheckpointError, match="No space left on device"):
        train_on(disk, tmp_path, at(5, lambda: signal.raise_signal(signal.SIGTERM)))
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("failed", 4)
    assert newest_update(tmp_path / "1") == 4
    assert_same_state(train(tmp_path), whole)


def test_what_cannot_be_pruned_leaves_the_committed_update_told(tmp_path: Path) -> None:
    # Rows 4 and 8: the new one is committed, whatever became of the old one.
    disk = Disk(lambda call: call.name == "rename" and pruned(call))
    told: list[int] = []
    look = at(7, lambda: told.append(read_status(tmp_path / "1")["update"]))
    train_on(disk, tmp_path, look)
    assert disk.refused
    assert told == [6]


def pruned(call: Call) -> bool:
    return call.path.name.startswith("step-") and ".tmp-" not in call.path.name


def test_a_status_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, whole: Ended) -> None:
    # Row 8: the checkpoint of that tick is committed.
    disk = Disk(lambda call: call.update == 4 and call.path.name.startswith("status.json"))
    assert_same_state(train_on(disk, tmp_path), whole)


# ---------------------------------------------------------------- real disks

WIDE = 4000


def wide() -> torch.nn.Module:
    """A model whose checkpoint takes about 200 kilobytes."""
    model = net()
    model.register_buffer("ballast", torch.zeros(WIDE * 10))
    return model


def file_size_limit(series: Path, whole: Ended) -> None:
    """A run on which a limit on file sizes falls for two saves."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    infinite = resource.RLIM_INFINITY
    fall = at(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, infinite)))
    seen: list[list[str]] = []

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (infinite, infinite))
        seen.append(checkpoints(series / "1"))

    ended = train(series, fall, at(7, lift), model=wide())
    assert seen == [["step-2"]]
    assert_same_state(ended, whole)


@pytest.mark.deep
def test_files_that_may_not_grow_lose_their_saves_alone(tmp_path: Path, capfd: Any) -> None:
    # Row 9: EFBIG by the kernel itself.
    whole = train(tmp_path / "whole", model=wide())
    assert in_child(partial(file_size_limit, tmp_path / "series", whole)) == 0
    output = capfd.readouterr().err
    assert output.count("File too large; training goes on") == 2, output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, spare: int) -> None:
    """Let a file take all the space but so many bytes."""
    free = shutil.disk_usage(folder).free
    (folder / "ballast").write_bytes(b"\0" * (free - spare))


def test_a_disk_that_is_full_for_a_while_loses_its_saves_alone(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Row 8: ENOSPC by the kernel itself; nothing half written takes the last of the space.
    whole = train(tmp_path / "whole", model=wide())
    series = small_disk / "series"
    seen: list[list[str]] = []
    capsys.readouterr()
    ended = train(
        series,
        at(3, partial(fill, small_disk, 100_000)),
        at(7, lambda: freed(small_disk, seen)),
        model=wide(),
    )
    assert seen == [["step-2"]]
    assert capsys.readouterr().err.count("No space left on device; training goes on") == 2
    assert_same_state(ended, whole)


def freed(disk: Path, seen: list[list[str]]) -> None:
    run = disk / "series" / "1"
    seen.append([*checkpoints(run), *left_aside(run)])
    (disk / "ballast").unlink()


def test_a_disk_that_stays_full_ends_the_run_and_is_resumed_once_there_is_space(
    small_disk: Path, tmp_path: Path
) -> None:
    # Row 8.
    whole = train(tmp_path / "whole", model=wide())
    series = small_disk / "series"
    with pytest.raises(CheckpointError, match="No space left on device"):
        train(series, at(3, partial(fill, small_disk, 100_000)), model=wide())
    run = series / "1"
    assert (read_status(run)["state"], newest_update(run)) == ("failed", 2)
    assert left_aside(run) == []
    (small_disk / "ballast").unlink()
    assert_same_state(train(series, model=wide()), whole)


def test_a_disk_without_a_byte_left_names_its_error_and_is_resumed_once_there_is_space(
    small_disk: Path, tmp_path: Path
) -> None:
    # Row 8: not even a row of the journal fits.
    whole = train(tmp_path / "whole", model=wide())
    series = small_disk / "series"
    with pytest.raises((OSError, CheckpointError)) as caught:
        train(series, at(3, partial(fill, small_disk, 0)), model=wide())
    text = "".join(traceback.format_exception(caught.value))
    assert "No space left on device" in text
    (small_disk / "ballast").unlink()
    assert newest_update(series / "1") == 2
    assert_same_state(train(series, model=wide()), whole)


@pytest.mark.deep
def test_too_little_space_for_the_next_ones_is_told_at_the_start(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Row 11.
    fill(small_disk, 300_000)
    with pytest.raises(CheckpointError, match="No space left on device"):
        train(small_disk / "series", model=wide(), keep=9, save=1)
    first = capsys.readouterr().err.splitlines()[0]
    assert "space" in first
    assert "No space left" not in first


# ---------------------------------------------------------------- directories


@pytest.mark.parametrize("place", ["/proc/noether", "file", "under a file", "read-only"])
@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_series_that_cannot_be_written_is_refused_before_the_first_sample(
    tmp_path: Path, small_disk: Path, place: str, resume: str
) -> None:
    # Row 10.
    (tmp_path / "file").write_text("")
    broken(small_disk / "series", 4)
    series = {
        "file": tmp_path / "file",
        "under a file": tmp_path / "file" / "series",
        "read-only": small_disk / "series",
    }.get(place, Path(place))
    if place == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    data = samples(12)
    with pytest.raises((CheckpointError, noether.ConfigurationError)) as caught:
        run_plainly(series, data, resume)
    assert str(series) in str(caught.value)
    assert data.served == []


def run_plainly(series: Path, data: Samples, resume: str) -> None:
    model = net()
    noether.train(
        model,
        data,
        loss=lambda model, batch: torch.nn.functional.mse_loss(model(batch[0]), batch[1]),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        until={"updates": 3},
        run_dir=series,
        resume=resume,
    )


def test_a_run_directory_that_vanishes_in_mid_run_is_told_and_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Row 10, later: as row 8. The third save in a row that fails ends the run; nothing is made
    # again where somebody removed it.
    seen: list[int] = []
    note = Callback("note", after_update=lambda state: seen.append(state.now.update))
    with pytest.raises(CheckpointError, match="No such file or directory"):
        train(tmp_path / "series", at(3, lambda: shutil.rmtree(tmp_path / "series")), note)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]
    told = capsys.readouterr().err
    assert len(re.findall(r"update [46] .*No such file or directory.*training goes on", told)) == 2
    assert not (tmp_path / "series").exists()


def test_checkpoints_that_vanish_in_mid_run_are_made_again(tmp_path: Path, whole: Ended) -> None:
    # Row 10: the folder alone is gone, and can be made.
    ended = train(tmp_path, at(3, lambda: shutil.rmtree(tmp_path / "1" / "checkpoints")))
    assert_same_state(ended, whole)


def test_a_disk_that_becomes_read_only_in_mid_run_loses_its_saves_alone(
    small_disk: Path, tmp_path: Path
) -> None:
    # Row 10: a disk with errors is often made read-only by the kernel.
    whole = train(tmp_path / "whole")
    folder = small_disk / "series" / "1" / "checkpoints"
    binding = partial(subprocess.run, check=True)

    def close_off() -> None:
        binding(["mount", "--bind", str(folder), str(folder)])
        binding(["mount", "-o", "remount,ro,bind", str(folder)])

    try:
        ended = train(
            small_disk / "series", at(3, close_off), at(7, lambda: binding(["umount", str(folder)]))
        )
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
    assert_same_state(ended, whole)
