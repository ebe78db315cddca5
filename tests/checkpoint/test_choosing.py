import hashlib
import json
import os
import pickle
import random
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from noether.checkpoint import Found, find, load, newest
from noether.checkpoint.commit import commit
from noether.checkpoint.manifest import candidates, read_manifest, sealed
from noether.checkpoint.verification import verify
from noether.errors import CheckpointError
from noether.storage import aside_suffix


def save(folder: Path, update: int, **claim: Any) -> Path:
    tree = {"w": torch.arange(20) * update, "update": update, "name": "a"}
    claims = [{"tag": "last", "by": "checkpoint", "keep_last": 3, **claim}]
    files = {"model.pt": tree, "state.pt": [update]}
    return commit(folder, files, {"update": update, "claims": claims})


def the(found: Found | None) -> Found:
    assert found is not None
    return found


def test_a_tree_comes_back(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    tree = load(path, "model.pt")
    assert torch.equal(tree.pop("w"), torch.arange(20) * 7)
    assert tree == {"update": 7, "name": "a"}


def test_there_may_be_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        assert newest(folder) is None
        assert find(folder, "best") is None


def test_the_manifest_decides_not_the_name_nor_the_time(tmp_path: Path) -> None:
    names = {9: "step-0000099", 10: "step-9", 100: "backup of an old one", 10**6: "nine"}
    for update, name in names.items():
        save(tmp_path, update).rename(tmp_path / name)
    for time, name in enumerate(reversed(names.values())):
        os.utime(tmp_path / name, (time, time))
    shutil.copytree(tmp_path / "step-9", tmp_path / "step-999999999")
    found = the(newest(tmp_path))
    assert found.directory.name == "nine"
    assert [m.update for m in candidates(tmp_path).manifests] == [10**6, 100, 10, 10, 9]
    assert (tmp_path / "LATEST").read_text() == "nine\n"


def test_equal_names_up_to_padding_and_equal_times(tmp_path: Path) -> None:
    for update in (9, 10, 100, 10**6):
        path = save(tmp_path, update)
        path.rename(tmp_path / f"step-{update:08d}")
        os.utime(tmp_path / f"step-{update:08d}", (0, 0))
    assert the(newest(tmp_path)).manifest.update == 10**6


def test_of_one_update_the_later_commit_is_the_newer(tmp_path: Path) -> None:
    for _ in range(11):
        save(tmp_path, 5)
    assert the(newest(tmp_path)).directory.name == "step-5-11"


def test_what_is_no_checkpoint_is_ignored_and_said_so(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    stray = f"step-9{aside_suffix()}"
    shutil.copytree(path, tmp_path / stray)
    shutil.copytree(path, tmp_path / ".trash-step-8-abc")
    (tmp_path / "step-7").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "a web page"}')
    found = the(newest(tmp_path))
    assert found.directory == path
    ignored = {stray, ".trash-step-8-abc", "step-7", "notes.txt", "site"}
    assert set(candidates(tmp_path).ignored) == ignored
    assert set(found.notes) == {f"ignored {name}: not a checkpoint" for name in ignored}
    assert {p.name for p in tmp_path.iterdir()} == {*ignored, "step-3", "LATEST"}


@pytest.mark.parametrize("pointer", [None, "step-1\n", "step-99", "", "../../etc", b"\xff\0"])
def test_a_wrong_pointer_is_put_right(tmp_path: Path, pointer: str | bytes | None) -> None:
    for update in (1, 2):
        save(tmp_path, update)
    (tmp_path / "LATEST").unlink()
    if pointer is not None:
        text = pointer if isinstance(pointer, bytes) else pointer.encode()
        (tmp_path / "LATEST").write_bytes(text)
    assert the(newest(tmp_path)).manifest.update == 2
    assert (tmp_path / "LATEST").read_text() == "step-2\n"


@pytest.mark.parametrize("name", ["model.pt", "state.pt", "manifest.json"])
@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_torn_one_is_set_aside_and_the_previous_used(
    tmp_path: Path, name: str, keep: float
) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if keep == 0.5 else int(keep)])
    with pytest.raises(CheckpointError, match=re.escape(str(file))):
        verify(file.parent)
    found = the(newest(tmp_path))
    assert found.manifest.update == 1
    assert name in (tmp_path / ".bad-step-2" / "reason.txt").read_text()
    assert [note for note in found.notes if note.startswith("set aside as .bad-step-2: ")]
    assert (tmp_path / "LATEST").read_text() == "step-1\n"
    assert the(newest(tmp_path)).manifest.update == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read: .*No such file"):
        verify(path)


@pytest.mark.parametrize("name", ["model.pt", "state.pt", "manifest.json"])
def test_a_flipped_bit_is_detected(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 3)
    content = read_manifest(path).content
    data = (path / name).read_bytes()
    draw = random.Random(0)
    undetected = []
    for offset in draw.choices(range(len(data)), k=200):
        flipped = bytearray(data)
        flipped[offset] ^= 1 << draw.randrange(8)
        (path / name).write_bytes(flipped)
        with suppress(CheckpointError):
            undetected.append(verify(path).content)
    # A space of the manifest may become another kind of space.
    assert len(undetected) <= (4 if name == "manifest.json" else 0)
    assert all(found == content for found in undetected)


