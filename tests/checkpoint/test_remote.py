"""A commit and a pruning where no rename is atomic, stopped at every one of their calls."""

import hashlib
import itertools
import pickle
import uuid
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

import fsspec
import pytest
import torch

from noether import remote
from noether.checkpoint import find, load, newest
from noether.checkpoint.commit import commit
from noether.checkpoint.manifest import UnreadableError, candidates, read_manifest, sealed
from noether.checkpoint.retention import clean, prune
from noether.checkpoint.verification import HELD, let_go, verify
from noether.errors import CheckpointError, ConfigurationError
from noether.remote import REMOTE
from noether.storage import STORAGE, Storage, listed, read
from tests.buckets import Bucket, bucket
from tests.checkpoint.test_choosing import Hostile

EVERY = range(1, 10**9)


class Killed(BaseException):
    """The end of a process: whatever it would do on its way out fails as well."""


@pytest.fixture(params=["memory", "s3", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a remote file system."""
    if request.param == "s3":
        with bucket():
            yield remote.path("s3://bucket/checkpoints")
    elif request.param == "file":
        yield remote.path(f"file://{tmp_path}")
    else:
        yield remote.path(f"memory://{uuid.uuid4().hex}")
        fsspec.filesystem("memory").store.clear()
        fsspec.filesystem("memory").pseudo_dirs[:] = [""]
    let_go()


@pytest.fixture(name="store")
def _store() -> Iterator[Bucket]:
    with bucket() as made:
        yield made
    let_go()


FOLDER = "s3://bucket/checkpoints"


def save(folder: Path, update: int, storage: Storage = REMOTE, **claim: Any) -> Path:
    files = {"model.pt": {"w": torch.full((5000,), update)}, "memory.pt": {"update": update}}
    claims = [{"tag": "last", "by": "checkpoint", "keep_last": 1, **claim}]
    return commit(folder, files, {"update": update, "claims": claims}, storage=storage)


def faulty(due: Container[int], act: Callable[[], object], *spared: str) -> Storage:
    """Real storage that acts before each call whose number is due, some functions spared."""
    calls = itertools.count(1)

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if next(calls) in due:
                act()
            return function(*args)

        return call

    found = {f.name: getattr(REMOTE, f.name) for f in fields(Storage) if f.name not in spared}
    made: dict[str, Any] = {name: wrapped(f) for name, f in found.items() if callable(f)}
    return replace(REMOTE, **made)


def calls_of(action: Callable[[Storage], object], *spared: str) -> int:
    calls = itertools.count()
    action(faulty(EVERY, lambda: next(calls), *spared))
    return next(calls)


def killed() -> NoReturn:
    raise Killed


def cut() -> NoReturn:
    raise OSError("the line is cut")


def folders(place: Path) -> Iterator[Path]:
    for n in itertools.count():
        folder = place / str(n)
        save(folder, 1)
        yield folder


def held(folder: Path) -> int:
    """The update of the newest checkpoint, all of whose files are of that update."""
    found = newest(folder)
    assert found is not None
    update = found.manifest.update
    assert load(found.directory, "memory.pt") == {"update": update}
    assert torch.equal(load(found.directory, "model.pt")["w"], torch.full((5000,), update))
    assert read(folder / "LATEST").decode().strip() == found.directory.name
    return update


def names(folder: Path) -> list[str]:
    return [path.name for path in listed(folder)]


def whole(folder: Path) -> list[str]:
    """The names in a folder of checkpoints, each of which is complete."""
    there = [path for path in listed(folder) if path.name != "LATEST"]
    return [verify(path).name for path in there]


# ---------------------------------------------------------------- a commit


def test_a_tree_comes_back(place: Path) -> None:
    assert newest(place / "0") is None
    assert save(place / "0", 3) == place / "0" / "step-3"
    assert held(place / "0") == 3
    assert names(place / "0") == ["LATEST", "step-3"]
    assert names(place / "0" / "step-3") == ["manifest.json", "memory.pt", "model.pt"]


def test_the_manifest_is_written_last(place: Path) -> None:
    done: list[str] = []

    def close(file: Any) -> None:
        REMOTE.close(file)
        done.append("closed")

    def put(path: Path, data: bytes) -> None:
        done.append(path.name)
        REMOTE.put(path, data)
        assert verify(place / "0" / "step-3")

    save(place / "0", 3, replace(REMOTE, close=close, put=put))
    assert done == ["closed", "closed", "manifest.json", "LATEST"]


def test_killed_at_any_call_of_a_commit_the_old_or_the_new_one_is_there(place: Path) -> None:
    fresh = folders(place)
    total = calls_of(lambda storage: save(next(fresh), 2, storage))
    outcomes = []
    for k, folder in zip(range(1, total + 1), fresh, strict=False):
        with pytest.raises(Killed):
            save(folder, 2, faulty(EVERY[k - 1 :], killed))
        outcomes.append(held(folder))
        assert candidates(folder).damaged == ()
        clean(folder, storage=REMOTE)
        assert len(whole(folder)) == outcomes[-1]
        assert read_manifest(save(folder, 3)).serial == 1 + outcomes[-1]
        assert held(folder) == 3
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


def test_an_error_at_any_call_of_a_commit_is_named_and_leaves_nothing_half(place: Path) -> None:
    fresh = folders(place)
    total = calls_of(lambda storage: save(next(fresh), 2, storage))
    outcomes = []
    for k, folder in zip(range(1, total + 1), fresh, strict=False):
        with pytest.raises(CheckpointError, match=r"of update 2 .*: the line is cut"):
            save(folder, 2, faulty([k], cut))
        outcomes.append(len(whole(folder)))
        assert held(folder) == outcomes[-1]
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


def test_a_store_that_stays_down_at_any_request_leaves_the_previous_one(store: Bucket) -> None:
    fresh = folders(remote.path(FOLDER))
    folder = next(fresh)
    store.asked.clear()
    save(folder, 2)
    requests = sum(store.asked.values())
    assert store.asked.keys() == {"list", "head", "mkdir", "get", "put"}
    for k, folder in zip(range(requests), fresh, strict=False):
        until_then = iter(range(k))
        store.fails = lambda kind, name, left=until_then: next(left, None) is None  # type: ignore[misc]
        failed = None
        try:
            save(folder, 2)
        except CheckpointError as error:
            failed = str(error)
        store.fails = lambda kind, name: False
        assert (failed is None and held(folder) == 2) or "no route to the store" in str(failed)
        assert held(folder) in (1, 2)
        clean(folder, storage=REMOTE)
        assert len(whole(folder)) == held(folder)


def test_half_a_file_is_not_uploaded_by_closing_it(store: Bucket) -> None:
    save(remote.path(FOLDER), 1)
    puts = itertools.count(1)
    store.fails = lambda kind, name: kind == "put" and next(puts) == 4
    with pytest.raises(CheckpointError, match="no route"):
        save(remote.path(FOLDER), 2)
    assert [n for n in store.names("checkpoints") if "step-2" in n] == []


def test_a_name_that_is_taken_is_not_written_to(place: Path) -> None:
    save(place / "0", 5)
    REMOTE.remove(place / "0" / "step-5" / "manifest.json")
    assert save(place / "0", 5).name == "step-5-2"
    with pytest.raises(OSError, match="exists already"):
        REMOTE.create(place / "0" / "step-5" / "model.pt")


def test_no_bucket_is_made_of_a_misspelt_name(store: Bucket) -> None:
    with pytest.raises(CheckpointError, match="there is no bucket bukket"):
        save(remote.path("s3://bukket/checkpoints"), 1)


# ---------------------------------------------------------------- what is old


def full_folders(place: Path) -> Iterator[Path]:
    for folder in folders(place):
        save(folder, 2)
        save(folder, 3)
        yield folder


def test_killed_at_any_call_of_a_pruning_the_newest_is_there(place: Path) -> None:
    fresh = full_folders(place)
    total = calls_of(lambda storage: prune(next(fresh), storage=storage))
    assert total == 2 * (3 + 1)
    for k, folder in zip(range(1, total + 1), fresh, strict=False):
        with pytest.raises(Killed):
            prune(folder, storage=faulty(EVERY[k - 1 :], killed))
        assert candidates(folder).damaged == ()
        assert held(folder) == 3
        clean(folder, storage=REMOTE)
        whole(folder)
        prune(folder, storage=REMOTE)
        assert names(folder) == ["LATEST", "step-3"]


def test_an_error_in_a_pruning_is_named(place: Path) -> None:
    for k, folder in zip(range(1, 4), full_folders(place), strict=False):
        with pytest.raises(CheckpointError, match=r"step-1 cannot be removed: .*cut"):
            prune(folder, storage=faulty([k], cut))
        assert held(folder) == 3


def test_pruning_fetches_nothing_but_manifests(store: Bucket) -> None:
    folder = remote.path(FOLDER)
    for update in (1, 2, 3):
        save(folder, update)
    prune(folder, storage=REMOTE)
    assert names(folder) == ["LATEST", "step-3"]
    assert {name.rpartition("/")[2] for name in store.fetched} == {"manifest.json"}


def test_nothing_is_removed_when_the_newest_is_cut_short(place: Path) -> None:
    folder = next(full_folders(place))
    REMOTE.put(folder / "step-3" / "model.pt", b"short")
    with pytest.raises(CheckpointError, match=r"model\.pt has 5 bytes"):
        prune(folder, storage=REMOTE)
    assert names(folder) == ["LATEST", "step-1", "step-2", "step-3"]


def test_only_half_written_checkpoints_of_ours_are_swept(place: Path) -> None:
    folder = next(folders(place))
    for name in ("step-7", "step-7-2", "notes", "step-x"):
        REMOTE.mkdir(folder / name)
        REMOTE.put(folder / name / "model.pt", b"half")
    REMOTE.mkdir(folder / "step-8")
    REMOTE.put(folder / "step-8" / "manifest.json.bad", b"{}")
    assert clean(folder, storage=REMOTE) == ("step-7", "step-7-2")
    assert names(folder) == ["LATEST", "notes", "step-1", "step-8", "step-x"]
    assert clean(place / "absent", storage=REMOTE) == ()


# ---------------------------------------------------------------- reading


def damage(path: Path) -> bytes:
    """Flip a bit in the middle of a file."""
    content = bytearray(read(path))
    content[len(content) // 2] ^= 1
    remote.storage_of(path).put(path, bytes(content))
    return bytes(content)


@pytest.mark.parametrize("name", ["model.pt", "memory.pt", "manifest.json"])
def test_a_damaged_one_is_set_aside_with_its_reason_and_nothing_is_lost(
    place: Path, name: str
) -> None:
    folder = next(folders(place))
    directory = save(folder, 2)
    before = {path.name: read(path) for path in listed(directory)}
    before[name] = damage(directory / name)
    found = newest(folder)
    assert found is not None
    assert found.manifest.update == 1
    assert "set aside step-2, its manifest as manifest.json.bad" in found.notes[0]
    assert name in read(directory / "reason.txt").decode()
    after = {path.name: read(path) for path in listed(directory) if path.name != "reason.txt"}
    assert after.pop("manifest.json.bad") == before.pop("manifest.json")
    assert after == before
    assert held(folder) == 1
    assert clean(folder, storage=REMOTE) == ()
    assert save(folder, 2).name == "step-2-2"


def test_a_missing_file_is_damage(place: Path) -> None:
    folder = next(folders(place))
    REMOTE.remove(save(folder, 2) / "model.pt")
    assert held(folder) == 1


def test_only_damaged_ones_are_an_error_also_the_second_time(place: Path) -> None:
    folder = next(folders(place))
    damage(folder / "step-1" / "model.pt")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no valid checkpoint; damaged: step-1 \(.*sha"):
            newest(folder)


def test_one_that_cannot_be_set_aside_is_passed_over(store: Bucket) -> None:
    folder = next(folders(remote.path(FOLDER)))
    damage(save(folder, 2) / "model.pt")
    store.fails = lambda kind, name: kind in ("put", "delete")
    found = newest(folder)
    assert found is not None
    assert found.manifest.update == 1
    assert "cannot be set aside: Down: put" in found.notes[0]


def test_a_store_that_does_not_answer_is_no_damage_and_no_absence(store: Bucket) -> None:
    folder = next(folders(remote.path(FOLDER)))
    save(folder, 2)
    before = dict(store.objects)
    store.asked.clear()
    newest(folder)
    let_go()
    requests, refused = sum(store.asked.values()), 0
    for k in range(requests):
        for due in (range(k, k + 1), range(k, requests)):
            calls = itertools.count()
            store.fails = lambda kind, name, due=due, calls=calls: next(calls) in due  # type: ignore[misc]
            answered = False
            with suppress(UnreadableError):
                found = newest(folder)
                assert found is not None
                assert found.manifest.update == 2
                answered = True
            refused += not answered
            let_go()
            assert store.objects == before
    assert refused > requests / 2
    store.fails = lambda kind, name: False
    assert held(folder) == 2


def test_each_file_is_fetched_once_to_be_verified_and_loaded(store: Bucket) -> None:
    folder = next(folders(remote.path(FOLDER)))
    size = len(store.objects["bucket/checkpoints/0/step-1/model.pt"])
    held(folder)
    assert store.fetched["checkpoints/0/step-1/model.pt"] == size
    held(folder)
    assert store.fetched["checkpoints/0/step-1/model.pt"] == 2 * size
    let_go()
    assert HELD == {}


def test_a_copy_that_is_held_is_verified_against_the_manifest_of_now(place: Path) -> None:
    folder = next(folders(place))
    assert held(folder) == 1
    manifest = folder / "step-1" / "manifest.json"
    content = {**read_manifest(manifest.parent).content}
    content["files"] = {"model.pt": {"bytes": 1, "sha256": ""}}
    REMOTE.put(manifest, sealed(content).encode())
    with pytest.raises(CheckpointError, match="bytes instead of 1"):
        load(manifest.parent, "model.pt")


def test_the_best_is_found_by_value(place: Path) -> None:
    for update, value in enumerate((0.5, 0.3, 0.4), start=1):
        save(place / "0", update, tag="b", keep_best=1, metric="loss", value=value)
    found = find(place / "0", "best")
    assert found is not None
    assert found.manifest.update == 2


@pytest.mark.parametrize("form", ["zip", "bare"])
def test_a_hostile_pickle_never_runs(place: Path, tmp_path: Path, form: str) -> None:
    mark, made = tmp_path / "ran", tmp_path / "made"
    if form == "bare":
        made.write_bytes(pickle.dumps(Hostile(mark)))
    else:
        torch.save([Hostile(mark)], made)
    data = made.read_bytes()
    path = save(place / "0", 1)
    REMOTE.put(path / "model.pt", data)
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    content = {**read_manifest(path).content, "files": {"model.pt": record}}
    REMOTE.put(path / "manifest.json", sealed(content).encode())
    with pytest.raises(CheckpointError, match=r"step-1/model\.pt cannot be loaded"):
        load(path, "model.pt")
    assert not mark.exists()


# ---------------------------------------------------------------- paths


def test_a_path_without_a_protocol_is_local() -> None:
    for text in ("runs/digits", "/tmp/a", "C:/x", "a:b/c", "./s3://x"):
        assert remote.path(text) == Path(text)
        assert remote.storage_of(Path(text)) is STORAGE


@pytest.mark.parametrize("text", ["memory://a/b", "memory://a/b/", "memory://a/b//"])
def test_a_slash_at_the_end_changes_nothing(text: str) -> None:
    assert str(remote.path(text)) == "memory://a/b"
    assert pickle.loads(pickle.dumps(remote.path(text))) == remote.path(text)
    assert remote.storage_of(remote.path(text)) is REMOTE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("s4://bucket/x", "cannot be used: Protocol not known: s4"),
        ("gs://bucket/x", "cannot be used: .*gcsfs"),
        ("s3:/bucket/x", "has lost a slash"),
        ("simplecache::s3://bucket/x", "upon another one"),
        ("s3://bucket/x::zip://y", "upon another one"),
        ("reference://x", "upon another one"),
        ("memory://a\nb", "can't be printed"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        remote.path(text)
