"""Which checkpoints stay, and taking the others away."""

import math
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from noether.checkpoint.manifest import BAD, MANIFEST, STEP, Claim, Manifest, candidates, entries
from noether.checkpoint.verification import verify, verify_sizes
from noether.errors import CheckpointError
from noether.storage import STORAGE, Storage, discard, is_local, is_stale, listed, remove_tree

TRASH = ".trash-"


def ranked(manifests: Sequence[Manifest], tag: str) -> list[Manifest]:
    """Those with a claim of `tag`: best first if the newest claim keeps the best, else newest."""
    claimed = _claimed(manifests, tag)
    if not claimed:
        return []
    rule = claimed[0][1]
    if rule.keep_best is not None:
        claimed = sorted(claimed, key=lambda pair: (_badness(pair[1], rule.mode), pair[0].age))
    return [manifest for manifest, _ in claimed]


def kept(manifests: Sequence[Manifest]) -> set[str]:
    """The names of those that stay.

    A tag's newest claim is the rule for the tag: the `keep_last` newest, the `keep_best` best (of
    equal ones the earlier), or all. The newest checkpoint of all stays in any case.
    """
    newest = {manifest.name for manifest in _by_age(manifests)[:1]}
    tags = {claim.tag for manifest in manifests for claim in manifest.claims}
    return newest.union(*(_kept_of(manifests, tag) for tag in tags))


def _kept_of(manifests: Sequence[Manifest], tag: str) -> set[str]:
    claimed = _claimed(manifests, tag)
    rule = claimed[0][1]
    last = [] if rule.keep_last is None else claimed[: rule.keep_last]
    names = {manifest.name for manifest, _ in last}
    if rule.keep_best is not None:
        names |= {manifest.name for manifest in ranked(manifests, tag)[: rule.keep_best]}
    elif rule.keep_last is None:
        names |= {manifest.name for manifest, _ in claimed}
    return names


def _claimed(manifests: Sequence[Manifest], tag: str) -> list[tuple[Manifest, Claim]]:
    """Newest first; of two claims in one checkpoint the later one counts."""
    claims = ((manifest, _claim(manifest, tag)) for manifest in _by_age(manifests))
    return [(manifest, claim) for manifest, claim in claims if claim is not None]


def _claim(manifest: Manifest, tag: str) -> Claim | None:
    return next((claim for claim in reversed(manifest.claims) if claim.tag == tag), None)


def _by_age(manifests: Sequence[Manifest]) -> list[Manifest]:
    return sorted(manifests, key=lambda manifest: manifest.age, reverse=True)


def _badness(claim: Claim, mode: str) -> tuple[bool, float]:
    """Smaller is better; no value, or NaN, is worse than any."""
    if claim.value is None or math.isnan(claim.value):
        return True, 0.0
    return False, claim.value if mode == "min" else -claim.value


def prune(folder: Path, *, storage: Storage = STORAGE) -> tuple[str, ...]:
    """Remove the checkpoints that no claim keeps any longer; their names.

    Copies under another name and what noether did not write stay. Raises CheckpointError when
    the newest checkpoint is damaged (then nothing is removed) or a removal fails. Of a remote one
    only the sizes are looked at: it would have to be fetched after each save.
    """
    own = [m for m in candidates(folder).manifests if m.content.get("name") == m.name]
    stay = kept(own)
    gone = [manifest for manifest in own if manifest.name not in stay]
    if gone and is_local(folder):
        verify(own[0].directory)
    elif gone:
        verify_sizes(own[0])
    for manifest in reversed(gone):
        _remove(manifest.directory, storage)
    return tuple(manifest.name for manifest in gone)


def _remove(directory: Path, storage: Storage) -> None:
    trash = directory
    if storage.atomic_rename:
        trash = directory.with_name(f"{TRASH}{directory.name}-{secrets.token_hex(4)}")
    try:
        if storage.atomic_rename:
            storage.rename(directory, trash)
        remove_tree(trash, storage, first=MANIFEST)
    except OSError as error:
        raise CheckpointError(f"old checkpoint {directory} cannot be removed: {error}") from error


def clean(folder: Path, *, storage: Storage = STORAGE) -> tuple[str, ...]:
    """Remove what a killed process left half written or half deleted; the names of what is gone.

    For the start of a process that holds the run's lock, before its first commit.
    """
    if is_local(folder) and not folder.is_dir():
        return ()
    left = [path for path in entries(folder) if _is_left(path, storage)]
    return tuple(sorted(path.name for path in left if discard(path, storage)))


def _is_left(path: Path, storage: Storage) -> bool:
    if path.name.startswith(TRASH) or is_stale(path.name):
        return True
    if storage.atomic_rename or not STEP.fullmatch(path.name):
        return False
    try:
        return not {MANIFEST, BAD} & {child.name for child in listed(path)}
    except OSError:  # then it stays
        return False


def summary(folder: Path) -> Iterator[str]:
    """One line for each tag that keeps the best: its value, and where it is."""
    manifests = candidates(folder).manifests
    best = {c.tag: c for m in manifests for c in m.claims if c.keep_best is not None}
    for tag in best:
        first = ranked(manifests, tag)[0]
        claim = _claim(first, tag)
        if claim is not None:
            place = f"at update {first.update}, {first.directory}"
            yield f"best {claim.metric}: {claim.value:.4g} {place}"
