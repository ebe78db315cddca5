"""What a callback waits for, and what remains unknown."""

from typing import Any

import pytest

from noether import Callback, Schedule, every, on_improvement, once_at_end, once_at_start, when
from noether.feed import feed, horizon
from noether.forecast import Forecast, forecast, line
from noether.schedules import parse


def nothing(state: object) -> None: ...


def callback(name: str, schedule: Schedule | None = None, **fields: Any) -> Callback:
    hooks = fields if any(key.startswith(("after", "before")) for key in fields) else {}
    return Callback(name, on_schedule=None if hooks else nothing, schedule=schedule, **fields)


def foreseen(*callbacks: Callback, start: int = 0) -> Any:
    """The forecasts of a run of 20 updates, 5 in an epoch, by name."""
    options: dict[str, Any] = {"accumulate": 1, "seed": 0, "shuffle": False, "collate": None}
    data = feed(range(20), batch_size=4, drop_last=False, **options)
    along = line(data, horizon(data, {"epochs": 4}), start=start, session=1 + (start > 0))
    return {found.callback.name: found for found in forecast(callbacks, along)}


def ticks(found: Forecast) -> list[Any]:
    opening, closing = ["start"] * found.sure.opening, ["end"] * found.sure.closing
    return [*opening, *found.sure, *closing]


READER = callback("reader", every(updates=3), reads=["score"])


@pytest.mark.parametrize(
    ("writer", "expected"),
    [
        (callback("w", every(epochs=1), writes=["score"]), [6, 9, 12, 15, 18]),
        (callback("w", every(updates=6), writes=["sc*"]), [6, 9, 12, 15, 18]),
        (callback("w", once_at_start, writes=["score"]), [3, 6, 9, 12, 15, 18]),
        (callback("w", None, writes=["score"]), [3, 6, 9, 12, 15, 18]),
        (callback("w", once_at_end, writes=["score"]), []),
        (callback("w", after_update=nothing, writes=["score"]), [3, 6, 9, 12, 15, 18]),
        (callback("w", after_epoch=nothing, writes=["score"]), [6, 9, 12, 15, 18]),
        (callback("w", before_training=nothing, writes=["score"]), [3, 6, 9, 12, 15, 18]),
        (callback("w", after_training=nothing, writes=["score"]), []),
    ],
)
def test_a_reader_runs_once_its_metric_has_been_written(
    writer: Callback, expected: list[int]
) -> None:
    found = foreseen(writer, READER)["reader"]
    assert ticks(found) == expected
    assert found.count == len(expected)


def test_a_reader_within_updates_finds_a_metric_in_the_next_one() -> None:
    writer = callback("w", every(updates=3), writes=["score"])
    inner = callback("inner", every(updates=3), reads=["score"], point="before_update")
    beside = callback("w", every(updates=3), writes=["score"], point="after_accumulation_step")
    assert ticks(foreseen(writer, inner)["inner"]) == [6, 9, 12, 15, 18]
    assert ticks(foreseen(beside, inner)["inner"]) == [3, 6, 9, 12, 15, 18]


def test_a_resumed_session_finds_what_was_written_before() -> None:
    writer = callback("w", every(epochs=1), writes=["score"])
    found = foreseen(writer, READER, start=6)
    assert ticks(found["reader"]) == [9, 12, 15, 18]


def test_a_reader_of_what_is_unknown_is_unknown() -> None:
    found = foreseen(
        callback("validation", every(epochs=1), writes=["loss"]),
        callback("best", on_improvement("loss", mode="min"), writes=["score"]),
        READER,
    )
    best, reader = found["best"], found["reader"]
    assert (best.count, list(best.possible), best.unknown) == (None, [5, 10, 15, 20], ("loss",))
    assert (ticks(best), ticks(reader)) == ([], [])
    assert (reader.count, reader.unknown) == (None, ("score",))
    assert list(reader.possible) == [6, 9, 12, 15, 18]


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("every(updates=5) | every(hours=1)", ("the clock",)),
        ("every(tokens=10) & after(minutes=3)", ("tokens", "the clock")),
        ('cooldown(when("loss"), seconds=9)', ("loss", "the clock")),
        ("first(2, every(updates=5, start=3))", ()),
    ],
)
def test_what_decides_is_named(text: str, unknown: tuple[str, ...]) -> None:
    writer = callback("validation", every(epochs=1), writes=["loss"])
    found = foreseen(writer, callback("x", parse(text)))["x"]
    assert found.unknown == unknown
    assert (found.count is None) == bool(unknown)


def test_a_mark_of_time_passes_no_boundary() -> None:
    found = foreseen(callback("x", every(hours=1) | once_at_end))["x"]
    assert list(found.possible) == list(range(1, 21))
    assert (found.possible.opening, found.possible.closing) == (False, True)
    assert not found.sure.closing  # the clock may have fired at the last update


def test_a_callback_without_a_scheduled_hook_fires_never() -> None:
    found = foreseen(callback("w", after_update=nothing))["w"]
    assert (found.count, found.unknown) == (0, ())


def test_metrics_of_a_tick_may_wake_a_hook_only_where_they_are_produced() -> None:
    found = foreseen(
        callback("validation", every(epochs=2), writes=["loss"]),
        callback("x", when("loss", "<", 1) & parse("after(epochs=2)")),
    )["x"]
    assert list(found.possible) == [20]
