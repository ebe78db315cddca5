"""Runs whose checkpoints are elsewhere: on a remote file system, or on another disk."""

import itertools
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

import noether
from noether import (
    Callback,
    CheckpointError,
    ConfigurationError,
    HookError,
    Load,
    TrainState,
    at,
    every,
    hooks,
    journal,
    once_at_end,
    remote,
)
from noether.checkpoint import load, newest
from noether.checkpoint.manifest import candidates
from noether.checkpoint.verification import HELD, verify
from noether.cli import main
from noether.elsewhere import checkpoints_of
from noether.remote import REMOTE
from noether.rundir import read_status, runs
from noether.storage import listed, read
from tests.buckets import Bucket, bucket
from tests.checkpoint.test_remote import EVERY, Killed, calls_of, damage, faulty, killed
from tests.command import ALLOW, ROOT, placed
from tests.group import Group, groups
from tests.strategies import net, samples, sgd, squared_error
from tests.test_cli import TEXT

SAVING = hooks.checkpoint(schedule=every(updates=1) | once_at_end, keep_last=1)


@pytest.fixture(params=["memory", "s3", "file", "disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where checkpoints may go."""
    if request.param == "s3":
        with bucket():
            yield "s3://bucket/digits"
    elif request.param == "memory":
        yield f"memory://{uuid.uuid4().hex}/digits"
        fsspec.filesystem("memory").store.clear()
        fsspec.filesystem("memory").pseudo_dirs[:] = [""]
    else:
        yield f"{'file://' * (request.param == 'file')}{tmp_path}/scratch/digits"


@pytest.fixture(name="store")
def _store() -> Iterator[Bucket]:
    with bucket() as made:
        yield made


S3 = "s3://bucket/digits"


def train(
    series: Path, place: str | None, *callbacks: Callback, module: Any = None, **options: Any
) -> TrainState:
    given: dict[str, Any] = {
        "until": {"updates": 6},
        "batch_size": 4,
        "defaults": False,
        "loss": squared_error,
    }
    given["callbacks"] = [SAVING, *callbacks]
    return noether.train(
        module or net(),
        samples(12),
        optimizer=sgd,
        run_dir=series,
        checkpoint_dir=place,
        **{**given, **options},
    )


def broken(series: Path, place: str | None, update: int, **options: Any) -> None:
    """A run that fails before the optimizer's step of an update, so nothing is kept of it."""

    def fail(state: TrainState) -> None:
        if state.now.update == update:
            raise ValueError("broken off")

    with pytest.raises(HookError, match="broken off"):
        train(series, place, Callback("fail", before_update=fail), **options)


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def unbroken(tmp_path: Path) -> list[torch.Tensor]:
    module = net()
    train(tmp_path / "unbroken", None, module=module)
    return weights(module)


def names(folder: Any) -> list[str]:
    return [path.name for path in listed(folder)]


# ---------------------------------------------------------------- runs


def test_checkpoints_go_to_the_place_and_all_else_stays(place: str, tmp_path: Path) -> None:
    train(tmp_path / "runs", place)
    run, folder = tmp_path / "runs" / "1", remote.path(place) / "1"
    assert names(run / "checkpoints") == ["ELSEWHERE"]
    assert (run / "checkpoints" / "ELSEWHERE").read_text() == f"{folder}\n"
    assert names(folder) == ["LATEST", "RUN", "step-6"]
    assert read(folder / "LATEST") == b"step-6\n"
    assert read(folder / "RUN").decode() == f"{run}\n"
    assert verify(folder / "step-6").update == 6
    assert {"config.yaml", "journal.jsonl", "status.json", ".lock"} <= set(names(run))
    assert (read_status(run)["state"], read_status(run)["update"]) == ("done", 6)
    assert f"checkpoint_dir: {place}" in (run / "config.yaml").read_text()


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("async_save", [True, False])
def test_a_resumed_run_equals_the_unbroken_one(
    place: str,
    tmp_path: Path,
    again: bool,  # noqa: FBT001
    async_save: bool,  # noqa: FBT001
) -> None:
    broken(tmp_path / "runs", place, 4, async_save=async_save)
    folder = remote.path(place) / "1"
    assert names(folder) == ["LATEST", "RUN", "step-3"]
    module = net()
    given = place if again else None
    train(tmp_path / "runs", given, module=module, resume="must", async_save=async_save)
    assert same(weights(module), unbroken(tmp_path))
    assert names(folder) == ["LATEST", "RUN", "step-6"]
    assert HELD == {}
    assert list(journal.read(tmp_path / "runs/1/journal.jsonl"))[-1]["update"] == 6


def test_the_url_of_a_checkpoint_begins_a_new_run_from_it(place: str, tmp_path: Path) -> None:
    broken(tmp_path / "runs", place, 4)
    for number, to in enumerate([place, None], start=2):
        module = net()
        train(tmp_path / "runs", to, module=module, resume=f"{place}/1/step-3")
        assert same(weights(module), unbroken(tmp_path))
        folder = checkpoints_of(tmp_path / "runs" / str(number))
        assert str(folder).startswith(place) is (to is not None)
        assert newest(folder)
    assert names(remote.path(place) / "1") == ["LATEST", "RUN", "step-3"]


def test_a_run_that_is_done_gives_its_weights(place: str, tmp_path: Path) -> None:
    module, again = net(), net()
    train(tmp_path / "runs", place, module=module)
    train(tmp_path / "runs", place, module=again, resume="auto")
    assert same(weights(module), weights(again))


def test_a_damaged_newest_gives_way_to_the_one_before(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keeping = hooks.checkpoint(keep_last=3, schedule=every(updates=1)).named("keeping")
    broken(tmp_path / "runs", place, 4)
    module = net()
    train(tmp_path / "more", place, keeping, until={"updates": 4})
    folder = remote.path(place) / "2"
    assert names(folder) == ["LATEST", "RUN", "step-2", "step-3", "step-4"]
    (tmp_path / "more/2/status.json").unlink()  # as if it were to go on
    damage(folder / "step-4" / "weights.pt")
    train(tmp_path / "more", place, keeping, module=module, resume="auto")
    assert "set aside" in capsys.readouterr().err
    assert same(weights(module), unbroken(tmp_path))
    assert {"step-6", "step-5"} < set(names(folder))


VAL = samples(9, seed=2)
VALIDATION = every(updates=1)(hooks.offline_loss(dataset="val"))
BEST = hooks.best_checkpoint(metric="loss/val/total")


def test_the_best_is_loaded_at_the_end_and_evaluated(place: str, tmp_path: Path) -> None:
    module, data = net(), {"datasets": {"val": VAL}}
    loading = Callback("loading", after_training=lambda state: Load("best"))
    train(tmp_path / "runs", place, VALIDATION, BEST, loading, module=module, **data)
    rows = journal.read(tmp_path / "runs/1/journal.jsonl")
    seen = [row["metrics"].get("loss/val/total", 9e9) for row in rows]
    options: Any = {"callbacks": [VALIDATION], "datasets": {"val": VAL}, "loss": squared_error}
    found = [
        noether.evaluate(net(), run=tmp_path / "runs", checkpoint="best", **options),
        noether.evaluate(module, **options),
    ]
    assert [f.metrics["loss/val/total"] for f in found] == [pytest.approx(min(seen))] * 2
    assert (tmp_path / "runs/1/evaluation.jsonl").exists()
    assert HELD == {}


def test_a_network_costs_each_file_once_on_resuming_and_nothing_before(
    store: Bucket, tmp_path: Path
) -> None:
    broken(tmp_path, S3, 4)
    assert {name.rpartition("/")[2] for name in store.fetched} <= {"manifest.json", "LATEST", "RUN"}
    sizes = {name: len(content) for name, content in store.objects.items()}
    train(tmp_path, None, resume="auto")
    for name in ("digits/1/step-3/weights.pt", "digits/1/step-3/state.pt"):
        assert store.fetched[name] == sizes[f"bucket/{name}"]


# ---------------------------------------------------------------- failures


def test_killed_at_any_call_of_a_run_the_resumed_one_equals_the_unbroken_one(
    store: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = unbroken(tmp_path)
    place = (f"{S3}/{n}" for n in itertools.count())

    def run(storage: Any, series: Path) -> str:
        monkeypatch.setattr("noether.store.REMOTE", storage)
        where = next(place)
        train(series, where, until={"updates": 4})
        return where

    total = calls_of(lambda storage: run(storage, tmp_path / "counted"), "write")
    outcomes = set()
    for k in range(1, total + 1):
        series = tmp_path / str(k)
        with pytest.raises((Killed, CheckpointError)) as caught:
            run(faulty(EVERY[k - 1 :], killed, "write"), series)
        outcomes.add(caught.type)
        assert read_status(series / "1").get("state") != "done"
        monkeypatch.setattr("noether.store.REMOTE", REMOTE)
        module = net()
        train(series, None, module=module, resume="auto")
        assert same(weights(module), whole)
        folder = checkpoints_of(series / "1")
        assert read(folder / "LATEST") == b"step-6\n"
        assert set(names(folder)) <= {"LATEST", "RUN", "step-6", "step-5", "step-4"}
    assert Killed in outcomes


def test_a_store_that_is_down_for_a_while_stops_no_training(
    store: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def down(state: TrainState) -> None:
        store.fails = lambda kind, name: state.now.update in (3, 4)

    module = net()
    train(tmp_path / "runs", S3, Callback("down", before_update=down), module=module)
    said = capsys.readouterr().err
    assert said.count("no route to the store; training goes on") == 2
    assert same(weights(module), unbroken(tmp_path))
    assert names(remote.path(S3) / "1") == ["LATEST", "RUN", "step-6"]


@pytest.mark.parametrize("async_save", [True, False])
def test_the_third_failure_in_a_row_ends_the_run_which_can_go_on_later(
    store: Bucket,
    tmp_path: Path,
    async_save: bool,  # noqa: FBT001
) -> None:
    def down(state: TrainState) -> None:
        store.fails = lambda kind, name: state.now.update > 2

    with pytest.raises(CheckpointError, match="no route to the store"):
        train(tmp_path, S3, Callback("down", before_update=down), async_save=async_save)
    # In the background the save of update 2 may still be under way when the store goes down.
    assert read_status(tmp_path / "1")["update"] in ({1, 2} if async_save else {2})
    before = dict(store.objects)
    with pytest.raises(CheckpointError, match="no route to the store"):
        train(tmp_path, None, resume="auto")
    assert store.objects == before
    store.fails = lambda kind, name: False
    module = net()
    train(tmp_path, None, module=module, resume="auto")
    assert same(weights(module), unbroken(tmp_path / "other"))


@pytest.mark.parametrize("kind", ["list", "put"])
def test_a_place_that_cannot_be_written_ends_a_run_before_its_first_update(
    store: Bucket, tmp_path: Path, kind: str
) -> None:
    store.fails = lambda request, name: request == kind
    ticks: list[int] = []
    watching = Callback("watching", after_update=lambda state: ticks.append(state.now.update))
    with pytest.raises(CheckpointError, match=r"s3://bucket/digits.* Down: "):
        train(tmp_path, S3, watching)
    assert ticks == []


def test_a_last_look_at_a_store_that_is_down_takes_nothing_from_a_run_that_is_over(
    store: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent(state: TrainState) -> bool:
        store.fails = lambda kind, name: kind == "list" and read_status(run)["state"] == "done"
        return False

    run = tmp_path / "1"
    final = train(tmp_path, S3, Callback("silent", after_update=lambda s: silent(s) or None))
    assert final.now.update == 6
    assert "cannot be listed" in capsys.readouterr().err


# ---------------------------------------------------------------- which place


def test_another_place_than_the_recorded_one_is_refused_with_the_way_out(
    place: str, tmp_path: Path
) -> None:
    broken(tmp_path / "runs", place, 4)
    with pytest.raises(ConfigurationError) as caught:
        train(tmp_path / "runs", str(tmp_path / "other"), resume="auto")
    assert f"are in {place}/1; leave checkpoint_dir out, or" in str(caught.value)
    assert f"--resume {place}/1/step-N" in str(caught.value)
    assert not (tmp_path / "other").exists()


def test_a_run_with_checkpoints_of_its_own_does_not_move(tmp_path: Path) -> None:
    broken(tmp_path, None, 4)
    with pytest.raises(ConfigurationError, match=r"are in \S+1/checkpoints; leave checkpoint_dir"):
        train(tmp_path, "memory://other", resume="auto")


def test_a_run_that_was_killed_before_its_place_was_recorded_goes_on(
    place: str, tmp_path: Path
) -> None:
    (tmp_path / "runs/1/checkpoints").mkdir(parents=True)
    train(tmp_path / "runs", place, resume="auto")
    assert str(checkpoints_of(tmp_path / "runs/1")) == f"{place}/1"


def test_numbers_that_are_taken_in_the_place_are_passed_over(place: str, tmp_path: Path) -> None:
    for number, series in enumerate(["a", "b", "a", "a"], start=1):
        train(tmp_path / series, place)
        assert runs(tmp_path / series)[0].name == str(number)
    assert names(remote.path(place)) == ["1", "2", "3", "4"]


def test_a_copy_of_a_run_directory_does_not_write_to_the_checkpoints_of_the_first(
    place: str, tmp_path: Path
) -> None:
    broken(tmp_path / "runs", place, 4)
    before = names(remote.path(place) / "1")
    (tmp_path / "copies").mkdir()
    subprocess.run(["cp", "-r", tmp_path / "runs/1", tmp_path / "copies/1"], check=True)
    with pytest.raises(ConfigurationError, match=r"belong to \S+runs/1, of which \S+ is a copy"):
        train(tmp_path / "copies", None, resume="auto")
    assert names(remote.path(place) / "1") == before
    train(tmp_path / "runs", None, resume="auto")


def test_a_run_directory_that_was_moved_takes_its_checkpoints_along(
    place: str, tmp_path: Path
) -> None:
    broken(tmp_path / "runs", place, 4)
    (tmp_path / "runs").rename(tmp_path / "moved")
    module = net()
    train(tmp_path / "moved", place, module=module, resume="auto")
    assert same(weights(module), unbroken(tmp_path))
    assert read(remote.path(place) / "1" / "RUN").decode() == f"{tmp_path}/moved/1\n"


def test_a_place_that_was_emptied_is_no_reason_to_begin_anew(tmp_path: Path) -> None:
    broken(tmp_path / "runs", str(tmp_path / "scratch"), 4)
    (tmp_path / "scratch").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="has committed update 3 there"):
        train(tmp_path / "runs", None, resume="auto")


def test_a_relative_place_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    broken(tmp_path / "runs", "scratch", 4)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    train(tmp_path / "runs", None, resume="auto")
    assert names(tmp_path / "scratch/1") == ["LATEST", "RUN", "step-6"]


# ---------------------------------------------------------------- refused before anything


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"run_dir": "s3://b/x"}, "run_dir is 's3://b/x', .* by checkpoint_dir"),
        ({"run_dir": Path("s3://b/x")}, "by checkpoint_dir"),
        ({"run_dir": "runs", "checkpoint_dir": Path("memory://b/x")}, "has lost a slash"),
        ({"run_dir": "runs", "checkpoint_dir": "simplecache::memory://x"}, "upon another one"),
        ({"run_dir": "runs", "checkpoint_dir": "s4://b/x"}, "Protocol not known: s4"),
        ({"run_dir": "runs", "checkpoint_dir": "runs/"}, "checkpoint_dir is run_dir"),
        ({"run_dir": "runs", "resume": "zip://x"}, "resume 'zip://x' is a file system upon"),
        ({"run_dir": None, "checkpoint_dir": "memory://x"}, "no run_dir"),
    ],
)
def test_what_can_be_no_place_is_refused(
    options: Mapping[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given: Any = {"loss": squared_error, "optimizer": sgd, "until": {"updates": 1}, **options}
    with pytest.raises(ConfigurationError, match=told):
        noether.train(net(), samples(4), defaults=False, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_url_that_is_no_checkpoint_is_refused(place: str, tmp_path: Path) -> None:
    train(tmp_path / "runs", place)
    for url in (f"{place}/1", f"{place}/1/step-9"):
        with pytest.raises(ConfigurationError, match=r"nor a checkpoint with a manifest\.json"):
            train(tmp_path / "runs", place, resume=url)
    assert len(runs(tmp_path / "runs")) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"simplecache::memory://x/1\n",
        b"reference://x/1\n",
        b"memory://x/1\nmemory://y/1\n",
        b"scratch/1\n",
        b"\xff\xfe",
        b"",
        b"memory://x/\x1b[2J\n",
        b"/" * 10_000 + b"\n",
    ],
)
def test_a_hostile_record_of_the_place_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "1" / "checkpoints").mkdir(parents=True)
    (tmp_path / "1" / "checkpoints" / "ELSEWHERE").write_bytes(content)
    for act in (
        lambda: train(tmp_path, None, resume="auto"),
        lambda: noether.evaluate(
            net(),
            loss=squared_error,
            datasets={"val": VAL},
            callbacks=VALIDATION,
            run=tmp_path / "1",
        ),
    ):
        refused(act)
    assert names(tmp_path / "1" / "checkpoints") == ["ELSEWHERE"]


def refused(act: Callable[[], object]) -> None:
    with pytest.raises((CheckpointError, ConfigurationError), match=r"ELSEWHERE|holds no checkp"):
        act()


# ---------------------------------------------------------------- the command line


def test_the_commands_find_the_checkpoints_by_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    placed(TEXT, tmp_path, monkeypatch)
    given = ["run.dir=runs", f"run.checkpoint_dir=file://{tmp_path}/far"]
    assert main(["train", "c.yaml", *given, *ALLOW]) == 0
    assert sorted(os.listdir(tmp_path / "far/1"))[:2] == ["LATEST", "RUN"]
    assert main(["evaluate", "runs/1", *ALLOW]) == 0
    assert "loss/val/total" in capsys.readouterr().out
    url = f"file://{tmp_path}/far/1/step-4"
    assert main(["train", "c.yaml", *given, "--resume", url, *ALLOW]) == 0
    assert "resumed from file:///" in capsys.readouterr().out
    assert main(["check", "c.yaml", "run.dir=s3://b/x", *ALLOW]) == 2
    assert "by checkpoint_dir" in capsys.readouterr().err


def test_without_the_extra_its_name_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed(TEXT, tmp_path, monkeypatch)
    code = "import sys; sys.modules['upath'] = None; from noether.cli import main; sys.exit(main("
    options = ["train", "c.yaml", "run.dir=runs", "run.checkpoint_dir=memory://x", *ALLOW]
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}{options!r}))"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.endswith("the extra `remote`: pip install 'noether-callbacks[remote]'\n")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- several ranks


