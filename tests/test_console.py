"""Lines for files, a block that is drawn anew for terminals, values for programs."""

import io
import json
import os
import pty
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import Callback, Log, TrainState, every, hooks
from noether.console import Console
from noether.live import Best, View, better, line, readings, with_best
from noether.progress import Progress
from tests.strategies import net, samples, sgd, squared_error

counts = st.integers(0, 10**7)
values = st.floats(allow_nan=True) | st.floats(-10, 10)


@pytest.fixture
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        yield ours, stream
    os.close(ours)


def at(update: int, **fields: Any) -> TrainState:
    now = Progress(0, update, 4 * update)
    return TrainState("update", now, now, total=Progress(1, 3, 12), **fields)


def ticked(console: Console, **fields: Any) -> None:
    for update in range(1, 4):
        console.tick(at(update, **fields), lambda: [(3, "checkpoint")])


def shown(ours: int, stream: io.TextIOWrapper) -> str:
    """All that was written to the terminal, which may hand it over in parts."""
    print("END", end="", file=stream, flush=True)
    seen = ""
    while not seen.endswith("END"):
        seen += os.read(ours, 10_000).decode()
    return seen.removesuffix("END")


def seconds() -> Any:
    """A clock that goes on by a second each time it is read."""
    readings = iter(range(1, 100))
    return lambda: float(next(readings))


# ---------------------------------------------------------------- terminals


def test_without_a_library_a_terminal_gets_a_line_that_is_rewritten_and_wiped(
    terminal: tuple[int, io.TextIOWrapper],
) -> None:
    ours, stream = terminal
    console = Console(io.StringIO(), stream, clock=seconds(), rich=False)
    ticked(console)
    console.wipe()
    seen = shown(ours, stream)
    assert "update 3/3" in seen
    assert "\n" not in seen
    assert seen.endswith("\r\x1b[2K")


def test_a_terminal_gets_a_block_with_rates_metrics_their_best_and_what_comes_next(
    terminal: tuple[int, io.TextIOWrapper],
) -> None:
    ours, stream = terminal
    console = Console(io.StringIO(), stream, clock=seconds())
    console.tick(at(1, metrics={"loss/val/total": 0.5}, fresh=frozenset(["loss/val/total"])), list)
    spent = {"data_wait": 1.0, "forward": 1.0, "backward": 1.0, "step": 1.0}
    later = at(2, metrics={"loss/val/total": 0.75}, fresh=frozenset(["loss/val/total"]))
    console.tick(later, lambda: [(3, "checkpoint")])
    console.tick(at(3, timings=spent, metrics=later.metrics), lambda: [(3, "checkpoint")])
    seen = shown(ours, stream)
    last = seen[seen.rindex("update 3/3") :]
    assert "1 updates/s  4 samples/s  waits for data 25%" in last
    (row,) = [each for each in last.splitlines() if "loss/val/total" in each]
    assert row.split()[:4] == ["loss/val/total", "0.75", "0.5", "1"]
    assert "next: checkpoint at 3" in last


@pytest.mark.parametrize("name", ["loss/[/val]", "loss/[red]val", "loss/a\x1b[2Jb"])
def test_the_name_of_a_metric_is_shown_as_it_is(
    terminal: tuple[int, io.TextIOWrapper], name: str
) -> None:
    ours, stream = terminal
    console = Console(io.StringIO(), stream, clock=seconds())
    console.tick(at(1, metrics={name: 0.5}, fresh=frozenset([name])), lambda: [(3, name)])
    seen = shown(ours, stream)
    shown_name = name.replace("\x1b", "\\x1b")
    assert f"{shown_name} " in seen
    assert f"next: {shown_name} at 3" in seen


def test_a_line_that_is_said_takes_the_place_of_the_block(
    terminal: tuple[int, io.TextIOWrapper],
) -> None:
    ours, stream = terminal
    console = Console(stream, stream, clock=seconds())
    ticked(console)
    console.say("a line")
    assert console.block is None
    seen = shown(ours, stream)
    assert seen.endswith("a line\r\n")
    assert "\x1b[?25h" in seen  # the cursor is back


