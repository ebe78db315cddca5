import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import noether
from noether import Callback, CheckpointError, ConfigurationError, HookError, TrainState, every
from noether import hooks as built_in
from noether.checkpoint import find, newest
from noether.checkpoint.manifest import read_manifest, sealed
from noether.checkpoint.retention import prune
from noether.cli import main
from noether.inspection import Checkpoint, InspectedRun, InspectedSeries, sound, text
from noether.journal import open_journal
from noether.rundir import lock, new_run, owner, write_status
from noether.storage import aside_suffix
from tests.command import ROOT, in_process
from tests.strategies import net, samples, sgd, squared_error

TAG = "best_model.loss.val.total"


def train(series: Path, *callbacks: Callback, **options: Any) -> Path:
    """Eight updates, a checkpoint every second, and the best; gives the run directory."""
    given = {"until": {"updates": 8}, "batch_size": 4, "defaults": False, **options}
    noether.train(
        net(),
        samples(12),
        loss=squared_error,
        optimizer=sgd,
        callbacks=noether.chain(
            built_in.checkpoint(schedule=every(updates=2), keep_last=3),
            every(updates=3)(built_in.offline_loss(dataset="val")),
            built_in.best_checkpoint(metric="loss/val/total"),
            *callbacks,
        ),
        datasets={"val": samples(6)},
        run_dir=series,
        **given,
    )
    return series / "1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series with one run that is done, not to be touched."""
    series = tmp_path_factory.mktemp("inspection") / "series"
    train(series)
    return series


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    shutil.copytree(made, tmp_path / "series")
    return tmp_path / "series" / "1"


def inspected(path: Path, **options: Any) -> InspectedRun:
    found = noether.inspect(path, **options)
    assert isinstance(found, InspectedRun)
    return found


def names(found: InspectedRun) -> list[str]:
    return [each.path.name for each in found.checkpoints]


def valid(found: InspectedRun) -> list[str]:
    return [each.path.name for each in found.checkpoints if each.valid]


def rewrite(checkpoint: Path, **changes: Any) -> None:
    """Forge the manifest, with a digest that fits."""
    content = {**read_manifest(checkpoint).content, **changes}
    (checkpoint / "manifest.json").write_text(sealed(content))


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


# ---------------------------------------------------------------- what a run tells


def test_a_run_is_told_as_its_files_say(made: Path) -> None:
    run, folder = made / "1", made / "1/checkpoints"
    found = inspected(run)
    status = json.loads((run / "status.json").read_text())
    assert (found.state, found.update, found.reason) == ("done", 8, status["reason"])
    assert found.heartbeat == status["heartbeat"]
    assert found.journal is not None
    assert found.journal.rows == len((run / "journal.jsonl").read_bytes().splitlines())
    assert (found.journal.torn, found.journal.damaged) == (False, None)
    assert found.until == {"updates": 8}
    assert found.progress is not None
    assert (found.progress.update, found.progress.epoch, found.progress.sample) == (8, 2, 32)
    there = sorted(folder.glob("step-*"), key=lambda path: -int(path.name[5:]))
    assert len(there) == 4
    assert names(found) == valid(found) == [path.name for path in there]
    assert [each.latest for each in found.checkpoints] == [True, False, False, False]
    for each, path in zip(found.checkpoints, there, strict=True):
        manifest = json.loads((path / "manifest.json").read_text())
        assert each.bytes == sum(file.stat().st_size for file in path.iterdir())
        assert each.files == {n: r["bytes"] for n, r in manifest["files"].items()}
        assert (each.update, each.progress.sample) == (manifest["update"], 4 * manifest["update"])
        assert each.committed == manifest["committed"]
        assert 0 <= (path / "manifest.json").stat().st_mtime - manifest["committed"] < 5
        assert [c.tag for c in each.claims] == [c["tag"] for c in manifest["claims"]]
    assert found.bytes == sum(each.bytes for each in found.checkpoints)


def test_the_best_is_the_one_that_asking_for_it_finds(made: Path) -> None:
    found = inspected(made / "1")
    best = find(made / "1/checkpoints", "best")
    assert best is not None
    [kept] = found.best
    assert (kept.tag, kept.checkpoint) == (TAG, best.directory.name)
    values = {c.tag: c.value for c in best.manifest.claims}
    assert kept.value == values[TAG]
    assert [each.path.name for each in found.checkpoints if each.best] == [best.directory.name]


