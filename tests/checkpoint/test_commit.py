"""A commit and a pruning, stopped at every one of their calls to the disk."""

import errno
import itertools
import os
import re
import threading
from collections.abc import Callable, Container, Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import noether.storage
from noether.checkpoint import load, newest
from noether.checkpoint.commit import commit
from noether.checkpoint.manifest import candidates, read_manifest
from noether.checkpoint.retention import clean, prune
from noether.checkpoint.verification import verify
from noether.errors import CheckpointError
from noether.storage import ASIDE, STORAGE, Storage, is_stale

KILLED = 137
EVERY = range(1, 10**9)


def files(update: int) -> dict[str, Any]:
    return {"model.pt": {"w": torch.full((50,), update)}, "memory.pt": {"update": update}}


def save(folder: Path, update: int, storage: Storage = STORAGE) -> Path:
    claims = [{"tag": "last", "by": "checkpoint", "keep_last": 1}]
    return commit(folder, files(update), {"update": update, "claims": claims}, storage=storage)


def functions() -> Iterator[tuple[str, Any]]:
    """The names and functions of the real storage."""
    named = ((field.name, getattr(STORAGE, field.name)) for field in fields(Storage))
    return ((name, value) for name, value in named if callable(value))


def faulty(due: Container[int], act: Callable[[], object]) -> Storage:
    """Real storage that acts before each call whose number is due."""
    calls = itertools.count(1)

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if next(calls) in due:
                act()
            return function(*args)

        return call

    made: dict[str, Any] = {name: wrapped(function) for name, function in functions()}
    return Storage(**made)


def calls_of(action: Callable[[Storage], object]) -> int:
    calls = itertools.count()
    action(faulty(EVERY, lambda: next(calls)))
    return next(calls)


def die() -> None:
    os._exit(KILLED)


