"""Whatever becomes of a tracker, training goes on and the way out is short."""

import errno
import math
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import Callback, ConfigurationError, Log, TrainState, Write, every, trackers
from noether.trackers import Begun, Line, Output, Tracker, sending
from noether.trackers.earlier import earlier
from noether.trackers.remembered import note
from tests.group import Group
from tests.trackers.runs import SAVING, broken, logged, of_csv, train

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


Told = Line | Output


def told_at(update: int, parts: int) -> list[Told]:
    """A line, and files that were written in the same update."""
    now = noether.Progress(update=update)
    files = [Output(now, f"{update}.{n}", Path("it.png")) for n in range(parts)]
    return [Line(now, {"loss": float(update)}), *files]


@st.composite
def resumes(draw: st.DrawFn) -> tuple[list[Told], list[Told], int]:
    """What the journal has, what comes after a resume, and how much a killed tracker was given."""
    last, parts = draw(st.integers(1, 8)), draw(st.integers(0, 2))
    kept = draw(st.integers(0, last))
    ticks = [told_at(n, parts) for n in range(last + 1)]
    now = noether.Progress(update=last)
    end: list[Told] = [Line(now, {"done": 1.0}, "end"), Output(now, "end", Path("it.png"), "end")]
    journal, coming = (
        [item for tick in some for item in tick] for some in (ticks[: kept + 1], ticks[kept + 1 :])
    )
    coming += end
    return journal, coming, draw(st.integers(0, len(journal) + len(coming)))


def resumed_with(tracker: Tracker, run: Path, journal: list[Told], coming: list[Told]) -> list[str]:
    begun = Begun(run, now=journal[-1].now, resumed=True)
    sender = sending.start(tracker, begun, journal)
    for item in coming:
        sending.send(sender, item)
    return sending.finish([sender], "done")


@given(resumes())
def test_a_resumed_tracker_has_every_part_of_every_tick_once_in_order(
    resumed: tuple[list[Told], list[Told], int],
) -> None:
    journal, coming, given_before = resumed
    whole = [*journal, *coming]
    there: list[Told] = []

    def holds(handle: Any) -> int:
        return max((item.now.update for item in there if isinstance(item, Line)), default=-1)

    tracker = Tracker("list", lambda begun: there, list.append, nothing, list.append, holds)
    with TemporaryDirectory() as folder:
        before = sending.start(tracker, Begun(Path(folder)))
        for item in whole[:given_before]:
            sending.send(before, item)
        sending.finish([before], "failed")
        assert there == whole[:given_before]
        assert resumed_with(tracker, Path(folder), journal, coming) == []
    assert there == whole


@given(resumes(), st.integers(0, 8))
def test_what_a_tracker_has_lost_of_what_it_was_given_comes_again(
    resumed: tuple[list[Told], list[Told], int], last: int
) -> None:
    journal, coming, given_before = resumed
    whole = [*journal, *coming]
    there = [item for item in whole[:given_before] if item.now.update <= last]
    held = max((item.now.update for item in there), default=-1)
    tracker = Tracker("list", lambda b: there, list.append, nothing, list.append, lambda h: held)
    with TemporaryDirectory() as folder:
        begun = Begun(Path(folder))
        for item in whole[:given_before]:
            part = [each for each in whole if each.now.update == item.now.update].index(item)
            note(begun, "list", (item.now.update, part))
        resumed_with(tracker, Path(folder), journal, coming)
    assert there == whole


@given(resumes())
def test_a_tracker_that_holds_nothing_gets_what_this_session_logs(
    resumed: tuple[list[Told], list[Told], int],
) -> None:
    journal, coming, _ = resumed
    there: list[Told] = []
    tracker = Tracker("list", lambda begun: there, list.append, nothing, list.append)
    with TemporaryDirectory() as folder:
        assert resumed_with(tracker, Path(folder), journal, coming) == []
    assert there == coming


@pytest.mark.parametrize("at", ["begin", "log", "holds", "end"])
def test_whatever_a_tracker_raises_is_told_of(at: str) -> None:
    def quit(*given: Any) -> Any:
        raise SystemExit(3)

    parts: dict[str, Any] = {
        "begin": nothing,
        "log": nothing,
        "end": nothing,
        "holds": lambda h: -1,
    }
    tracker = Tracker("quitter", **{**parts, at: quit})
    sender = sending.start(tracker, Begun(resumed=True))
    sending.send(sender, Line(noether.Progress(update=1), {"a": 1.0}))
    (said,) = sending.finish([sender], "done")
    assert re.fullmatch(r"tracker 'quitter' lost \d lines?: SystemExit: 3", said)


def test_one_that_hangs_takes_no_time_of_the_others(released: threading.Event) -> None:
    ended: list[str] = []

    def end(handle: Any, summary: Any, state: str) -> None:
        ended.append(state)

    stuck = sending.start(hanging(released), Begun())
    for _ in range(sending.MOST + 2):
        sending.send(stuck, Line(noether.Progress(update=1), {"a": 1.0}))
    well = sending.start(Tracker("well", nothing, nothing, end), Begun())
    said = sending.finish([stuck, well], "done")
    assert [each.split()[1] for each in said] == ["'stuck'"]
    assert ended == ["done"]
    released.set()


def test_a_resumed_run_shows_nothing_of_its_opening_tick_again(tmp_path: Path) -> None:
    def describe(state: TrainState) -> list[Any]:
        return [Write("model.txt", "a net"), Log({"size": 3.0})]

    given_to: list[Line | Output] = []
    seen = Tracker("seen", lambda begun: given_to, list.append, nothing, list.append)
    describing = Callback("describe", before_training=describe)
    broken(tmp_path, 5, describing, trackers=[seen])
    train(tmp_path, SAVING, describing, trackers=[seen], resume="auto")
    starts = [item for item in given_to if item.event == "start"]
    assert len(starts) == 2


def test_a_run_begun_from_anothers_checkpoint_tracks_its_opening_tick(tmp_path: Path) -> None:
    def size(state: TrainState) -> Log:
        return Log({"size": 3.0})

    sizing = Callback("size", before_training=size)
    train(tmp_path, SAVING, sizing)
    fork = str(tmp_path / "1" / "checkpoints" / "step-4")
    train(tmp_path, SAVING, sizing, trackers=[trackers.csv()], resume=fork)
    assert of_csv(tmp_path / "2", "size") == [(4, 3.0)]


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
