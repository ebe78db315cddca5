"""Whatever becomes of a tracker, training goes on and the way out is short."""

import errno
import math
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import Callback, ConfigurationError, Log, TrainState, Write, every, trackers
from noether.trackers import Begun, Line, Output, Tracker, sending
from noether.trackers.earlier import earlier
from tests.group import Group
from tests.trackers.runs import logged, of_csv, train

pytestmark = pytest.mark.filterwarnings("default")  # what the libraries are warned of is theirs


def nothing(handle: Any, *more: Any) -> None: ...


def hanging(released: threading.Event) -> Tracker:
    def wait(handle: Any, line: Line) -> None:
        released.wait()

    return Tracker("stuck", lambda begun: None, wait, nothing)


def full(handle: Any, line: Line) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def down(begun: Begun) -> None:
    raise ConnectionError("nobody answers")


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    monkeypatch.setattr(sending, "FLUSH", 0.05)
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("hangs", r"tracker 'stuck' lost \d+ lines: it did not end within"),
        ("full", "tracker 'full' lost 6 lines: OSError: .*No space left"),
        ("down", "tracker 'down' lost 8 lines: ConnectionError: nobody answers"),
    ],
)
def test_a_tracker_in_trouble_changes_nothing_and_is_told_of(
    kind: str, said: str, released: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {
        "hangs": hanging(released),
        "full": Tracker("full", lambda begun: None, full, nothing),
        "down": Tracker("down", down, nothing, nothing),
    }
    tracked, plain = (train(None, trackers=each) for each in ([made[kind]], []))
    for one, other in zip(tracked.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert re.search(said, capsys.readouterr().err)


def test_a_full_queue_loses_lines_and_never_waits(released: threading.Event) -> None:
    sender = sending.start(hanging(released), Begun())
    line = Line(noether.Progress(update=1), {"a": 1.0})
    for _ in range(sending.MOST + 50):
        sending.send(sender, line)  # would block here
    assert 48 <= sender.lost <= 50
    assert sending.trouble(sender) == (
        "tracker 'stuck' fails: it is too slow, or hangs; training goes on"
    )
    assert sending.trouble(sender) is None
    released.set()
    sending.finish([sender], "done")


def test_without_a_tracker_there_is_no_thread() -> None:
    before, seen = set(threading.enumerate()), set[threading.Thread]()

    def look(state: TrainState) -> None:
        seen.update(threading.enumerate())

    train(None, Callback("look", after_update=look))
    assert seen <= before


# ---------------------------------------------------------------- what was there already


@st.composite
def resumes(draw: st.DrawFn) -> tuple[list[Line], list[Line], int]:
    """What the journal has, what is logged after a resume, and the last that a tracker holds."""
    last = draw(st.integers(1, 12))
    kept = draw(st.integers(0, last))
    lines = [Line(noether.Progress(update=n), {"loss": float(n)}) for n in range(last + 1)]
    end = Line(noether.Progress(update=last), {"done": 1.0}, "end")
    return lines[: kept + 1], [*lines[kept + 1 :], end], draw(st.integers(-1, last))


@given(resumes())
def test_a_resumed_tracker_has_every_tick_once_in_order(
    resumed: tuple[list[Line], list[Line], int],
) -> None:
    journal, coming, held = resumed
    there = [*journal, *coming][: held + 1]
    tracker = Tracker(
        "list", lambda begun: there, list[Line].append, nothing, holds=lambda handle: held
    )
    now = journal[-1].now
    sender = sending.start(tracker, Begun(now=now, resumed=True), journal)
    for line in coming:
        sending.send(sender, line)
    assert sending.finish([sender], "done") == []
    assert there == [*journal, *coming]


@given(resumes())
def test_a_tracker_that_holds_nothing_gets_what_this_session_logs(
    resumed: tuple[list[Line], list[Line], int],
) -> None:
    journal, coming, _ = resumed
    there: list[Line] = []
    tracker = Tracker("list", lambda begun: there, list[Line].append, nothing)
    sender = sending.start(tracker, Begun(now=journal[-1].now, resumed=True), journal)
    for line in coming:
        sending.send(sender, line)
    sending.finish([sender], "done")
    assert there == coming


def test_a_journal_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    there: list[Line] = []
    tracker = Tracker(
        "list", lambda begun: there, list[Line].append, nothing, holds=lambda handle: -1
    )
    missing = earlier(tmp_path / "journal.jsonl", 100, tmp_path)
    sender = sending.start(tracker, Begun(resumed=True), missing)
    line = Line(noether.Progress(update=1), {"a": 1.0})
    sending.send(sender, line)
    (said,) = sending.finish([sender], "done")
    assert said.startswith("tracker 'list' lost 1 line: FileNotFoundError")
    assert there == [line]


def test_what_the_journal_tells_is_what_was_logged_and_written(tmp_path: Path) -> None:
    def draw(state: TrainState) -> Write:
        return Write("drawn/picture.png", torch.zeros(3, 4, 6))

    def odd(state: TrainState) -> Log:
        return Log({"odd": math.inf, "count": state.now.update})

    got: list[Line | Output] = []
    seen = Tracker("seen", lambda begun: got, list.append, nothing, show=list.append)
    drawing = every(updates=3)(Callback("drawing", on_schedule=draw))
    train(tmp_path, drawing, Callback("odd", after_update=odd), trackers=[seen])
    run = tmp_path / "1"
    journal = run / "journal.jsonl"
    told = list(earlier(journal, journal.stat().st_size, run / "outputs"))
    assert told == got
    assert [item.path.name for item in told if isinstance(item, Output)] == [
        "drawn.picture.png"
    ] * 2
    *rows, _ = journal.read_bytes().splitlines(keepends=True)
    but_last = len(b"".join(rows))
    assert list(earlier(journal, but_last + 1, run / "outputs")) == [
        item for item in told if not (isinstance(item, Line) and item.event == "end")
    ]


# ---------------------------------------------------------------- ranks, and what is refused


def ranked(folder: str) -> None:
    train(Path(folder), trackers=[trackers.csv()])


def test_of_two_ranks_the_first_tracks(tmp_path: Path) -> None:
    group = Group(2, tmp_path / "log")
    group.log.touch()
    try:
        group.call(ranked, str(tmp_path / "runs"))
    finally:
        group.close()
    assert of_csv(tmp_path / "runs" / "1") == logged(tmp_path / "runs" / "1")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["csv"], "trackers: 'csv' is none; make one by noether.trackers"),
        ([trackers.csv()], "metrics.csv has no place to write to"),
        (trackers.csv(path="a"), "trackers is a Tracker; expected a list"),
        ([trackers.csv(path="a"), trackers.csv(path="b")], "two trackers are 'csv'"),
        ([trackers.tensorboard()], "tensorboard has no place to write to"),
    ],
)
def test_what_cannot_track_is_refused_before_the_run(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        train(None, trackers=given)


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigurationError, match=r"noether-callbacks\[tensorboard\]"):
        train(tmp_path, trackers=[trackers.tensorboard()])
    assert list(tmp_path.iterdir()) == []
