"""Trackers have every tick once, whatever ended the process."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.group import ROOT
from tests.trackers.runs import (
    CLOSING,
    RARELY,
    READERS,
    logged,
    made,
    near,
    of_csv,
    trackio_folder,
    train,
)

pytestmark = pytest.mark.filterwarnings("default")  # what the libraries are warned of is theirs

VICTIM = """
import os, signal, sys
import noether
from noether import Callback, every, hooks, trackers
from tests.strategies import net, samples, sgd, squared_error
def end(state):
    if state.now.update == 3:
        os.kill(os.getpid(), signal.SIGTERM)
noether.train(net(), samples(40), loss=squared_error, optimizer=sgd, until={"updates": 9},
    batch_size=4, defaults=False, run_dir=sys.argv[1], trackers=[trackers.csv()],
    callbacks=[every(updates=1)(hooks.online_loss()), Callback("end", after_update=end)])
"""


def test_a_signal_leaves_nothing_untold(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, str(tmp_path)], env=environment, timeout=60
    )
    assert done.returncode == 75
    assert of_csv(tmp_path / "1") == logged(tmp_path / "1")
    summary = json.loads((tmp_path / "1" / "trackers" / "metrics.summary.json").read_text())
    assert summary["state"] == "preempted"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


KILLED = """
import os, signal, sys, time
from pathlib import Path
from noether import Callback, every, hooks
from tests.trackers.runs import RARELY, READERS, made, train
series = Path(sys.argv[1])
def end(state):
    if state.now.update == 7:
        time.sleep(float(sys.argv[2]))  # the time that theirs need, in processes of their own
        os.kill(os.getpid(), signal.SIGKILL)
train(series, RARELY, Callback("end", before_update=end), until={"updates": 9},
    trackers=[made(name, series) for name in READERS])
"""


@pytest.fixture(scope="module", params=[0, 2], ids=["at once", "later"])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose process was killed in its seventh update, gone on with from its fourth."""
    series = tmp_path_factory.mktemp("killed")
    # Its W&B is not served by this process's, which would outlive it.
    environment = {n: v for n, v in os.environ.items() if n != "WANDB_SERVICE"}
    environment["PYTHONPATH"] = str(ROOT)
    victim = [sys.executable, "-c", KILLED, str(series), str(request.param)]
    done = subprocess.run(victim, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    tracked = [made(name, series) for name in READERS]
    train(series, RARELY, until={"updates": 9}, trackers=tracked, resume="auto")
    return series / "1"


@pytest.mark.parametrize("name", READERS)
def test_what_a_kill_catches_on_its_way_is_tracked_once(name: str, killed: Path) -> None:
    found = READERS[name](killed)
    assert [at for at, _ in found] == list(range(1, 10))
    assert near(found, logged(killed))


ENDING = """
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path
from noether import Callback, Log, tracking
from tests.trackers.runs import CLOSING, made, train
series = Path(sys.argv[1])
def slow(tracker):
    def log(handle, line):
        time.sleep(0.3)
        tracker.log(handle, line)
    return replace(tracker, log=log)
tracking.finish = lambda senders, state: os.kill(os.getpid(), signal.SIGKILL)
final = Callback("final", after_training=lambda state: Log({"final": 1.0}))
tracked = [slow(made(name, series)) for name in sys.argv[2:]]
train(series, CLOSING, final, trackers=tracked)
"""


def test_a_run_killed_while_its_trackers_end_is_tracked_to_its_end(tmp_path: Path) -> None:
    names, environment = ["csv", "mlflow"], {**os.environ, "PYTHONPATH": str(ROOT)}
    victim = [sys.executable, "-c", ENDING, str(tmp_path), *names]
    done = subprocess.run(victim, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    tracked = [made(name, tmp_path) for name in names]
    train(tmp_path, CLOSING, trackers=tracked, resume="auto")
    for name in names:
        found = READERS[name](tmp_path / "1")
        assert [at for at, _ in found] == list(range(1, 7)), name
        assert READERS[name](tmp_path / "1", "final") == [(6, 1.0)], name


# ---------------------------------------------------------------- killed at random

SLOWLY = """
import sys, time
from pathlib import Path
from noether import Callback
from tests.trackers.runs import RARELY, READERS, made, train
series = Path(sys.argv[1])
train(series, RARELY, Callback("slow", after_update=lambda state: time.sleep(0.02)),
    until={"updates": 60}, trackers=[made(name, series) for name in READERS], resume="auto")
"""
KILLS = int(os.environ.get("NOETHER_KILLS", "50")) // 10
"""Runs that are killed again and again; a nightly run sets more."""
SEED = int(os.environ.get("NOETHER_SEED", random.SystemRandom().randrange(10**6)))


def started(series: Path, folder: Path) -> subprocess.Popen[bytes]:
    environment = {n: v for n, v in os.environ.items() if n != "WANDB_SERVICE"}
    environment |= {"PYTHONPATH": str(ROOT), "TRACKIO_DIR": str(trackio_folder())}
    with open(folder / "said", "ab") as said:
        command = [sys.executable, "-c", SLOWLY, str(series)]
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said)


@pytest.mark.deep
@pytest.mark.timeout(60 + 40 * KILLS)
@pytest.mark.parametrize("number", range(KILLS))
def test_runs_killed_at_random_moments_are_tracked_once(number: int, tmp_path: Path) -> None:
    chance, series = random.Random(SEED + number), tmp_path / f"runs{SEED + number}"
    print(f"NOETHER_SEED={SEED + number}")
    for _ in range(chance.randint(1, 3)):
        process = started(series, tmp_path)
        journal = series / "1" / "journal.jsonl"
        before = journal.stat().st_size if journal.exists() else 0
        while process.poll() is None and not (journal.exists() and journal.stat().st_size > before):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.5))
        process.kill()
        process.wait()
    process = started(series, tmp_path)
    assert process.wait() == 0, (tmp_path / "said").read_text()
    for name, reader in READERS.items():
        found = reader(series / "1")
        assert [at for at, _ in found] == list(range(1, 61)), name
        assert near(found, logged(series / "1")), name
