import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from noether.errors import CheckpointError, RunLockedError
from noether.rundir import lock, new_run, probe, read_status, runs, write_status


def child_result(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_runs_are_numbered_from_one(tmp_path: Path) -> None:
    series = tmp_path / "runs" / "digits"
    assert runs(series) == []
    made = [new_run(series) for _ in range(11)]
    assert [run.name for run in made] == [str(n) for n in range(1, 12)]
    assert runs(series) == made[::-1]
    assert (made[0] / "checkpoints").is_dir()


def test_foreign_names_are_no_runs(tmp_path: Path) -> None:
    for name in ("007", "-3", "notes", "1.5", "٣", "0"):
        (tmp_path / name).mkdir()
    (tmp_path / "4").write_text("a file")
    assert runs(tmp_path) == []
    assert new_run(tmp_path) == tmp_path / "5"
    assert runs(tmp_path) == [tmp_path / "5"]


def test_fresh_starts_at_once_get_different_numbers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_run(tmp_path), range(40)))
    assert sorted(int(run.name) for run in made) == list(range(1, 41))


def test_a_series_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "series").write_text("")
    with pytest.raises(CheckpointError, match=r"series: .*File exists"):
        new_run(tmp_path / "series")


def test_a_second_owner_is_refused_with_the_first_one_named(tmp_path: Path) -> None:
    first = lock(tmp_path)
    with pytest.raises(RunLockedError, match=rf"in use by pid {os.getpid()} on \S+:"):
        lock(tmp_path)
    first.release()
    first.release()
    with lock(tmp_path), pytest.raises(RunLockedError):
        lock(tmp_path)
    lock(tmp_path).release()


HOLDER = """
import sys
from pathlib import Path
from noether.rundir import lock
held = lock(Path(sys.argv[1]))
assert "torch" not in sys.modules
print("held", flush=True)
sys.stdin.read()
"""


def test_the_lock_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(RunLockedError, match=f"pid {owner.pid} on"):
            lock(tmp_path)
        owner.kill()
    lock(tmp_path).release()
    assert f"pid {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_a_forked_worker_does_not_free_the_lock(tmp_path: Path) -> None:
    with lock(tmp_path) as held:
        worker = os.fork()
        if worker == 0:
            held.release()
            os._exit(0)
        assert child_result(worker) == 0
        with pytest.raises(RunLockedError):
            lock(tmp_path)
    lock(tmp_path).release()


def test_a_worker_that_outlives_a_killed_owner_does_not_keep_the_lock(tmp_path: Path) -> None:
    stop, go = os.pipe()
    ready, done = os.pipe()
    owner = os.fork()
    if owner == 0:
        lock(tmp_path)
        if os.fork() == 0:
            os.close(go)
            os.write(done, b"!")
            os.read(stop, 1)
            os._exit(0)
        signal.pause()
    assert os.read(ready, 1) == b"!"
    os.kill(owner, signal.SIGKILL)
    assert child_result(owner) == -signal.SIGKILL
    lock(tmp_path).release()
    for descriptor in (stop, go, ready, done):
        os.close(descriptor)


def test_a_run_directory_that_vanished_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone cannot be locked: .*No such file"):
        lock(tmp_path / "gone")


def test_status_is_what_was_written_last(tmp_path: Path) -> None:
    assert read_status(tmp_path) == {}
    write_status(tmp_path, state="running", update=3, loss=float("inf"))
    assert read_status(tmp_path) == {"state": "running", "update": 3, "loss": "inf"}
    write_status(tmp_path, state="done")
    assert read_status(tmp_path) == {"state": "done"}
    assert os.listdir(tmp_path) == ["status.json"]


def test_status_that_cannot_be_json_leaves_the_old_one(tmp_path: Path) -> None:
    write_status(tmp_path, state="running")
    with pytest.raises(TypeError):
        write_status(tmp_path, state={1, 2})
    assert read_status(tmp_path) == {"state": "running"}
    assert os.listdir(tmp_path) == ["status.json"]


@pytest.mark.parametrize("text", ["", '{"state": "ru', "[]", "\0\0"])
def test_a_damaged_status_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"status\.json"):
        read_status(tmp_path)


def test_status_read_during_writes_is_always_whole(tmp_path: Path) -> None:
    write_status(tmp_path, n=0, text="x" * 9999)
    writer = os.fork()
    if writer == 0:
        for n in range(10**9):
            write_status(tmp_path, n=n, text="x" * 9999)
    seen = [read_status(tmp_path) for _ in range(300)]
    os.kill(writer, signal.SIGKILL)
    assert child_result(writer) == -signal.SIGKILL
    assert {len(status["text"]) for status in [*seen, read_status(tmp_path)]} == {9999}


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    probe(run)
    assert os.listdir(run) == ["checkpoints"]
    assert os.listdir(run / "checkpoints") == []


@pytest.mark.parametrize(
    ("run", "why"), [("/proc/1", "No such file|denied"), ("/nowhere/1", "No such file")]
)
def test_a_directory_that_cannot_be_written_is_named(run: str, why: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{run} cannot be written: .*({why})"):
        probe(Path(run))
