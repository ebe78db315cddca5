"""Rows 2, 8 and 9 with unmodified code: a death, or an error, at any system call of a session."""

import errno
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from noether.checkpoint import newest
from noether.rundir import read_status
from tests.faults.runs import Ended, assert_same_state, broken, left_aside, train

pytestmark = [
    pytest.mark.deep,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]
AT_MOST = 120
"""Of the calls of one name so many, spread evenly, are tried."""


@dataclass(frozen=True)
class Ground:
    """A run that was broken off, and its unbroken end."""

    broken: Path
    whole: Ended


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    broken(folder / "broken", 6, keep=1)
    return Ground(folder / "broken", train(folder / "whole", keep=1))


def placed(ground: Ground, tmp_path: Path, name: object) -> Path:
    """A copy of the broken run's series."""
    series = tmp_path / str(name)
    shutil.copytree(ground.broken, series)
    return series


def traced(series: Path, *options: str) -> tuple[int, str]:
    """A session in a fork under strace: its exit code, and what strace saw."""
    waiting, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.read(waiting, 1)
            train(series, keep=1)
            os._exit(0)
        except BaseException:
            os._exit(1)
    log = series.with_suffix(".strace")
    command = ["strace", "-f", "-qq", "-o", str(log), *options, "-p", str(child)]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text():
            if tracer.poll() is not None:
                os.kill(child, signal.SIGKILL)
                pytest.skip("strace may not watch processes here")
        os.write(go, b"x")
    finally:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        tracer.wait(30)
        os.close(waiting)
        os.close(go)
    return code, log.read_text(errors="replace")


CALLS = ("write", "fsync", "close", "mkdir", "rename", "unlink", "rmdir", "openat", "ftruncate")


def system_calls(log: str) -> Iterator[str]:
    for line in log.splitlines():
        words = line.split(None, 1)
        if len(words) == 2 and "(" in words[1]:
            yield words[1].split("(", 1)[0]


def numbers(ground: Ground, tmp_path: Path, call: str) -> range:
    """The calls of that name in an untouched session, as many as are tried."""
    code, log = traced(placed(ground, tmp_path, "counted"), "-e", f"trace={call}")
    assert code == 0
    total = Counter(system_calls(log))[call]
    assert total > 0
    return range(1, total + 1, max(total // AT_MOST, 1))


def goes_on(ground: Ground, series: Path) -> int:
    """A real resume to the unbroken end; gives the update that it began at."""
    found = newest(series / "1" / "checkpoints")
    assert found is not None
    done = read_status(series / "1")["state"] == "done"
    ended = train(series, keep=1)
    if not done:  # else nothing is trained or cleaned any more
        assert_same_state(ended, ground.whole)
        assert left_aside(ended.run / "checkpoints") == []
    return found.manifest.update


@pytest.mark.parametrize("call", CALLS)
def test_killed_at_any_system_call_of_a_session_it_is_resumed(
    ground: Ground, tmp_path: Path, call: str
) -> None:
    # Row 2, journal, lock and status included.
    found = []
    for k in numbers(ground, tmp_path, call):
        series = placed(ground, tmp_path, k)
        inject = f"inject={call}:signal=KILL:when={k}"
        code, _ = traced(series, "-e", f"trace={call}", "-e", inject)
        assert code in (0, -signal.SIGKILL)  # threads make a few calls more or fewer each time
        found.append(goes_on(ground, series))
        shutil.rmtree(series)
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("call", "code"),
    [
        *(("write", errno.ENOSPC), ("write", errno.EDQUOT), ("fsync", errno.EIO)),
        *(("rename", errno.ENOSPC), ("mkdir", errno.ENOSPC)),
        ("close", errno.EIO),
        *(("unlink", errno.EIO), ("rmdir", errno.EIO), ("ftruncate", errno.EIO)),
    ],
)
def test_an_error_of_any_system_call_of_a_session_costs_no_more_than_that_session(
    ground: Ground, tmp_path: Path, call: str, code: int
) -> None:
    # Rows 8 and 9: training goes on or ends with an error; either way what is there goes on.
    for k in numbers(ground, tmp_path, call):
        series = placed(ground, tmp_path, k)
        inject = f"inject={call}:error={errno.errorcode[code]}:when={k}"
        ended, _ = traced(series, "-e", f"trace={call}", "-e", inject)
        assert ended in (0, 1)
        goes_on(ground, series)
        shutil.rmtree(series)