def test_routine_is_said_where_no_block_tells_it(terminal: tuple[int, io.TextIOWrapper]) -> None:
    ours, stream = terminal
    log = io.StringIO()
    Console(log, stream).say("to a file", routine=True)
    Console(stream, stream, rich=False).say("above a line", routine=True)
    Console(stream, stream).say("above a block", routine=True)
    assert log.getvalue() == "to a file\n"
    assert shown(ours, stream) == "above a line\r\n"


def test_batches_of_a_pass_are_counted_below_the_block(
    terminal: tuple[int, io.TextIOWrapper],
) -> None:
    ours, stream = terminal
    console = Console(io.StringIO(), stream, clock=seconds())
    ticked(console)
    console.passing("offline_loss/val", 3, 6)
    seen = shown(ours, stream)
    (row,) = [each for each in seen.splitlines() if "offline_loss/val: batch 3/6" in each]
    bar = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", row.partition("offline_loss")[0])
    assert (len(bar.strip()), bar.find("╺")) == (24, 12)
    console.wipe()


def test_redrawing_is_limited_by_the_clock(terminal: tuple[int, io.TextIOWrapper]) -> None:
    ours, stream = terminal
    asked: list[str] = []

    def coming() -> list[tuple[int, str]]:
        asked.append("once")
        return []

    console = Console(io.StringIO(), stream, clock=lambda: 5.0, rich=False)
    for update in range(1, 4):
        console.tick(at(update), coming)
    assert shown(ours, stream).count("update") == 1
    assert asked == ["once"]


@pytest.mark.parametrize("options", [{"form": "plain"}, {"live": False}, {"rank": 1}])
def test_nothing_is_drawn_where_that_is_not_wanted(
    terminal: tuple[int, io.TextIOWrapper], options: Any
) -> None:
    ours, stream = terminal
    ticked(Console(io.StringIO(), stream, clock=seconds(), **options))
    assert shown(ours, stream) == ""


# ---------------------------------------------------------------- files


def test_a_file_gets_no_control_characters() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, err)
    ticked(console)
    console.say("a line")
    console.wipe()
    assert (out.getvalue(), err.getvalue()) == ("a line\n", "")


def test_a_warning_is_printed_once_counted_and_repeated_at_the_end() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, err)
    for _ in range(3):
        console.warn("slow\nwith details")
    console.warn("odd")
    assert err.getvalue() == "warning: slow\nwith details\nwarning: odd\n"
    assert console.warnings["slow\nwith details"] == 3
    console.recap()
    assert out.getvalue() == "4 warnings:\n  slow (3 times)\n  odd\n"


def test_who_wants_it_quiet_hears_warnings_alone() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, err, form="quiet")
    console.say("a line")
    console.warn("slow")
    console.recap()
    assert (out.getvalue(), err.getvalue()) == ("", "warning: slow\n")


def test_programs_get_one_value_a_line() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, err, form="json")
    console.say("a line")
    console.warn("slow")
    console.tick(at(1, metrics={"a": float("nan"), "b": 1.0}, fresh=frozenset(["a"])), list)
    console.tick(at(2, metrics={"a": 1.0}), list)
    found = [json.loads(each) for each in out.getvalue().splitlines()]
    assert all(each.pop("time").endswith("+00:00") for each in found)
    assert found == [
        {"kind": "say", "text": "a line"},
        {"kind": "warning", "text": "slow", "rank": 0},
        {"kind": "metrics", "epoch": 0, "update": 1, "sample": 4, "metrics": {"a": "nan"}},
    ]
    assert err.getvalue() == ""