def test_a_manifest_that_says_when_is_believed(run: Path) -> None:
    rewrite(run / "checkpoints/step-8", committed=1.5e9)
    rewrite(run / "checkpoints/step-6", committed=None)
    first, second, *_ = inspected(run).checkpoints
    assert (first.committed, first.committed_by) == (1.5e9, "manifest")
    assert second.committed_by == "modification time"


def fail(state: TrainState) -> None:
    if state.now.update == 5:
        raise ValueError("broken off")


def preempt(state: TrainState) -> None:
    if state.now.update == 5:
        signal.raise_signal(signal.SIGTERM)


def test_a_run_that_failed_and_one_that_was_preempted_tell_why(tmp_path: Path) -> None:
    with pytest.raises(HookError):
        train(tmp_path / "a", Callback("fail", before_update=fail))
    with pytest.raises(noether.Preempted):
        train(tmp_path / "b", Callback("preempt", after_update=preempt))
    failed, preempted = inspected(tmp_path / "a/1"), inspected(tmp_path / "b/1")
    assert (failed.state, failed.update) == ("failed", 4)
    assert "broken off" in str(failed.reason)
    assert failed.resume.says == "from step-4, update 4"
    assert (preempted.state, preempted.reason) == ("preempted", "SIGTERM")
    assert preempted.resume.says == "from step-5, update 5"
    assert preempted.checkpoints[0].claims[-1].tag == "preempted"


def small(series: Path, **options: Any) -> "subprocess.Popen[bytes]":
    """A run in a process of its own."""
    command = [sys.executable, "-m", "tests.scripts.small", str(series), "never"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, json.dumps(options)], env=variables, cwd=ROOT, stdout=subprocess.DEVNULL
    )


def test_a_killed_run_is_told_from_a_running_one(tmp_path: Path) -> None:
    with small(tmp_path, kill_at=12) as process:
        assert process.wait(60) == -signal.SIGKILL
    found = inspected(tmp_path / "1")
    assert (found.state, found.update) == ("running", 10)
    assert found.owner is not None
    assert (found.owner.pid, found.owner.owns) == (process.pid, False)
    assert found.owner.host == socket.gethostname()
    assert "running at update 10, but its process is gone" in text(found, 1000)
    assert found.resume.says == "from step-10, update 10"


def test_it_works_while_a_process_trains_and_prunes_in_it(tmp_path: Path) -> None:
    seen: list[InspectedRun] = []
    with small(tmp_path, updates=50, save=1) as process:
        while process.poll() is None:
            if (tmp_path / "1/checkpoints").is_dir():
                seen.append(inspected(tmp_path / "1"))
    assert process.returncode == 0
    assert all(each.valid for found in seen for each in found.checkpoints)
    assert all(each.notes == () for each in seen)
    held = [found for found in seen if found.owner is not None and found.owner.owns]
    assert held
    assert {found.owner.pid for found in held if found.owner} == {process.pid}
    first = next(k for k, found in enumerate(seen) if found.checkpoints)
    assert all(found.checkpoints for found in seen[first:])
    assert len({found.checkpoints[0].update for found in seen[first:]}) > 2
    late = [found for found in held if found.checkpoints and found.state == "running"]
    assert all(found.resume.says.startswith("refused while pid") for found in late)
    last = inspected(tmp_path / "1")
    assert (last.state, last.owner and last.owner.owns) == ("done", False)


def test_the_age_of_a_heartbeat_is_by_the_clock_that_is_given(run: Path) -> None:
    write_status(run, state="running", heartbeat=1000.0)
    assert inspected(run, clock=lambda: 1012.5).heartbeat_age == 12.5
    assert "12 s ago" in text(inspected(run, clock=lambda: 1012.0), 100)


def test_a_torn_and_a_damaged_journal_are_told(run: Path) -> None:
    path = run / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + lines[-1][:7])
    found = inspected(run).journal
    assert found is not None
    assert (found.rows, found.torn, found.damaged) == (len(lines), True, None)
    path.write_bytes(lines[0] + b"\0\n" + b"".join(lines[2:]))
    shown = text(inspected(run), 1000)
    assert f"rows: {len(lines) - 1}; line 2 is damaged" in shown