def full() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_child(action: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def folders(tmp_path: Path) -> Iterator[Path]:
    for n in itertools.count():
        (folder := tmp_path / str(n)).mkdir()
        save(folder, 1)
        yield folder


def held(folder: Path) -> int:
    """The update of the newest checkpoint, all of whose files are of that update."""
    found = newest(folder)
    assert found is not None
    update = found.manifest.update
    assert load(found.directory, "memory.pt") == {"update": update}
    assert torch.equal(load(found.directory, "model.pt")["w"], torch.full((50,), update))
    assert (folder / "LATEST").read_text().strip() == found.directory.name
    return update


def left_aside(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if re.search(r"\.tmp-|\.trash-", path.name)]


def test_killed_at_any_call_of_a_commit_the_old_or_the_new_one_is_there(tmp_path: Path) -> None:
    fresh = folders(tmp_path)
    total = calls_of(lambda storage: save(next(fresh), 2, storage))
    outcomes = []
    for k, folder in zip(range(1, total + 2), fresh, strict=False):
        storage = faulty([k], die)
        code = in_child(partial(save, folder, 2, storage))
        assert code == (KILLED if k <= total else 0)
        outcomes.append(held(folder))
        clean(folder)
        assert left_aside(folder) == []
        assert read_manifest(save(folder, 3)).serial == 1 + outcomes[-1]
        assert held(folder) == 3
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_an_error_at_any_call_of_a_commit_is_named_and_leaves_no_trace(
    tmp_path: Path, code: int
) -> None:
    def fail() -> NoReturn:
        raise OSError(code, os.strerror(code))

    fresh = folders(tmp_path)
    total = calls_of(lambda storage: save(next(fresh), 2, storage))
    outcomes = []
    for k, folder in zip(range(1, total + 1), fresh, strict=False):
        with pytest.raises(CheckpointError, match=os.strerror(code)) as caught:
            save(folder, 2, faulty([k], fail))
        assert str(folder) in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == code
        assert left_aside(folder) == []
        assert verify(folder / "step-1").update == 1
        outcomes.append(held(folder))
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


def test_a_disk_that_stays_dead_leaves_the_previous_one(tmp_path: Path) -> None:
    fresh = folders(tmp_path)
    total = calls_of(lambda storage: save(next(fresh), 2, storage))
    for k, folder in zip(range(1, total + 1), fresh, strict=False):
        with pytest.raises(CheckpointError, match="No space left"):
            save(folder, 2, faulty(EVERY[k - 1 :], full))
        assert verify(folder / "step-1").update == 1
        assert held(folder) in (1, 2)
        clean(folder)
        assert left_aside(folder) == []


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flushes that begin while the file is still written; the names of their threads."""
    monkeypatch.setattr(noether.storage, "FLUSHED", 100)
    return []


def test_a_flush_that_fails_while_the_file_is_written_is_no_commit(
    tmp_path: Path, beside: list[str]
) -> None:
    def fsync(file: Any) -> None:
        beside.append(threading.current_thread().name)
        if beside[-1].startswith("noether-flush"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        STORAGE.fsync(file)

    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=os.strerror(errno.EIO)):
        save(tmp_path, 2, replace(STORAGE, fsync=fsync))
    assert "noether-flush" in beside[0]
    assert left_aside(tmp_path) == []
    assert held(tmp_path) == 1
    assert not [thread for thread in threading.enumerate() if "noether" in thread.name]


def test_a_file_flushed_while_it_is_written_is_flushed_once_more_and_whole(
    tmp_path: Path, beside: list[str]
) -> None:
    sizes: list[int] = []

    def fsync(file: Any) -> None:
        STORAGE.fsync(file)
        beside.append(threading.current_thread().name)
        sizes.append(os.fstat(file.fileno()).st_size)

    found = verify(save(tmp_path, 1, replace(STORAGE, fsync=fsync)))
    assert sum(name.startswith("noether-flush") for name in beside) >= 1
    ends = [size for name, size in zip(beside, sizes, strict=True) if "flush" not in name]
    assert ends[:2] == [found.files[name]["bytes"] for name in files(1)]


def test_a_full_device_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1)

    def create(path: Path) -> Any:
        path.touch()
        return open("/dev/full", "wb")

    big = {"model.pt": {"w": torch.ones(100_000)}}
    with pytest.raises(CheckpointError, match=r"update 2 cannot be .* No space left on device"):
        commit(tmp_path, big, {"update": 2}, storage=Storage(create=create))
    assert left_aside(tmp_path) == []
    assert held(tmp_path) == 1


def test_a_run_directory_that_vanished_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run/checkpoints: .*No such file"):
        save(tmp_path / "run" / "checkpoints", 1)
    assert not (tmp_path / "run").exists()


def test_a_folder_is_made_in_a_run_directory(tmp_path: Path) -> None:
    assert save(tmp_path / "checkpoints", 1) == tmp_path / "checkpoints" / "step-1"


def test_what_cannot_be_pickled_leaves_no_trace(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="update 2 cannot be written"):
        commit(tmp_path, {"m.pt": lambda: 0}, {"update": 2})
    assert left_aside(tmp_path) == []
    assert held(tmp_path) == 1


def test_the_error_of_the_disk_is_the_cause_whatever_is_being_handled(tmp_path: Path) -> None:
    try:
        raise FileNotFoundError(errno.ENOENT, "outer")
    except FileNotFoundError:
        with pytest.raises(CheckpointError, match="No space left") as caught:
            save(tmp_path, 2, faulty([5], full))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_an_interrupt_passes_through_and_leaves_no_trace(tmp_path: Path) -> None:
    def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    fresh = folders(tmp_path)
    total = calls_of(lambda storage: save(next(fresh), 2, storage))
    for k, folder in zip(range(1, total + 1), fresh, strict=False):
        with pytest.raises(KeyboardInterrupt):
            save(folder, 2, faulty([k], interrupt))
        assert left_aside(folder) == []
        assert held(folder) in (1, 2)


def test_everything_is_on_the_disk_before_it_is_named(tmp_path: Path) -> None:
    done: list[str] = []

    def noted(name: str, *args: Any) -> Any:
        target = Path(args[0].name).name  # a file knows its path, a path its last part
        done.append(f"{name} {ASIDE.sub('.tmp', target)}")
        return getattr(STORAGE, name)(*args)

    listening: dict[str, Any] = {name: partial(noted, name) for name, _ in functions()}
    storage = Storage(**listening)
    commit(tmp_path, {"model.pt": 0}, {"update": 3}, storage=storage)
    assert [name for name, _ in itertools.groupby(done)] == [
        "mkdir step-3.tmp",
        *(f"{call} model.pt" for call in ("create", "write", "fsync", "close")),
        *(f"{call} manifest.json" for call in ("create", "write", "fsync", "close")),
        "sync_directory step-3.tmp",
        "rename step-3.tmp",
        f"sync_directory {tmp_path.name}",
        *(f"{call} LATEST.tmp" for call in ("create", "write", "fsync", "close")),
        "replace LATEST.tmp",
        f"sync_directory {tmp_path.name}",
    ]


BAD: list[dict[str, Any]] = [
    {},
    {"update": -1},
    {"update": True},
    {"update": "3"},
    {"update": 3, "claims": [{"by": "nobody"}]},
    {"update": 3, "config": {1: 2}},
    {"update": 3, "config": {"path": Path("a")}},
]


@pytest.mark.parametrize("manifest", BAD, ids=str)
def test_a_manifest_that_could_not_be_read_again_is_refused(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError):
        commit(tmp_path, {}, manifest)
    assert candidates(tmp_path).manifests == ()
    assert left_aside(tmp_path) == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "manifest.json"])
def test_a_file_stays_in_its_checkpoint(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError):
        commit(tmp_path, {name: 0}, {"update": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_says_what_was_asked(tmp_path: Path) -> None:
    claim = {"tag": "b", "by": "x", "keep_best": 2, "metric": "loss", "value": float("inf")}
    progress = {"epoch": 1, "update": 7}
    more = {"config": {"lr": 0.1}, "digest": "mine"}
    path = commit(tmp_path, {}, {"update": 7, "progress": progress, "claims": [claim], **more})
    manifest = read_manifest(path)
    assert manifest.best
    assert manifest.progress == progress
    assert manifest.claims[0].value == float("inf")
    assert manifest.content["config"] == {"lr": 0.1}
    assert manifest.content["best"] is True
    assert manifest.content["format"] == 1
    assert manifest.content["torch"] == torch.__version__


def test_commits_of_one_update_have_their_own_directories_in_order(tmp_path: Path) -> None:
    made = [save(tmp_path, 5) for _ in range(3)]
    assert [path.name for path in made] == ["step-5", "step-5-2", "step-5-3"]
    assert [read_manifest(path).serial for path in made] == [1, 2, 3]
    assert [m.name for m in candidates(tmp_path).manifests] == ["step-5-3", "step-5-2", "step-5"]


def full_folders(tmp_path: Path) -> Iterator[Path]:
    for folder in folders(tmp_path):
        for update in (2, 3):
            save(folder, update)
        yield folder


def test_killed_at_any_call_of_a_pruning_the_newest_is_there(tmp_path: Path) -> None:
    fresh = full_folders(tmp_path)
    total = calls_of(lambda storage: prune(next(fresh), storage=storage))
    assert total == 2 * (1 + 3 + 1)
    for k, folder in zip(range(1, total + 1), fresh, strict=False):
        storage = faulty([k], die)
        assert in_child(partial(prune, folder, storage=storage)) == KILLED
        assert held(folder) == 3
        assert candidates(folder).damaged == ()
        clean(folder)
        prune(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["LATEST", "step-3"]


def test_an_error_in_a_pruning_is_named(tmp_path: Path) -> None:
    for k, folder in zip(range(1, 11), full_folders(tmp_path), strict=False):
        with pytest.raises(CheckpointError, match=r"step-\d cannot be removed: .*No space left"):
            prune(folder, storage=faulty([k], full))
        assert held(folder) == 3


def test_clean_leaves_what_another_process_is_writing(tmp_path: Path) -> None:
    host = noether.storage._host()
    other = "0" * 8 if host != "0" * 8 else "1" * 8
    parent = os.getppid()  # alive; no process has the id 2**30
    names = {
        f"step-3.tmp-{parent}-{host}aaaaaaaa": False,
        f"step-3.tmp-{2**30}-{other}aaaaaaaa": False,
        f"step-3.tmp-{2**30}-{host}aaaaaaaa": True,
        f"step-3.tmp-{os.getpid()}-{host}aaaaaaaa": True,
        "step-3.tmp-1": False,
        "step-3": False,
    }
    for name, stale in names.items():
        (tmp_path / name / "inside").mkdir(parents=True)
        assert is_stale(name) is stale
    (tmp_path / ".trash-step-1-aaaa").mkdir()
    expected = {name for name, stale in names.items() if stale} | {".trash-step-1-aaaa"}
    assert set(clean(tmp_path)) == expected
    assert {p.name for p in tmp_path.iterdir()} == {n for n, stale in names.items() if not stale}
    assert clean(tmp_path / "absent") == ()
