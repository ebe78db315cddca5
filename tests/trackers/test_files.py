"""Files of metrics are whole after any kill, and never written over."""

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether import Progress, trackers
from noether.trackers import Begun, Line, sending
from noether.trackers.offline import chunks

LINES = [
    Line(Progress(update=n, sample=4 * n), {"loss": 1 / (n + 1), "\u00e4": float(n)})
    for n in range(8)
]
END = Line(Progress(update=7, sample=28), {"summary": 1.0}, "end")


def written(kind: str, target: Path, lines: list[Line], begun: Begun, known: list[Line]) -> bytes:
    tracker = getattr(trackers, kind)(path=str(target))
    sender = sending.start(tracker, begun, known)
    for line in lines:
        sending.send(sender, line)
    assert sending.finish([sender], "done") == []
    return target.read_bytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@given(kept=st.integers(1, 7), torn=st.floats(0, 1))
def test_a_file_cut_anywhere_is_whole_after_a_resume(kind: str, kept: int, torn: float) -> None:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "metrics"
        whole = written(kind, target, [*LINES, END], Begun(), [])
        target.write_bytes(whole[: round(torn * len(whole))])
        begun = Begun(now=LINES[kept].now, resumed=True)
        known, coming = LINES[: kept + 1], [*LINES[kept + 1 :], END]
        assert written(kind, target, coming, begun, known) == whole


def test_a_fresh_run_puts_the_file_of_another_aside(tmp_path: Path) -> None:
    target = tmp_path / "metrics.csv"
    first, second, third = (written("csv", target, LINES[:n], Begun(), []) for n in (2, 3, 4))
    assert (tmp_path / "metrics.1.csv").read_bytes() == first
    assert (tmp_path / "metrics.2.csv").read_bytes() == second
    assert target.read_bytes() == third


BLOCK = 32768


def logged(records: list[bytes]) -> bytes:
    """Records as LevelDB's log has them, by its description: parts that end with their block."""
    file = b":W&B..."
    for record in records:
        rest, begun = record, False
        while rest or not begun:
            left = BLOCK - len(file) % BLOCK
            if left < 7:
                file += bytes(left)
                continue
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = {(False, True): 1, (False, False): 2, (True, False): 3, (True, True): 4}
            file += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind[begun, not rest]])
            file, begun = file + part, True
    return file


LENGTHS = st.integers(0, 70_000) | st.integers(BLOCK - 20, BLOCK - 7)


@given(st.lists(st.builds(bytes, LENGTHS), max_size=6), st.integers(0, 20))
def test_records_of_any_size_are_found_up_to_where_a_file_ends(
    records: list[bytes], cut: int
) -> None:
    data = logged(records)
    assert list(chunks(BytesIO(data))) == records
    found = list(chunks(BytesIO(data[: max(len(data) - cut, 7)])))
    assert found == records[: len(found)]


def test_a_session_begun_within_the_second_of_another_is_read(tmp_path: Path) -> None:
    tracker = trackers.wandb(offline=True)
    handle = tracker.begin(Begun(tmp_path))
    for update in (1, 2):
        tracker.log(handle, Line(Progress(update=update), {"loss": 1.0}))
    tracker.end(handle, {}, "failed")
    (folder,) = (tmp_path / "trackers" / "wandb").glob("offline-run-*")
    folder.rename(folder.with_name(f"{folder.name}-1"))  # as it would be called then
    handle = tracker.begin(Begun(tmp_path, now=Progress(update=2), resumed=True))
    assert tracker.holds is not None
    assert tracker.holds(handle) == 2
    tracker.end(handle, {}, "done")
