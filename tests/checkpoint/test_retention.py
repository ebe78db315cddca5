import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.checkpoint.commit import commit
from noether.checkpoint.manifest import Claim, Manifest, candidates
from noether.checkpoint.retention import kept, prune, ranked
from noether.errors import CheckpointError

claims = st.builds(
    Claim,
    tag=st.sampled_from(["last", "best", "epoch"]),
    keep_last=st.none() | st.integers(0, 3),
    keep_best=st.none() | st.integers(0, 3),
    value=st.none() | st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf, -math.inf]),
    mode=st.sampled_from(["min", "max"]),
)


def manifest(update: int, serial: int, claimed: Sequence[Claim]) -> Manifest:
    return Manifest(Path(f"step-{serial}"), update, serial, tuple(claimed), {}, {})


histories = st.lists(
    st.tuples(st.integers(0, 6), st.lists(claims, max_size=3, unique_by=lambda c: c.tag)),
    max_size=8,
).map(lambda rows: [manifest(update, n, found) for n, (update, found) in enumerate(rows, 1)])


def worth(claim: Claim, mode: str) -> float:
    """Larger is better; the missing and NaN are below minus infinity."""
    if claim.value is None or math.isnan(claim.value):
        return -3.0
    size = {math.inf: 9.0, -math.inf: -2.0}.get(claim.value, claim.value)
    return size if mode == "max" else 7.0 - size


def survives(one: Manifest, every: list[Manifest]) -> bool:
    """The rules in another way: by counting who is ahead of one."""
    if not any(other.age > one.age for other in every):
        return True
    return any(claim_survives(one, claim, every) for claim in one.claims)


def claim_survives(one: Manifest, claim: Claim, every: list[Manifest]) -> bool:
    rivals = [(o, c) for o in every for c in o.claims if c.tag == claim.tag]
    rule = max(rivals, key=lambda rival: rival[0].age)[1]
    mine = worth(claim, rule.mode)
    newer = sum(other.age > one.age for other, _ in rivals)
    better = sum(worth(c, rule.mode) > mine for _, c in rivals)
    equal = sum(worth(c, rule.mode) == mine and o.age < one.age for o, c in rivals)
    if rule.keep_last is None and rule.keep_best is None:
        return True
    by_age = rule.keep_last is not None and newer < rule.keep_last
    return by_age or (rule.keep_best is not None and better + equal < rule.keep_best)


@given(histories, st.randoms())
def test_what_is_kept_follows_from_the_claims(history: list[Manifest], random: Any) -> None:
    expected = {one.name for one in history if survives(one, history)}
    random.shuffle(history)
    assert kept(history) == expected


def one_rule_per_tag(history: list[Manifest]) -> list[Manifest]:
    rules = {claim.tag: claim for one in history for claim in one.claims}
    return [
        replace(one, claims=tuple(replace(rules[c.tag], value=c.value) for c in one.claims))
        for one in history
    ]


@given(histories.map(one_rule_per_tag))
def test_pruning_twice_removes_no_more(history: list[Manifest]) -> None:
    stay = kept(history)
    assert kept([one for one in history if one.name in stay]) == stay


@given(histories)
def test_the_newest_always_stays(history: list[Manifest]) -> None:
    newest = {max(history, key=lambda one: one.age).name} if history else set()
    assert newest <= kept(history)


def test_the_rule_of_the_newest_claim_counts() -> None:
    history = [manifest(n, n, [Claim("last", keep_last=None if n < 4 else 2)]) for n in range(1, 5)]
    assert kept(history[:3]) == {"step-1", "step-2", "step-3"}
    assert kept(history) == {"step-3", "step-4"}


def test_of_equal_values_the_earlier_is_the_best() -> None:
    history = [manifest(n, n, [Claim("best", keep_best=1, value=0.5)]) for n in (1, 2, 3)]
    assert [one.update for one in ranked(history, "best")] == [1, 2, 3]
    assert kept(history) == {"step-1", "step-3"}


def save(folder: Path, update: int, **claim: Any) -> Path:
    claims = [{"tag": "last", "keep_last": 1, **claim}]
    return commit(folder, {"m.pt": torch.tensor(update)}, {"update": update, "claims": claims})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_prune_removes_what_is_not_kept_and_nothing_else(tmp_path: Path) -> None:
    for update in (8, 9, 10):
        save(tmp_path, update)
    shutil.copytree(tmp_path / "step-8", tmp_path / "my copy of 8")
    (tmp_path / "step-7").mkdir()
    (tmp_path / "step-7" / "weights").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    assert prune(tmp_path) == ("step-9", "step-8")
    assert names(tmp_path) == ["LATEST", "my copy of 8", "notes.txt", "step-10", "step-7"]
    assert prune(tmp_path) == ()


def test_prune_removes_nothing_while_the_newest_is_damaged(tmp_path: Path) -> None:
    for update in (1, 2):
        save(tmp_path, update)
    (tmp_path / "step-2" / "m.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-2/m\.pt has 0 bytes"):
        prune(tmp_path)
    assert [m.update for m in candidates(tmp_path).manifests] == [2, 1]


def test_the_best_stays_through_storage_with_nan_and_infinity(tmp_path: Path) -> None:
    values = [math.nan, math.inf, 0.5, math.nan, 0.7]
    for update, value in enumerate(values, 1):
        save(tmp_path, update, tag="best", keep_last=None, keep_best=1, value=value)
        prune(tmp_path)
    assert [m.update for m in candidates(tmp_path).manifests] == [5, 3]
