"""Rows 1 and 42: processes that are killed at random moments, and several in one series."""

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from noether import RunLockedError
from noether.checkpoint import newest
from noether.rundir import read_status, runs
from tests.faults.runs import (
    Ended,
    assert_each_sample_once,
    assert_same_state,
    broken,
    train,
)


def forked(action: Callable[[], object]) -> int:
    """A fork of this process that does it; its exit code is 1 where it raises."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return train(tmp_path_factory.mktemp("whole"))


# ---------------------------------------------------------------- killed at random

KILLS = int(os.environ.get("NOETHER_KILLS", "50"))
"""Runs that are killed again and again; a nightly run sets more."""
SEED = int(os.environ.get("NOETHER_SEED", random.SystemRandom().randrange(10**6)))


@pytest.mark.deep
@pytest.mark.timeout(60 + 5 * KILLS)
def test_a_run_that_is_killed_at_random_moments_comes_to_the_unbroken_end(
    tmp_path: Path, whole: Ended
) -> None:
    # Row 1: no kill loses more than an interval.
    print(f"NOETHER_SEED={SEED}")
    survived = 0
    for number in range(KILLS):
        chance = random.Random(SEED + number)
        series, last = tmp_path / str(number), 0
        for _ in range(chance.randint(1, 5)):
            child = forked(partial(train, series))
            time.sleep(chance.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
            survived += ended(child) == -signal.SIGKILL
            reached = committed(series)
            assert reached >= last
            last = reached
        if state(series) != "done":
            final = train(series)
            assert_same_state(final, whole)
            assert_each_sample_once(final)
        assert [run.name for run in runs(series)] == ["1"]
    print(f"{survived} kills survived without a lost run")
    assert survived > KILLS / 2


def committed(series: Path) -> int:
    found = newest(runs(series)[0] / "checkpoints") if runs(series) else None
    return 0 if found is None else found.manifest.update


def state(series: Path) -> object:
    return read_status(runs(series)[0]).get("state") if runs(series) else None


# ---------------------------------------------------------------- several at once


def test_fresh_starts_at_the_same_time_get_runs_of_their_own(tmp_path: Path, whole: Ended) -> None:
    # Row 42.
    children = [forked(partial(train, tmp_path, resume="never")) for _ in range(4)]
    assert [ended(child) for child in children] == [0] * 4
    assert sorted(run.name for run in runs(tmp_path)) == ["1", "2", "3", "4"]
    assert {read_status(run)["state"] for run in runs(tmp_path)} == {"done"}
    for run in runs(tmp_path):
        assert_same_state(Ended(whole.final, whole.weights, whole.optimizer, run), whole)


def only_one(series: Path, told: Path) -> None:
    """Resume, and keep the run until it is done; or tell by whom it is kept."""
    try:
        train(series)
    except RunLockedError as error:
        told.write_text(str(error))
        os._exit(3)


def test_of_several_that_resume_one_run_one_does_and_the_others_name_it(
    tmp_path: Path, whole: Ended
) -> None:
    # Row 42. Who comes when it is done already is told that.
    broken(tmp_path / "series", 3)
    told = [tmp_path / str(number) for number in range(5)]
    children = [forked(partial(only_one, tmp_path / "series", path)) for path in told]
    codes = [ended(child) for child in children]
    assert set(codes) <= {0, 3}
    assert 0 in codes
    for path, code in zip(told, codes, strict=True):
        assert path.exists() == (code == 3)
        if code == 3:
            text = path.read_text()
            owners = [f"pid {child} on {os.uname().nodename}" for child in children]
            refusals = [f"in use by {owner}" for owner in (*owners, "another process")]
            assert any(words in text for words in (*refusals, "ended by another process"))
    assert [run.name for run in runs(tmp_path / "series")] == ["1"]
    (run,) = runs(tmp_path / "series")
    assert_same_state(Ended(whole.final, whole.weights, whole.optimizer, run), whole)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pid 1 on another-host\n",
        f"pid {2**22 + 1} on {os.uname().nodename}\n",
        "\0\xff nonsense",
    ],
    ids=["empty", "another host", "dead", "nonsense"],
)
def test_a_lock_that_nobody_holds_stops_nobody(tmp_path: Path, whole: Ended, text: str) -> None:
    # Row 42.
    broken(tmp_path, 5)
    (tmp_path / "1" / ".lock").write_text(text, encoding="latin-1")
    assert_same_state(train(tmp_path), whole)


def test_the_lock_of_a_process_that_was_killed_stops_nobody(tmp_path: Path, whole: Ended) -> None:
    # Row 42.
    broken(tmp_path, 5)
    child = forked(partial(train, tmp_path, until={"updates": 10**6}))
    deadline = time.monotonic() + 60
    while committed_by_status(tmp_path) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with pytest.raises(RunLockedError, match=f"in use by pid {child} on"):
        train(tmp_path)
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    ending = train(tmp_path, until={"updates": 1})
    assert ending.final.now.update == committed(tmp_path) >= 8
    assert ending.served[:30] == whole.served[:30]  # the samples of eight updates


def committed_by_status(series: Path) -> int:
    return int(read_status(series / "1").get("update") or 0)
