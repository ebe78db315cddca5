import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import noether
from noether import (
    Callback,
    DataPass,
    HookError,
    Log,
    Preempted,
    TrainState,
    at,
    every,
    hooks,
    once_at_end,
)
from noether.checkpoint import newest
from noether.journal import read
from noether.rundir import read_status, runs
from tests.scripts import small
from tests.strategies import net, samples, sgd, squared_error

ROOT = Path(__file__).parent.parent


def train(series: Path | None, *callbacks: Callback, **options: Any) -> TrainState:
    given = {"until": {"updates": 6}, "batch_size": 4, "defaults": False, **options}
    return noether.train(
        net(),
        samples(12),
        loss=squared_error,
        optimizer=sgd,
        callbacks=callbacks,
        datasets={"val": samples(6)},
        run_dir=series,
        **given,
    )


def sending(number: int, hook: str, update: int, **more: Any) -> Callback:
    """A callback that sends its own process a signal, in each passage of `update` by `hook`."""

    def send(state: TrainState) -> None:
        if state.now.update == update:
            signal.raise_signal(number)

    fields: dict[str, Any] = {"name": "sending", hook: send, **more}
    return Callback(**fields)


def committed(series: Path) -> int:
    found = newest(runs(series)[0] / "checkpoints")
    assert found is not None
    return int(found.manifest.progress["update"])


ENDS = [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)]


@pytest.mark.parametrize(("number", "error"), ENDS)
@pytest.mark.parametrize(
    ("hook", "at_update", "update"),
    [
        ("before_training", 0, 0),
        ("after_accumulation_step", 2, 3),
        ("before_update", 3, 3),
        ("after_update", 3, 3),
        ("after_epoch", 3, 3),
        ("on_schedule", 3, 3),
    ],
)
def test_a_signal_ends_the_run_after_its_tick_with_a_checkpoint(
    tmp_path: Path, number: int, error: type[BaseException], hook: str, at_update: int, update: int
) -> None:
    seen: list[tuple[str, int]] = []
    notes: dict[str, Any] = {
        name: lambda s, name=name: seen.append((name, s.now.update))
        for name in ("after_update", "after_training", "on_exception")
    }
    with pytest.raises(error) as caught:
        train(tmp_path, sending(number, hook, at_update), Callback("note", **notes))
    if error is Preempted:
        assert caught.value.code == 75  # type: ignore[attr-defined]
    assert committed(tmp_path) == update
    assert seen == [
        *(("after_update", k) for k in range(1, update + 1)),
        ("after_training", update),
    ]
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("preempted", update)
    assert status["reason"] == signal.Signals(number).name
    assert "end" not in [row["tick"] for row in read(tmp_path / "1" / "journal.jsonl")]


def test_a_signal_in_the_last_update_lets_the_run_be_done(tmp_path: Path) -> None:
    final = train(tmp_path, sending(signal.SIGTERM, "before_update", 6))
    assert final.now.update == 6
    assert read_status(tmp_path / "1")["state"] == "done"


def test_a_signal_without_a_run_directory_still_ends_the_run() -> None:
    seen: list[int] = []
    with pytest.raises(Preempted):
        train(
            None,
            sending(signal.SIGTERM, "after_update", 2),
            Callback("note", after_update=lambda s: seen.append(s.now.update)),
        )
    assert seen == [1, 2]


def evaluating(signals: int, seen: list[int]) -> Callback:
    """A pass over three batches, the first of which sends SIGINTs."""

    def process(model: Any, batch: Any) -> dict[str, Any]:
        seen.append(len(seen))
        if len(seen) == 1:
            for _ in range(signals):
                signal.raise_signal(signal.SIGINT)
        return {"x": batch[0].sum()}

    return Callback(
        "evaluating",
        on_schedule=lambda s: Log({"x": float(s.results["x"])}),
        schedule=at(updates=3),
        data=DataPass("val", process, "sum", batch_size=2),
        writes=("x",),
    )


def test_a_pass_under_way_is_finished_after_one_signal(tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, evaluating(1, seen), hooks.checkpoint(schedule=at(updates=2)))
    assert seen == [0, 1, 2]
    assert committed(tmp_path) == 3
    assert [row["metrics"] for row in read(tmp_path / "1/journal.jsonl") if row["update"] == 3] == [
        {"x": pytest.approx(float(samples(6).inputs.sum()), abs=1e-5)}
    ]


def test_a_second_signal_abandons_the_pass_and_the_last_commit_counts(tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, evaluating(2, seen), hooks.checkpoint(schedule=at(updates=2)))
    assert seen == [0]
    assert committed(tmp_path) == 2
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("preempted", 2)
    final = train(tmp_path, evaluating(0, []), hooks.checkpoint(), resume="auto")
    assert final.now.update == 6


def test_an_error_in_a_closing_hook_after_a_signal_runs_each_of_them_once(tmp_path: Path) -> None:
    seen: list[str] = []

    def fail(state: TrainState) -> None:
        seen.append("after_training")
        raise ValueError("at the end")

    with pytest.raises(HookError, match="at the end"):
        train(
            tmp_path,
            sending(signal.SIGTERM, "after_update", 2),
            Callback(
                "fail", after_training=fail, on_exception=lambda s: seen.append("on_exception")
            ),
        )
    assert sorted(seen) == ["after_training", "on_exception"]
    assert committed(tmp_path) == 2


def test_a_foreign_handler_is_called_and_put_back(tmp_path: Path) -> None:
    called: list[int] = []

    def handler(number: int, frame: Any) -> None:
        called.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Preempted):
            train(tmp_path, sending(signal.SIGTERM, "after_update", 2))
        assert called == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("how", ["done", "failed", "preempted", "refused"])