@pytest.fixture(scope="module", name="pair")
def _pair() -> Iterator[Group]:
    with groups(2) as made:
        yield made[2]


def play(series: str, place: str, async_save: bool, options: dict[str, Any]) -> list[torch.Tensor]:  # noqa: FBT001
    module = net()
    train(Path(series), place, module=module, async_save=async_save, **options)
    return weights(module)


@pytest.mark.parametrize("async_save", [True, False])
def test_two_ranks_write_their_parts_and_go_on_from_them(
    pair: Group,
    async_save: bool,  # noqa: FBT001
) -> None:
    with tempfile.TemporaryDirectory() as root:
        place = f"file://{root}/far"
        keep = {"until": {"updates": 3}}
        pair.call(play, f"{root}/runs", place, async_save, keep)
        files = candidates(remote.path(f"{place}/1")).manifests[0].files
        assert {"rank-0.pt", "rank-1.pt", "tensors.json"} < set(files)
        later = pair.call(play, f"{root}/runs", place, async_save, {"resume": f"{place}/1/step-3"})
        whole = pair.call(play, f"{root}/whole", f"file://{root}/else", async_save, {})
        assert all(same(one, other) for one, other in zip(later, whole, strict=True))
        found = newest(remote.path(f"{place}/2"))
        assert found is not None
        assert found.manifest.update == 6
        stored = load(found.directory, "weights.pt")
        assert same(list(stored.values()), whole[0])


def test_a_schedule_of_saves_is_the_same_wherever_they_go(tmp_path: Path, place: str) -> None:
    kept = hooks.checkpoint(keep_last=1, keep_every=at(updates=[2, 5]), schedule=every(updates=1))
    train(tmp_path / "runs", place, callbacks=[kept])
    train(tmp_path / "near", None, callbacks=[kept])
    near = candidates(tmp_path / "near/1/checkpoints").manifests
    far = candidates(remote.path(place) / "1").manifests
    assert [m.update for m in far] == [m.update for m in near] == [6, 5, 2]
    assert [m.claims for m in far] == [m.claims for m in near]
    assert [m.serial for m in far] == [m.serial for m in near]
