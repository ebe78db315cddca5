"""Trackers have every tick once, whatever ended the process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.group import ROOT
from tests.trackers.runs import RARELY, READERS, logged, made, near, of_csv, train

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