def test_two_bad_ones_of_one_name_are_both_kept(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for _ in range(2):
        (save(tmp_path, 2) / "model.pt").write_bytes(b"torn")
        assert the(newest(tmp_path)).manifest.update == 1
    assert {p.name for p in tmp_path.glob(".bad-*")} == {".bad-step-2", ".bad-step-2-2"}


def test_a_bad_one_that_cannot_be_set_aside_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    (path / "model.pt").write_bytes(b"torn")
    (path / "reason.txt").mkdir()  # as in a folder that cannot be written
    found = the(newest(tmp_path))
    assert found.manifest.update == 1
    assert re.match(r"passed over step-2 .*; it cannot be set aside: ", found.notes[0])
    assert path.is_dir()


def test_none_valid_is_an_error_also_the_second_time(tmp_path: Path) -> None:
    for update, name in ((1, "model.pt"), (2, "manifest.json")):
        (save(tmp_path, update) / name).write_bytes(b"torn")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no valid checkpoint; damaged: ") as caught:
            newest(tmp_path)
        assert "model.pt has 4 bytes" in str(caught.value)
        assert "manifest.json cannot be read" in str(caught.value)
        assert "step-1" in str(caught.value)
        assert "step-2" in str(caught.value)


def test_what_a_newer_noether_wrote_is_refused_and_left(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    (path / "manifest.json").write_text(sealed({"format": 2, "unheard": "of"}))
    for ask in (newest, lambda folder: find(folder, "best"), lambda folder: verify(path)):
        with pytest.raises(CheckpointError, match="format 2, this noether reads up to 1"):
            ask(tmp_path)
    assert path.is_dir()


def test_a_moved_or_copied_folder_goes_on(tmp_path: Path) -> None:
    for update in (1, 2):
        save(tmp_path / "a", update)
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns(".*"))
    (tmp_path / "a").rename(tmp_path / "c")
    for name in "bc":
        assert the(newest(tmp_path / name)).directory == tmp_path / name / "step-2"
        assert save(tmp_path / name, 3).name == "step-3"


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="checkpoints cannot be listed: "):
        newest(tmp_path / "checkpoints")


def test_an_explicit_path_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no checkpoint: it holds no manifest\.json"):
        verify(tmp_path)


def test_an_unknown_file_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no modle\.pt\. Did you mean model\.pt\?"):
        load(save(tmp_path, 1), "modle.pt")


def test_the_best_is_found_by_value_and_the_last_by_age(tmp_path: Path) -> None:
    values = [float("nan"), 0.5, 0.2, 0.2, 0.9]
    for update, value in enumerate(values, 1):
        save(tmp_path, update, tag="lowest", keep_last=None, keep_best=9, value=value)
        save(tmp_path, update, tag="periodic")
    assert the(find(tmp_path, "lowest")).manifest.update == 3
    assert the(find(tmp_path, "best")).manifest.update == 3
    assert the(find(tmp_path, "periodic")).manifest.update == 5
    assert find(tmp_path, "absent") is None


def test_a_damaged_best_gives_way_to_the_next(tmp_path: Path) -> None:
    for update, value in enumerate([0.1, 0.2], 1):
        save(tmp_path, update, tag="best", keep_best=2, value=value)
    (tmp_path / "step-1" / "model.pt").write_bytes(b"torn")
    assert the(find(tmp_path, "best")).manifest.update == 2
    (tmp_path / "step-2" / "model.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="no valid checkpoint with the tag 'best'"):
        find(tmp_path, "best")


class Hostile:
    """Its pickle touches a file when it is read without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


def forged(folder: Path, data: bytes) -> Path:
    """A checkpoint whose digests fit, by someone who rewrote both."""
    path = commit(folder, {"model.pt": 0}, {"update": 1})
    (path / "model.pt").write_bytes(data)
    content = dict(read_manifest(path).content)
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(sealed({**content, "files": {"model.pt": record}}))
    return path


@pytest.mark.parametrize("force", ["0", "1"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_hostile_pickle_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, force: str
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", force)
    mark = tmp_path / "ran"
    file = tmp_path / "made"
    if form == "bare":
        file.write_bytes(pickle.dumps(Hostile(mark)))
    else:
        torch.save([Hostile(mark)], file, _use_new_zipfile_serialization=form == "zip")
    path = forged(tmp_path / "checkpoints", file.read_bytes())
    assert the(newest(path.parent)).directory == path
    with pytest.raises(CheckpointError, match=r"model\.pt cannot be loaded"):
        load(path, "model.pt")
    assert not mark.exists()
    # The payload is one: read carelessly, it does run.
    if form == "bare":
        pickle.loads(file.read_bytes())
        assert mark.is_dir()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", ".."])
def test_a_forged_manifest_reaches_no_other_file(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    content = {**read_manifest(path).content, "files": {name: {"bytes": 0, "sha256": ""}}}
    (path / "manifest.json").write_text(sealed(content))
    with pytest.raises(CheckpointError, match="is no name for a file"):
        verify(path)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '"a"', "[" * 100_000, "\udcff", "1" * 9999])
def test_a_manifest_of_another_shape_is_damaged(tmp_path: Path, text: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    (path / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    assert the(newest(tmp_path)).manifest.update == 1
    assert (tmp_path / ".bad-step-2").is_dir()


def test_the_manifest_is_json_for_any_reader(tmp_path: Path) -> None:
    path = save(tmp_path, 1, value=float("nan"))
    text = (path / "manifest.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["claims"][0]["value"] == "nan"
    assert found["files"]["model.pt"]["bytes"] == (path / "model.pt").stat().st_size
    expected = hashlib.sha256((path / "model.pt").read_bytes()).hexdigest()
    assert found["files"]["model.pt"]["sha256"] == expected
