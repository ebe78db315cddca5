import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.errors import CheckpointError
from noether.journal import Extent, extent, open_journal, read, row
from noether.progress import Progress

ROWS = [row("update", Progress(update=n, sample=8 * n), metrics={"loss": 1 / n}) for n in (1, 2, 3)]


def written(path: Path, rows: list[dict[str, Any]] = ROWS) -> bytes:
    journal = open_journal(path)
    for each in rows:
        journal.append(each)
    journal.close()
    return path.read_bytes()


def test_a_row_has_every_key() -> None:
    progress = Progress(epoch=1, update=2, sample=3, seconds=4.0, session=5, counters={"tokens": 6})
    asked = [{"by": "stop", "kind": "stop", "reason": "worse"}]
    assert row("end", progress, metrics={"loss": 0.5}, effects=asked) == {
        "tick": "end",
        "epoch": 1,
        "update": 2,
        "sample": 3,
        "seconds": 4.0,
        "session": 5,
        "metrics": {"loss": 0.5},
        "effects": asked,
    }


def test_a_row_without_metrics_or_effects_has_them_empty() -> None:
    assert row("start", Progress())["metrics"] == {}
    assert row("start", Progress())["effects"] == []


def test_what_is_appended_is_read_back_while_the_journal_is_open(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal.jsonl")
    for n, each in enumerate(ROWS, 1):
        journal.append(each)
        assert list(read(journal.path)) == ROWS[:n]
        assert journal.position() == journal.path.stat().st_size
    journal.sync()
    journal.close()


def test_numbers_that_are_not_finite_are_strings(tmp_path: Path) -> None:
    values = {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 1e300}
    expected = {"a": "nan", "b": "inf", "c": "-inf", "d": 1e300}
    text = written(tmp_path / "j", [row("update", Progress(), metrics=values), {"metrics": values}])
    for line in text.splitlines():
        found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert found["metrics"] == expected


def test_a_second_session_appends(tmp_path: Path) -> None:
    written(tmp_path / "j", ROWS[:1])
    written(tmp_path / "j", ROWS[1:])
    assert list(read(tmp_path / "j")) == ROWS


def test_it_is_cut_back_to_a_position(tmp_path: Path) -> None:
    path = tmp_path / "j"
    size = len(written(path, ROWS[:2]))
    written(path, ROWS[2:])
    journal = open_journal(path, size=size)
    assert journal.position() == size
    journal.append({"again": 3})
    journal.close()
    assert list(read(path)) == [*ROWS[:2], {"again": 3}]


def test_a_journal_shorter_than_the_position_stays(tmp_path: Path) -> None:
    data = written(tmp_path / "j")
    open_journal(tmp_path / "j", size=10**9).close()
    assert (tmp_path / "j").read_bytes() == data


def test_cut_anywhere_it_holds_the_rows_that_were_whole(tmp_path: Path) -> None:
    path = tmp_path / "j"
    data = written(path)
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = ROWS[: data[:cut].count(b"\n")]
        assert list(read(path)) == whole
        open_journal(path).close()
        assert list(read(path)) == whole
        assert path.stat().st_size == data.rfind(b"\n", 0, cut) + 1


@given(st.binary(max_size=60).filter(lambda tail: b"{" not in tail))
def test_garbage_at_the_end_is_cut(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    data = written(path)
    path.write_bytes(data + tail)
    assert list(read(path)) == ROWS
    open_journal(path).close()
    assert path.read_bytes() == data


def test_its_extent_is_what_reading_it_gives(tmp_path: Path) -> None:
    path = tmp_path / "j"
    data = written(path)
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        rows = list(read(path))
        torn = not data[:cut].endswith(b"\n") and cut > 0
        assert extent(path) == Extent(len(rows), rows[-1] if rows else {}, torn, None)
    lines = data.splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\n" + b"[" * 100_000 + b"\n" + lines[2] + b"{")
    assert extent(path) == Extent(2, ROWS[2], torn=True, damaged=2)


def test_damage_between_rows_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    lines = written(path).splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\0\n" + lines[2])
    with pytest.raises(CheckpointError, match=r"j:2 is no row"):
        list(read(path))


def test_what_json_cannot_hold_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = open_journal(path)
    journal.append(ROWS[0])
    for bad in ({"metrics": {"a": {1, 2}}}, {"metrics": {1: 2}}):
        with pytest.raises(TypeError):
            journal.append(bad)
    journal.close()
    assert list(read(path)) == ROWS[:1]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from noether.journal import open_journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = open_journal(Path(sys.argv[1]))
journal.append({"n": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (15, resource.RLIM_INFINITY))
try:
    journal.append({"n": "x" * 40})
except OSError as error:
    print(error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append({"n": 2})
assert "torch" not in sys.modules
"""


def test_a_row_that_does_not_fit_leaves_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "j"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == errno.EFBIG
    assert list(read(path)) == [{"n": 0}, {"n": 2}]


def test_rows_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "j"
    child = os.fork()
    if child == 0:
        open_journal(path).append(ROWS[0])
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert list(read(path)) == ROWS[:1]