# ---------------------------------------------------------------- who owns it


HOLD = """
import sys
from pathlib import Path
from noether.rundir import lock
held = lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_owner_is_told_while_it_lives_and_no_longer(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert owner(run) is None
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        held = owner(run)
        process.kill()
    ended = owner(run)
    assert held is not None
    assert ended is not None
    assert (held.pid, held.owns, ended.pid, ended.owns) == (process.pid, True, process.pid, False)


def test_a_process_number_that_is_used_again_is_no_owner(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    lock(run).release()
    found = owner(run)
    assert found is not None
    assert (found.pid, found.owns) == (os.getpid(), False)


def test_of_an_owner_on_another_host_nothing_is_claimed(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    (run / ".lock").write_text(f"pid {os.getpid()} on elsewhere\n")
    found = owner(run)
    assert found is not None
    assert (found.host, found.owns) == ("elsewhere", None)
    assert "elsewhere can't be asked from here" in text(inspected(run), 1000)


@pytest.mark.parametrize("content", [b"", b"pid", b"pid x on y\n", b"\xff\0", b"pid " + b"9" * 99])
def test_a_lock_that_says_nothing_is_nobodys(tmp_path: Path, content: bytes) -> None:
    run = new_run(tmp_path)
    (run / ".lock").write_bytes(content)
    assert owner(run) is None


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["weights.pt", "state.pt", "manifest.json"])
@pytest.mark.parametrize("quick", [False, True])
def test_a_file_that_is_cut_or_gone_is_named(run: Path, name: str, quick: bool) -> None:  # noqa: FBT001
    cut(run / "checkpoints/step-8" / name)
    found = inspected(run, quick=quick)
    assert valid(found) == names(found)[1:]
    assert name in str(found.checkpoints[0].reason)
    assert str(run) not in str(found.checkpoints[0].reason)
    if name != "manifest.json":
        (run / "checkpoints/step-8" / name).unlink()
        assert "No such file" in str(inspected(run, quick=quick).checkpoints[0].reason)


def test_one_whose_manifest_is_damaged_keeps_its_place(run: Path) -> None:
    before = names(inspected(run))
    flip(run / "checkpoints/step-6/manifest.json")
    found = inspected(run)
    assert names(found) == before
    assert [each.update for each in found.checkpoints if not each.valid] == [None]


def test_a_flipped_bit_is_seen_by_the_digests_and_not_by_the_sizes(run: Path) -> None:
    draw = random.Random(0)
    folder = run / "checkpoints/step-8"
    for name in ("weights.pt", "state.pt"):
        data = (folder / name).read_bytes()
        for _ in range(10):
            flip(folder / name, draw.random())
            close, quick = inspected(run), inspected(run, quick=True)
            assert close.checkpoints[0].reason == (
                f"{name} is damaged: its sha256 is not the manifest's"
            )
            assert quick.checkpoints[0].valid
            assert [each.verified for each in (close.checkpoints[0], quick.checkpoints[0])] == [
                True,
                False,
            ]
            (folder / name).write_bytes(data)
    assert valid(inspected(run)) == names(inspected(run))


def newer(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text(sealed({"format": 2, "unheard": "of"}))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "none": lambda path: None,
    "cut": lambda path: cut(path / "weights.pt"),
    "flipped": lambda path: flip(path / "state.pt"),
    "unreadable": lambda path: flip(path / "manifest.json"),
    "unsealed": lambda path: (path / "manifest.json").unlink(),
    "gone": shutil.rmtree,
    "set aside": lambda path: path.rename(path.with_name(f".bad-{path.name}")),
    "renamed": lambda path: path.rename(path.with_name(f"copy of {path.name}")),
    "half deleted": lambda path: path.rename(path.with_name(f".trash-{path.name}-ab")),
    "newer": newer,
}
COMBINED = random.Random(1).sample([*itertools.product(DAMAGES, repeat=4)], 60)


@pytest.mark.parametrize("damages", [*zip(*[DAMAGES] * 4, strict=True), *COMBINED])
def test_the_resume_takes_what_is_told_and_the_best_is_what_is_told(
    run: Path, damages: tuple[str, ...]
) -> None:
    write_status(run, state="failed")
    folder = run / "checkpoints"
    for name, checkpoint in zip(damages, sorted(folder.glob("step-*")), strict=True):
        DAMAGES[name](checkpoint)
    told = inspected(run)
    best, taken = dict.fromkeys(["best"]), None
    refused = told.resume.says.startswith("refused")
    with suppress(CheckpointError):
        best = {"best": find(folder, TAG)}
    assert [each.checkpoint for each in told.best] == [
        each.directory.name for each in best.values() if each
    ] or "newer" in damages
    try:
        taken = newest(folder)
    except CheckpointError:
        assert refused
        assert sound(told) == ("newer" in damages and bool(valid(told)))
        return
    assert not refused
    assert told.resume.checkpoint == (taken and taken.directory.name)
    assert sound(told)


def test_what_lies_beside_the_checkpoints_is_told_with_its_kind(run: Path) -> None:
    folder = run / "checkpoints"
    stray = f"step-9{aside_suffix()}"
    for name in (stray, ".trash-step-1-ab", "step-7", "site"):
        (folder / name).mkdir()
    (folder / stray / "weights.pt").write_bytes(b"12345")
    (folder / "site/manifest.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    flip(folder / "step-8/weights.pt")
    newest(folder)
    found = {each.name: (each.kind, each.bytes, each.reason) for each in inspected(run).leftovers}
    assert found.pop(".bad-step-8")[0] == "set aside"
    assert found == {
        stray: ("half written", 5, None),
        ".trash-step-1-ab": ("half deleted", 0, None),
        "step-7": ("foreign", 0, "it holds no manifest.json"),
        "site": ("foreign", 2, None),
        "notes.txt": ("foreign", 4, None),
    }
    shown = text(inspected(run), 200)
    assert "weights.pt is damaged: its sha256 is not the manifest's" in shown
    assert all(name in shown for name in found)


@pytest.mark.parametrize("name", ["step-99", "x" * 5000, "\0", "../../..", "/etc", "\x1b[2J"])
def test_a_pointer_that_leads_nowhere_is_told(run: Path, name: str) -> None:
    (run / "checkpoints/LATEST").write_text(f"{name}\n")
    found = inspected(run)
    assert found.notes == (
        f"LATEST names {name}, which is no checkpoint here; a resume ignores that",
    )
    assert not any(each.latest for each in found.checkpoints)


def test_a_checkpoint_that_is_pruned_while_it_is_read_is_just_gone(run: Path) -> None:
    folder = run / "checkpoints"
    gone: list[str] = []

    def prune_it(name: str, done: int, total: int) -> None:
        assert 0 < done <= total
        if name == "step-6" and not gone:
            gone.append(name)
            shutil.copytree(folder / "step-8", folder / "step-9")
            rewrite(folder / "step-9", name="step-9", update=9, serial=99)
            shutil.rmtree(folder / "step-6")

    found = inspected(run, tell=prune_it)
    assert gone == ["step-6"]
    assert "step-6" not in names(found)
    assert names(found) == valid(found)
    assert names(found)[:2] == ["step-9", "step-8"]


def test_what_is_committed_while_all_others_are_pruned_is_seen(run: Path) -> None:
    folder = run / "checkpoints"
    fresh = shutil.copytree(folder / "step-8", run / "fresh")
    rewrite(fresh, name="step-9", update=9, serial=99, claims=[])
    claims = [{"tag": "last", "by": "x", "keep_last": 1}]
    for path in folder.glob("step-*"):
        rewrite(path, claims=claims)

    def replaced(name: str, done: int, total: int) -> None:
        if fresh.exists():
            fresh.rename(folder / "step-9")
            rewrite(folder / "step-9", claims=claims)
            assert len(prune(folder)) == 4

    found = inspected(run, tell=replaced)
    assert names(found) == valid(found) == ["step-9"]
    assert found.resume.checkpoint == "step-9"


NOBODY = """
import os, sys
from noether.cli import main
main(["inspect", sys.argv[1], "--quick"])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print("AS NOBODY", flush=True)
sys.exit(main(["inspect", sys.argv[1]]))
"""


def by_nobody(run: Path) -> tuple[int, str, str]:
    """Code, output and errors of asking as a user who owns nothing."""
    command = [sys.executable, "-c", NOBODY, str(run)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "1000"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=run)
    return done.returncode, done.stdout.partition("AS NOBODY\n")[2], done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_what_may_not_be_read_is_named(made: Path) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:  # pytest's are closed to others
        os.chmod(open_to_all, 0o755)
        shutil.copytree(made / "1", Path(open_to_all) / "1")
        guarded(Path(open_to_all) / "1")


def guarded(run: Path) -> None:
    folder = run / "checkpoints"
    (folder / "step-8/weights.pt").chmod(0o600)
    (folder / "step-4").chmod(0o700)
    with lock(run):
        code, out, err = by_nobody(run)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if "NOT VALID" in line] == ["step-8", "step-4"]
    assert len([line for line in lines if "Permission denied" in line]) == 2
    assert f"pid {os.getpid()} on {socket.gethostname()} can't be asked from here" in out
    folder.chmod(0o700)
    code, out, err = by_nobody(run)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: checkpoints in {folder} cannot be listed")
    run.chmod(0o700)
    assert by_nobody(run) == (2, "", f"{run} cannot be read: Permission denied\n")


# ---------------------------------------------------------------- hostile content


HOSTILE: dict[str, dict[str, Any]] = {
    "claims of other types": {"claims": [{"tag": ["x"], "by": {}}]},
    "a value beyond numbers": {"claims": [{"tag": "x", "value": 10**400}]},
    "a rule of another type": {"claims": [{"tag": "x", "keep_last": "2", "keep_best": -1}]},
    "names that move the cursor": {"claims": [{"tag": "\x1b[2J", "by": "\r\n\x07\u202e\u2028"}]},
    "a metric of another type": {"claims": [{"tag": "x", "keep_best": 1, "metric": ["\x1b"]}]},
    "progress of other types": {"progress": ["\x1b"]},
    "counts of other types": {"progress": {"epoch": "\x1b[0m", "sample": 10**400, "seconds": "x"}},
    "an update beyond counts": {"update": 10**4000, "committed": 10**400},
    "a time beyond calendars": {"committed": 1e300},
    "a file that no system can name": {"files": {"\ud800": {"bytes": 1, "sha256": ""}}},
    "a file elsewhere": {"files": {"../../../status.json": {"bytes": 1, "sha256": ""}}},
    "sizes of other types": {"files": {"weights.pt\x1b": {"bytes": "\x1b", "sha256": []}}},
    "records of other types": {"files": {"weights.pt": "\x1b"}},
    "counters of other types": {"progress": {"counters": {"a\x1b": [[[]]]}}},
}


def checked(found: Any, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It can be shown, as text and as JSON, without a character that acts."""
    for width in (40, 100, 200):
        shown = text(found, width)
        assert all(c.isprintable() for line in shown.split("\n") for c in line), shown
    for more in ([], ["--json"]):
        assert main(["inspect", str(run), *more]) in (0, 1)
        out = capsys.readouterr().out
        assert all(c.isprintable() or c == "\n" for c in out)
    json.loads(out)


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_manifest_is_told_and_does_no_harm(
    run: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_status(run, state="failed")
    rewrite(run / "checkpoints/step-8", **changes)
    found = inspected(run)
    assert (
        sorted(names(found)) == ["step-2", "step-4", "step-6", "step-8"] or len(names(found)) == 4
    )
    checked(found, run, capsys)
    taken = newest(run / "checkpoints")
    assert taken is not None
    assert found.resume.checkpoint == taken.directory.name


@pytest.mark.parametrize("text", ["[]", "3", "{}", "[" * 100_000, "\udcff", "1" * 9999, "{" * 990])
def test_a_manifest_of_another_shape_is_not_valid(
    run: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints/step-8/manifest.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    found = inspected(run)
    assert names(found)[0] == "step-8"
    assert not found.checkpoints[0].valid
    checked(found, run, capsys)


@pytest.mark.parametrize("kind", ["pipe", "endless", "loop", "directory", "socket"])
def test_what_is_no_file_is_not_waited_for(run: Path, kind: str) -> None:
    path = run / "checkpoints/step-8/weights.pt"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "endless":
                path.symlink_to("/dev/zero")
            case "loop":
                path.symlink_to(path)
            case "directory":
                path.mkdir()
            case "socket":
                folder = os.open(path.parent, os.O_RDONLY)
                server.bind(f"/proc/self/fd/{folder}/{path.name}")
                os.close(folder)
        found = inspected(run)
    assert "weights.pt cannot be read" in str(found.checkpoints[0].reason)
    assert found.checkpoints[1].valid


@pytest.mark.parametrize("name", ["status.json", "journal.jsonl", "config.yaml", ".lock"])
def test_pipes_in_the_place_of_what_a_run_writes_are_not_waited_for(run: Path, name: str) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    (run / "checkpoints/LATEST").unlink()
    os.mkfifo(run / "checkpoints/LATEST")
    assert len(valid(inspected(run))) == 4


STATUSES = [
    b"[]",
    b"{",
    b"[" * 100_000,
    b'{"state": ["\\u001b"], "update": "x", "reason": {}, "heartbeat": "nan"}',
    b'{"state": "\\u001b[2J", "update": -1, "reason": "\\n\\r\\u009b", "heartbeat": 1e308}',
    b'{"state": "running", "heartbeat": ' + b"9" * 400 + b', "at_update": true}',
]


@pytest.mark.parametrize("status", STATUSES)
def test_a_hostile_status_is_told_and_does_no_harm(
    run: Path, status: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "status.json").write_bytes(status)
    (run / "config.yaml").write_text("until: {updates: .inf, epochs: '\\e', samples: [}")
    with open(run / "journal.jsonl", "ab") as file:
        file.write(b'{"epoch": "\\u001b[2J", "update": 1e400, "seconds": ' + b"9" * 999 + b"}\n")
        file.write(b"[" * 100_000 + b"\n")
    found = inspected(run)
    assert len(valid(found)) == 4
    checked(found, run, capsys)


def test_names_of_any_bytes_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.fsencode(run / "checkpoints")
    for name in (b"\xff\xfe", b"\x1b[31m", b"a\nb", "é\u202e".encode(), b".bad-\x1b", b"x" * 250):
        os.mkdir(os.path.join(folder, name))
    (run / "checkpoints/.bad-\x1b/reason.txt").write_bytes(b"\xff\x1b[2J" + b"y" * 10**6)
    os.rename(folder + b"/step-4", folder + b"/\xffcopy")
    found = inspected(run)
    assert len(found.checkpoints) == 4
    checked(found, run, capsys)
    assert r"\x1b[31m  foreign" in text(found, 200)


# ---------------------------------------------------------------- reading alone


def traces(folder: Path) -> dict[str, Any]:
    """All that a file system tells of a tree, but when it was read."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        seen = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(seen.st_mode) else None
        kept = (seen.st_ino, seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        found[str(path)] = (*kept, seen.st_nlink, content)
    return found


@pytest.mark.parametrize("state", ["running", "done", "failed"])
def test_nothing_is_changed_by_looking(
    run: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "checkpoints"
    flip(folder / "step-8/weights.pt")
    flip(folder / "step-6/manifest.json")
    (folder / "LATEST").write_text("step-99\n")
    for name in (f"step-9{aside_suffix()}", ".trash-step-1-ab", ".bad-step-3", "step-7"):
        (folder / name).mkdir()
    write_status(run, state=state)
    journal = open_journal(run / "journal.jsonl")
    os.write(journal.descriptor, b'{"torn')
    journal.close()
    before = traces(run.parent)
    for path in (run.parent, run, *folder.iterdir()):
        for more in ([], ["--quick"], ["--json"]):
            assert main(["inspect", str(path), *more]) in (0, 1, 2)
            noether.inspect(run)
    assert capsys.readouterr().out
    assert traces(run.parent) == before


AUDITED = """
import os, sys
from noether.cli import main
main(["inspect", sys.argv[1]])  # whose imports may write what Python compiles
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NAMES = {"mkdir", "rename", "remove", "rmdir", "truncate", "utime", "chmod", "chown", "link"}
NAMES |= {"symlink", "kill", "setxattr", "removexattr", "system", "fork"}

def watch(event, arguments):
    if event == "open" and arguments[2] & CHANGING or event.startswith("fcntl."):
        print("CHANGES", event, arguments)
    if event.removeprefix("os.") in NAMES:
        print("CHANGES", event, arguments)

sys.addaudithook(watch)
os.open("seen", os.O_CREAT | os.O_WRONLY)
for path in sys.argv[1:]:
    main(["inspect", path])
    main(["inspect", path, "--json"])
"""


def test_nothing_is_even_opened_for_writing_or_locked(run: Path, tmp_path: Path) -> None:
    flip(run / "checkpoints/step-8/weights.pt")
    lock(run).release()
    write_status(run, state="running")
    asked = [run, run.parent, run / "checkpoints/step-6"]
    command = [sys.executable, "-c", AUDITED, *map(str, asked)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    changes = [line for line in done.stdout.splitlines() if line.startswith("CHANGES")]
    assert [change.split()[2] for change in changes] == ["('seen',"]
    assert done.stdout.count("resume: ") == 3


def test_a_run_that_was_never_locked_is_not_locked_by_looking(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    found = inspected(run)
    assert os.listdir(run) == ["checkpoints"]
    assert (found.state, found.owner, found.journal) == (None, None, None)
    assert found.resume.says == "from the start, as there is no checkpoint"
    assert "no checkpoint" in text(found, 100)


def test_it_needs_no_torch(made: Path) -> None:
    script = """
import sys
import noether
from noether.cli import main
code = main(["inspect", sys.argv[1]])
noether.inspect(sys.argv[1])
print(code, "torch" in sys.modules)
"""
    command = [sys.executable, "-c", script, str(made / "1")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"


# ---------------------------------------------------------------- the command


def test_exit_codes_tell_whether_a_valid_one_is_there(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_status(run, state="failed")
    folder = run / "checkpoints"
    assert [main(["inspect", str(path)]) for path in (run.parent, run, folder / "step-8")] == [
        0
    ] * 3
    flip(folder / "step-8/weights.pt")
    assert main(["inspect", str(run)]) == 0
    assert main(["inspect", str(folder / "step-8")]) == 1
    for path in folder.glob("step-*"):
        cut(path / "weights.pt")
    capsys.readouterr()
    assert [main(["inspect", str(path)]) for path in (run.parent, run)] == [1, 1]
    told = capsys.readouterr()
    assert f"error: {run} holds no valid checkpoint\n" in told.err
    assert told.out.endswith("resume: refused: there are checkpoints, and none is valid\n")
    with pytest.raises(CheckpointError):
        newest(folder)
    assert main(["inspect", str(run)]) == 1  # all of them set aside
    shutil.rmtree(folder)
    folder.mkdir()
    assert main(["inspect", str(run)]) == 0


def test_what_is_nothing_of_the_kind_is_one_line_with_the_way_out(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "7").mkdir()
    asked = {
        made / "1/checkpoints": f"give the run directory, {made.resolve() / '1'}",
        made.parent: f"give a series in it, {made} say",
        tmp_path: "give what run.dir names, or a numbered directory in that",
        tmp_path / "absent": "nothing is there",
        made / "1/status.json": "it is a file; give the directory",
        made / "1/checkpoints/LATEST": "it is a file; give the directory",
    }
    for path, way in asked.items():
        assert main(["inspect", str(path)]) == 2
        told = capsys.readouterr()
        assert told.err == f"{path} is no run, series or checkpoint: {way}\n"
        assert told.out == ""
    with pytest.raises(ConfigurationError, match="absent is no run"):
        noether.inspect(tmp_path / "absent")


def test_a_series_has_a_line_for_each_run_newest_first(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    series = run.parent
    shutil.copytree(run, series / "2")
    write_status(series / "2", state="preempted", update=8)
    cut(series / "2/checkpoints/step-8/weights.pt")
    (series / "10").mkdir()
    found = noether.inspect(series)
    assert isinstance(found, InspectedSeries)
    assert [each.path.name for each in found.runs] == ["10", "2", "1"]
    assert main(["inspect", str(series)]) == 0
    [_, ten, two, one, _, hint, resume] = capsys.readouterr().out.splitlines()
    assert ten.split()[:3] == ["10", "-", "-"]
    assert two.split()[:6] == ["2", "preempted", "8", "3", "of", "4"]
    assert one.split()[:4] == ["1", "done", "8", "4"]
    assert f"loss/val/total {found.runs[-1].best[0].value:.6g} at" in one
    assert hint.startswith(f"noether inspect {series / '10'} ")
    assert resume == "resume: run 10: from the start, as there is no checkpoint"


def test_one_checkpoint_is_told_with_its_files(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "checkpoints/step-8"
    found = noether.inspect(path)
    assert isinstance(found, Checkpoint)
    assert (found.valid, found.latest, found.update) == (True, True, 8)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    for name, size in found.files.items():
        assert [name, str(size)] in [line.split() for line in out.splitlines()]
    monkeypatch.chdir(path)
    assert main(["inspect", "."]) == 0
    assert "step-8" in capsys.readouterr().out
    monkeypatch.chdir(run)
    assert main(["inspect", "."]) == 0


def test_a_checkpoint_that_was_set_aside_can_be_looked_at(run: Path) -> None:
    flip(run / "checkpoints/step-8/weights.pt")
    newest(run / "checkpoints")
    found = noether.inspect(run / "checkpoints/.bad-step-8")
    assert isinstance(found, Checkpoint)
    assert (found.valid, found.latest, found.update) == (False, False, 8)


def test_json_holds_everything(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(made / "1"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = inspected(made / "1")
    assert told["kind"] == "run"
    assert [each["bytes"] for each in told["checkpoints"]] == [e.bytes for e in found.checkpoints]
    assert told["checkpoints"][0]["files"] == found.checkpoints[0].files
    assert told["resume"]["checkpoint"] == "step-8"
    assert told["journal"]["rows"] == found.journal.rows if found.journal else None
    assert set(told) == {"kind", *InspectedRun.__slots__}
    assert main(["inspect", str(made), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], [each["state"] for each in told["runs"]]) == ("series", ["done"])
    assert main(["inspect", str(made / "1/checkpoints/step-8"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "checkpoint"


def words(lines: str) -> Iterator[str]:
    return (word for line in lines.splitlines() for word in line.replace(",", " ").split())


@pytest.mark.parametrize("width", [1, 40, 79, 200])
def test_lines_are_as_wide_as_the_terminal_and_lose_nothing(
    run: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run / "checkpoints/step-8/weights.pt")
    (run / "checkpoints/.bad-step-3").mkdir()
    monkeypatch.setenv("COLUMNS", str(width))
    for path in (run.parent, run, run / "checkpoints/step-6"):
        main(["inspect", str(path)])
        shown = capsys.readouterr().out
        wide = [line for line in shown.splitlines() if len(line) > max(width, 30)]
        # A word is not broken: it is to be copied.
        assert [line for line in wide if len(line.split()) > 3 or width == 200] == []
        # Looked at a moment later, an age may be a second more.
        whole = re.sub(r"\d+ s ago", "s ago", text(noether.inspect(path), 10_000))
        heads = {"checkpoint", "run", "state", "update", "epoch", "sample", "size", "files"}
        heads |= {"written", "best", "checkpoints"}
        missing = set(words(whole)) - set(words(shown)) - heads
        assert {word for word in missing if ":" not in word} == set()


def test_a_terminal_that_has_no_characters_for_a_name_still_gets_it(run: Path) -> None:
    os.mkdir(os.fsencode(run / "checkpoints") + "/é".encode() + b"\xff")
    told = in_process("inspect", str(run), cwd=run, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert told.returncode == 0, told.stderr
    assert r"\xe9\udcff  foreign" in told.stdout
    told = in_process("inspect", str(run), "--json", cwd=run, PYTHONIOENCODING="latin-1")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["leftovers"][0]["name"] == "é\udcff"


def test_progress_is_shown_on_a_terminal_only(run: Path) -> None:
    assert in_process("inspect", str(run), cwd=run).stderr == ""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "noether", "inspect", str(run)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=variables, text=True)
    os.write(theirs, b"END")
    os.close(theirs)
    seen = b""
    while not seen.endswith(b"END"):
        seen += os.read(ours, 10_000)
    os.close(ours)
    assert done.returncode == 0
    assert b"verifying step-8: " in seen
    assert seen.endswith(b"\x1b[2KEND")
    assert "\x1b" not in done.stdout
