"""Lines for files, one rewritten line for terminals."""

import io
import os
import pty
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.console import Console, live_line
from noether.progress import Progress
from noether.state import UNKNOWN

counts = st.integers(0, 10**7)


@pytest.fixture
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        yield ours, stream
    os.close(ours)


def ticked(console: Console) -> None:
    for update in range(1, 4):
        console.tick(Progress(0, update, update), Progress(1, 3, 3), {})


def shown(ours: int, stream: io.TextIOWrapper) -> str:
    """All that was written to the terminal, which may hand it over in parts."""
    print("END", end="", file=stream, flush=True)
    seen = ""
    while not seen.endswith("END"):
        seen += os.read(ours, 10_000).decode()
    return seen.removesuffix("END")


def test_a_terminal_gets_a_line_that_is_rewritten_and_wiped(
    terminal: tuple[int, io.TextIOWrapper],
) -> None:
    ours, stream = terminal
    readings = iter(range(1, 100))
    console = Console(io.StringIO(), stream, clock=lambda: float(next(readings)))
    ticked(console)
    console.wipe()
    seen = shown(ours, stream)
    assert "update 3/3" in seen
    assert "\n" not in seen
    assert seen.endswith("\r\x1b[2K")


def test_a_file_gets_no_control_characters() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, err)
    ticked(console)
    console.say("a line")
    console.wipe()
    assert (out.getvalue(), err.getvalue()) == ("a line\n", "")


def test_a_warning_is_printed_once_and_counted() -> None:
    err = io.StringIO()
    console = Console(io.StringIO(), err)
    for _ in range(3):
        console.warn("slow")
    assert err.getvalue() == "warning: slow\n"
    assert console.warnings["slow"] == 3


def test_redrawing_is_limited_by_the_clock(terminal: tuple[int, io.TextIOWrapper]) -> None:
    ours, stream = terminal
    console = Console(io.StringIO(), stream, clock=lambda: 5.0)
    ticked(console)
    assert shown(ours, stream).count("update") == 1


@given(counts, counts, st.floats(0, 1e5))
def test_the_live_line_never_shows_negative_time_or_more_than_all(
    update: int, total: int, pace: float
) -> None:
    line = live_line(Progress(0, update, update), Progress(None, total, None), {}, pace)
    assert "-" not in line
    if total:
        assert int(line[line.index("]") + 1 : line.index("%")]) <= 100


def test_an_unknown_horizon_gives_counts_alone() -> None:
    line = live_line(Progress(1, 2, 3), UNKNOWN, {"loss/online/total/U1": 0.25}, 1.0)
    assert line == "epoch 1  update 2  loss 0.25"
