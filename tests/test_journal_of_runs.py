from pathlib import Path
from typing import Any

import pytest

import noether
from noether import Callback, HookError, Log, Stop, TrainState, chain, every, hooks
from noether.journal import read
from tests.strategies import Clock, net, samples, sgd, squared_error

KEYS = ["tick", "epoch", "update", "sample", "seconds", "session", "metrics", "effects"]


def train(series: Path, *callbacks: Callback, **options: Any) -> TrainState:
    given = {"until": {"updates": 9}, "resume": "auto", **options}
    return noether.train(
        net(),
        samples(14),
        loss=squared_error,
        optimizer=sgd,
        batch_size=4,
        accumulate=2,
        callbacks=chain(
            hooks.checkpoint(schedule=every(updates=4)),
            Callback("count", after_update=lambda s: Log({"n": s.now.update}), writes=("n",)),
            *callbacks,
        ),
        run_dir=series,
        defaults=False,
        clock=Clock(),
        **given,
    )


def broken(series: Path, update: int) -> None:
    def fail(state: TrainState) -> None:
        if state.now.update == update:
            raise ValueError("broken off")

    with pytest.raises(HookError):
        train(series, Callback("fail", before_update=fail))


def journal(series: Path) -> list[dict[str, Any]]:
    return list(read(series / "1" / "journal.jsonl"))


def test_every_row_has_every_key_and_true_counts(tmp_path: Path) -> None:
    train(tmp_path)
    rows = journal(tmp_path)
    assert all(list(row) == KEYS for row in rows)
    assert [row["tick"] for row in rows] == ["start", *["update"] * 9, "end"]
    ends = [4, 8, 12, 14, 18, 22, 26, 28, 32]
    assert [row["sample"] for row in rows] == [0, *ends, 32]
    assert [row["epoch"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert seconds[0] == 0 < seconds[1]


def test_a_resume_cuts_the_journal_back_and_leaves_no_doubles(tmp_path: Path) -> None:
    broken(tmp_path, 7)
    assert [row["update"] for row in journal(tmp_path)] == [0, 1, 2, 3, 4, 5, 6]
    train(tmp_path)
    rows = journal(tmp_path)
    assert [(row["tick"], row["update"], row["session"]) for row in rows] == [
        *(("start", 0, 1), *(("update", k, 1) for k in range(1, 5))),
        *(("start", 4, 2), *(("update", k, 2) for k in range(5, 10)), ("end", 9, 2)),
    ]
    assert [row["metrics"].get("n") for row in rows if row["tick"] == "update"] == list(
        range(1, 10)
    )


def test_each_of_many_sessions_has_its_own_opening_row(tmp_path: Path) -> None:
    for update in (6, 6, 7, 8):
        broken(tmp_path, update)
    broken(tmp_path, 9)
    train(tmp_path)
    rows = journal(tmp_path)
    updates = [row["update"] for row in rows if row["tick"] == "update"]
    assert updates == list(range(1, 10))
    starts = [(row["update"], row["session"]) for row in rows if row["tick"] == "start"]
    # Sessions 2 to 4 broke off between update 4 and 8 and left nothing behind them.
    assert starts[0] == (0, 1)
    assert [update for update, _ in starts] == sorted(update for update, _ in starts)
    assert [row["tick"] for row in rows].count("end") == 1


@pytest.mark.parametrize("torn", [b'{"tick": "upd', b"\x00\xff", b"{}"])
def test_a_torn_last_line_is_passed_over_and_cut_off(tmp_path: Path, torn: bytes) -> None:
    broken(tmp_path, 7)
    path = tmp_path / "1" / "journal.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    assert [row["update"] for row in journal(tmp_path)] == [0, 1, 2, 3, 4, 5, 6]
    train(tmp_path)
    assert [row["update"] for row in journal(tmp_path) if row["tick"] == "update"] == [
        *range(1, 10)
    ]


def test_a_journal_that_is_lost_does_not_stop_the_run(tmp_path: Path) -> None:
    broken(tmp_path, 7)
    (tmp_path / "1" / "journal.jsonl").unlink()
    assert train(tmp_path).now.update == 9
    assert [row["update"] for row in journal(tmp_path)] == [4, 5, 6, 7, 8, 9, 9]


def test_a_stop_has_its_reason_and_who_asked(tmp_path: Path) -> None:
    stop = Callback("mine", after_update=lambda s: Stop("enough") if s.now.update == 3 else None)
    train(tmp_path, stop)
    (row,) = [row for row in journal(tmp_path) if row["tick"] == "update" and row["update"] == 3]
    (effect,) = [effect for effect in row["effects"] if effect["kind"] == "stop"]
    assert (effect["by"], effect["reason"]) == ("mine", "enough")


def test_numbers_that_are_not_finite_are_strings(tmp_path: Path) -> None:
    values = {1: float("nan"), 2: float("inf"), 3: float("-inf")}
    odd = Callback(
        "odd", after_update=lambda s: Log({"odd": values.get(s.now.update, 1.0)}), writes=("odd",)
    )
    train(tmp_path, odd)
    told = [row["metrics"]["odd"] for row in journal(tmp_path) if row["tick"] == "update"]
    assert told == ["nan", "inf", "-inf", *[1.0] * 6]


def test_a_save_is_told_in_the_row_of_its_tick(tmp_path: Path) -> None:
    train(tmp_path)
    saves = [
        (row["update"], effect["by"], effect["tag"])
        for row in journal(tmp_path)
        for effect in row["effects"]
        if effect["kind"] == "save"
    ]
    assert saves == [(4, "checkpoint", "last"), (8, "checkpoint", "last")]


def test_seconds_go_on_over_a_resume(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    broken(tmp_path / "broken", 7)
    train(tmp_path / "broken")

    def seconds(series: Path) -> list[float]:
        return [row["seconds"] for row in journal(series) if row["tick"] == "update"]

    assert seconds(tmp_path / "broken") == seconds(tmp_path / "whole")