def test_handlers_are_put_back_however_the_run_ends(tmp_path: Path, how: str) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    try:
        train(
            tmp_path,
            sending(signal.SIGTERM, "after_update", 2 if how == "preempted" else 99),
            Callback("fail", after_update=lambda s: 1 / 0 if how == "failed" else None),
            until={"updates": -1} if how == "refused" else {"updates": 6},
        )
    except (Preempted, HookError, ValueError):
        assert how != "done"
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_run_in_a_thread_leaves_signals_to_the_main_thread(tmp_path: Path) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    finals: list[TrainState] = []
    try:
        kill = Callback("kill", after_update=lambda s: os.kill(os.getpid(), signal.SIGTERM))
        thread = threading.Thread(target=lambda: finals.append(train(tmp_path, kill)))
        thread.start()
        thread.join(60)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [final.now.update for final in finals] == [6]
    assert got


# ---------------------------------------------------------------- processes


@contextmanager
def process(series: Path, resume: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "tests.scripts.small",
        str(series),
        resume,
        json.dumps(options),
    ]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def wait_for(condition: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    """Until the condition holds or the process has ended; fails after a minute."""
    deadline = time.monotonic() + 60
    while not condition() and child.poll() is None:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def updates_told(series: Path) -> int:
    """The last update in the journal of the only run; -1 before there is any."""
    path = series / "1" / "journal.jsonl"
    return max((row["update"] for row in read(path)), default=-1) if path.exists() else -1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """What the unbroken run comes to, and its series."""
    series = tmp_path_factory.mktemp("whole")
    return small.run(series, "never"), series


def told(series: Path) -> list[Any]:
    return [
        {key: row[key] for key in row if key not in ("session", "seconds")}
        for row in read(series / "1" / "journal.jsonl")
        if row["tick"] != "start"
    ]


def test_a_run_killed_again_and_again_ends_as_the_unbroken_one(
    tmp_path: Path, whole: tuple[Any, Path]
) -> None:
    seed = int(os.environ.get("NOETHER_SEED", random.SystemRandom().randrange(10**6)))
    print(f"NOETHER_SEED={seed}")
    chance = random.Random(seed)
    kills, last = 0, 0
    for _ in range(20):
        target = updates_told(tmp_path) + chance.randint(1, 90)
        with process(tmp_path, "auto") as child:
            if kills < 5:
                wait_for(lambda target=target: updates_told(tmp_path) >= target, child)  # type: ignore[misc]
                child.kill()
            output, errors = child.communicate(timeout=60)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, errors
        kills += 1
        reached = updates_told(tmp_path)
        found = newest(tmp_path / "1" / "checkpoints")
        committed = 0 if found is None else found.manifest.update
        assert reached - committed <= 6, "more than one interval lost"
        assert committed >= last
        last = committed
        assert read_status(tmp_path / "1")["state"] == "running"
    assert kills >= 3
    assert json.loads(output.splitlines()[-1]) == whole[0]
    assert told(tmp_path) == told(whole[1])
    assert [run.name for run in runs(tmp_path)] == ["1"]
    assert read_status(tmp_path / "1")["state"] == "done"


def test_after_a_kill_the_status_names_the_last_committed_update(tmp_path: Path) -> None:
    with process(tmp_path, "auto", kill_at=13, save=4) as child:
        child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert committed(tmp_path) == 12
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("running", 12)


@pytest.mark.parametrize(
    ("number", "codes"),
    [(signal.SIGTERM, [75]), (signal.SIGINT, [130, -signal.SIGINT])],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signalled_process_ends_with_its_code_and_goes_on_to_the_same_end(
    tmp_path: Path, whole: tuple[Any, Path], number: int, codes: list[int]
) -> None:
    target = random.SystemRandom().randint(1, 150)
    print(f"signalled at update {target}")
    with process(tmp_path, "auto") as child:
        wait_for(lambda: updates_told(tmp_path) >= target, child)
        child.send_signal(number)
        _, errors = child.communicate(timeout=60)
    status = read_status(tmp_path / "1")
    assert status["state"] == "preempted"
    assert status["update"] == committed(tmp_path) == updates_told(tmp_path)
    assert status["reason"] == signal.Signals(number).name
    assert small.run(tmp_path, "must") == whole[0]
    assert told(tmp_path) == told(whole[1])
    assert child.returncode in codes, errors


def test_two_processes_cannot_have_one_run_directory(tmp_path: Path) -> None:
    with process(tmp_path, "auto", updates=10**6) as child:
        wait_for(lambda: updates_told(tmp_path) >= 20, child)
        with pytest.raises(noether.RunLockedError, match=rf"pid {child.pid}\b"):
            small.run(tmp_path, "auto", updates=10)
        assert read_status(tmp_path / "1")["pid"] == child.pid
        fresh = small.run(tmp_path, "never", updates=10)
        child.kill()
        child.communicate()
    assert fresh["update"] == 10
    assert [run.name for run in runs(tmp_path)] == ["2", "1"]
    ended = small.run(tmp_path, str(tmp_path / "1"), updates=1, save=10**6)
    assert ended["update"] == committed_of(tmp_path / "1") >= 15


def committed_of(run: Path) -> int:
    found = newest(run / "checkpoints")
    assert found is not None
    return int(found.manifest.progress["update"])


def test_a_save_under_way_is_finished_when_signals_come(tmp_path: Path) -> None:
    # Two of them, in the very tick that saves: the commit stands, the run is over.
    def twice(state: TrainState) -> None:
        if state.now.update == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(
            tmp_path,
            Callback("twice", after_update=twice),
            hooks.checkpoint(schedule=every(updates=1) | once_at_end),
        )
    assert committed(tmp_path) == read_status(tmp_path / "1")["update"] == 3