@pytest.mark.parametrize("form", ["auto", "plain", "json", "quiet"])
def test_how_it_speaks_changes_nothing_that_a_run_gives(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    final = noether.train(
        net(),
        samples(8),
        loss=squared_error,
        optimizer=sgd,
        until={"updates": 3},
        batch_size=4,
        callbacks=every(updates=1)(hooks.online_loss()),
        defaults=False,
        console=form,
    )
    assert list(final.metrics) == ["loss/online/total/U1"]
    printed = capsys.readouterr()
    assert printed.err == ""
    assert (len(printed.out.splitlines()) > 0) == (form == "json")


def test_an_unknown_way_to_speak_is_refused() -> None:
    with pytest.raises(noether.ConfigurationError, match=r"console is 'queit'.*quiet"):
        noether.train(
            net(),
            samples(8),
            loss=squared_error,
            optimizer=sgd,
            until={"updates": 1},
            console="queit",
        )


# ---------------------------------------------------------------- what is shown


@given(counts, counts, st.floats(0, 1e5))
def test_the_live_line_never_shows_negative_time_or_more_than_all(
    update: int, total: int, pace: float
) -> None:
    text = line(View(Progress(0, update, update), Progress(None, total, None), pace=pace))
    assert "-" not in text
    if total:
        assert int(text[text.index("]") + 1 : text.index("%")]) <= 100


def test_an_unknown_horizon_gives_counts_alone() -> None:
    view = View(Progress(1, 2, 3), metrics={"loss/online/total/U1": 0.25}, pace=1.0)
    assert line(view) == "epoch 1  update 2  loss 0.25"


@given(st.lists(values, min_size=1), st.sampled_from(["loss/val", "accuracy/val", "size"]))
def test_the_best_is_the_first_of_the_best_finite_values(seen: list[float], name: str) -> None:
    best: dict[str, Best] = {}
    for update, value in enumerate(seen):
        best = with_best(best, [name], {name: value}, update)
    finite = [value for value in seen if value - value == 0]
    if name == "size" or not finite:
        assert best == {}
    else:
        wanted = min(finite) if name.startswith("loss") else max(finite)
        assert best == {name: Best(wanted, seen.index(wanted))}


def test_a_name_that_does_not_tell_what_is_better_has_no_best() -> None:
    assert better(1.0, None, "error/val")
    assert not better(1.0, None, "rmse")


def test_a_few_metrics_are_shown_the_totals_first() -> None:
    many = {f"loss/val/{part}": 1.0 for part in ("total", *"abcdefghij")}
    online = {"loss/online/total/U1": 1.0, "loss/online/total/U10": 1.0}
    best = {name: Best(1.0, 1) for name in (*many, *online, "accuracy/at_best/loss/val/total")}
    found = readings(View(Progress(), metrics={**many, **online}, best=best))
    assert found[:3] == ["loss/online/total/U10", "loss/val/total", "loss/val/a"]
    assert len(found) == 8


def test_what_comes_next_is_what_then_fires() -> None:
    told: list[list[tuple[int, str]]] = []
    fired: list[tuple[int, str]] = []

    def note(name: str) -> Any:
        return lambda state: fired.append((state.now.update, name))

    callbacks = [
        Callback("a", on_schedule=note("a"), schedule=every(updates=3)),
        Callback("b", on_schedule=note("b"), schedule=every(epochs=1)),
        Callback("each", after_update=lambda state: Log({"x": 1.0}), writes=("x",)),
        Callback("c", on_schedule=note("c"), schedule=noether.when("x")),
    ]

    def tick(self: Console, state: TrainState, coming: Any) -> None:
        told.append(coming())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Console, "tick", tick)
        noether.train(
            net(),
            samples(20),
            loss=squared_error,
            optimizer=sgd,
            until={"updates": 12},
            batch_size=4,
            callbacks=callbacks,
            defaults=False,
        )
    for update, coming in enumerate(told[1:-1], 1):
        ahead = [each for each in fired if each[0] > update]
        nearest = {name: at for at, name in reversed(ahead) if name != "c"}
        assert [each for each in coming if each[0] <= 12] == sorted(
            (at, name) for name, at in nearest.items()
        )
