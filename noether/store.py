"""What a run keeps in its run directory: opening it, saving into it, and coming back from it."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from noether import remote
from noether.checkpoint import Found, find, newest
from noether.checkpoint.commit import commit, commit_together
from noether.checkpoint.encoding import Path as TreePath
from noether.checkpoint.manifest import MANIFEST, candidates, read_manifest
from noether.checkpoint.retention import clean, prune
from noether.checkpoint.staging import Staging
from noether.checkpoint.verification import verify
from noether.distributed import part, this_launch
from noether.effects import Save
from noether.elsewhere import checkpoints_of, settled, taken
from noether.errors import CheckpointError, ConfigurationError, RunLockedError
from noether.journal import JOURNAL, Journal, open_journal
from noether.progress import Progress
from noether.remote import REMOTE
from noether.rundir import (
    CHECKPOINTS,
    Lock,
    lock,
    new_run,
    probe,
    probe_folder,
    read_status,
    runs,
    write_status,
)
from noether.storage import STORAGE, Storage, is_local, read
from noether.turn import Request

STATE, CONFIG = "state.pt", "config.yaml"


@dataclass(slots=True)
class Store:
    """An owned run directory."""

    run: Path
    lock: Lock | None
    """None on all ranks but the first, which alone writes."""
    begun_from: Found | None
    """The checkpoint that this session goes on from."""
    journal: Journal | None = None
    committed: int | None = None
    failures: list[Exception] = field(default_factory=list)
    """Of the saves that failed since the last one that didn't."""
    notes: list[str] = field(default_factory=list)
    earlier: Mapping[str, Any] = field(default_factory=dict)
    """What `status.json` said when it was opened."""
    storage: Storage = STORAGE
    group: Any = None
    """The ranks that save together, where there are several."""
    staging: Staging | None = None
    """Memory for saves in the background; None: they are made at once."""
    pending: "Pending | None" = None
    writer: ThreadPoolExecutor | None = None
    elsewhere: Path | None = None
    """The folder of the checkpoints, where it isn't the usual one."""

    @property
    def checkpoints(self) -> Path:
        return self.elsewhere or self.run / CHECKPOINTS


def finished(series: Path, resume: str) -> Path | None:
    """The run that `resume` names, when it is done already."""
    run = _named(series, resume)
    return run if run is not None and read_status(run).get("state") == "done" else None


def goes_on(series: Path, resume: str) -> bool:
    """Whether a session would go on from a checkpoint; only looks, and opens nothing."""
    run = _named(series, resume)
    if run is None:
        return resume not in ("never", "auto", "must")
    return bool(candidates(checkpoints_of(run)).manifests)


def chosen(run: Path, checkpoint: str) -> tuple[Path, Found]:
    """A run directory, or the newest one of a series, and its latest, best or tagged checkpoint.

    Raises ConfigurationError where there is none, CheckpointError where all are damaged.
    """
    if not (run / CHECKPOINTS).is_dir():
        newest_run = next(iter(runs(run)), None)
        if newest_run is None:
            raise ConfigurationError([f"{run} is no run directory, nor a series of them"])
        run = newest_run
    folder = checkpoints_of(run)
    found = newest(folder) if checkpoint == "latest" else find(folder, checkpoint)
    if found is None:
        which = "no checkpoint" if checkpoint == "latest" else f"none of the tag {checkpoint!r}"
        raise ConfigurationError([f"{folder} holds {which}; known tags: {_tags(folder)}"])
    return run, found


def _tags(folder: Path) -> str:
    tags = {claim.tag for manifest in candidates(folder).manifests for claim in manifest.claims}
    return ", ".join(sorted(tags)) or "none"


def open_store(series: Path, resume: str, checkpoint_dir: Path | None = None) -> Store:
    """The run directory that this session writes, locked and swept.

    `never` makes the next one of the series; `auto` goes on with the newest, or makes one; `must`
    only goes on; a path names a run to go on with, or a checkpoint that a new run starts from.
    A new run's checkpoints go to a folder of its number in `checkpoint_dir`.

    Raises ConfigurationError where there is nothing to go on with or the checkpoints are elsewhere,
    CheckpointError where all are damaged or gone, RunLockedError where another process owns the
    run.
    """
    run = _named(series, resume)
    if run is None and resume == "must":
        raise ConfigurationError([f"resume 'must': there is no run in {series}; use 'auto'"])
    found = None
    if run is None:
        found = None if resume in ("never", "auto") else Found(_explicit(resume))
        run = new_run(series, taken(checkpoint_dir))
    owned = lock(run)
    try:
        store = opened(run, owned, found, settled(run, checkpoint_dir))
        swept = clean(run, storage=STORAGE) + clean(store.checkpoints, storage=store.storage)
        store.notes += [f"removed {name}, half written or half deleted" for name in swept]
        if read_status(run).get("state") == "done":
            raise RunLockedError(f"{run} was ended by another process just now; start again")
        if found is None:
            _go_on(store)
        if store.begun_from is None and resume == "must":
            raise ConfigurationError([f"resume 'must': {run} holds no checkpoint; use 'auto'"])
        _check_attempts(store, resume)
        _probe(store)
    except BaseException:
        owned.release()
        raise
    return store


MAX_ATTEMPTS = 5
"""Sessions that may fail in a row at one update without a newer checkpoint."""


def _check_attempts(store: Store, resume: str) -> None:
    """Raises CheckpointError where it is no use to try once more; a path given is a wish to."""
    last = store.earlier = read_status(store.run)
    stuck = last.get("state") == "failed" and last.get("update") == store.committed
    if stuck and last.get("attempts", 1) >= MAX_ATTEMPTS and resume == "auto":
        raise CheckpointError(
            f"{store.run} has failed {MAX_ATTEMPTS} times in a row without progress, the last time "
            f"with {last.get('reason')!r}; see traceback.txt there, then go on with "
            f"resume={str(store.run)!r}"
        )


def _attempts(store: Store, state: str, now: Progress) -> int:
    """How many sessions in a row have failed as this one does, this one included."""
    last = store.earlier
    stuck = last.get("state") == "failed" and last.get("update") == store.committed
    if state == "failed":
        stuck = stuck and last.get("at_update") == now.update
    return 1 + last.get("attempts", 1) if stuck else 1


def _probe(store: Store) -> None:
    probe(store.run)
    if store.elsewhere is not None:
        probe_folder(store.elsewhere, str(store.elsewhere), store.storage)


def _go_on(store: Store) -> None:
    """Find the newest checkpoint, if there is one."""
    store.begun_from = newest(store.checkpoints, storage=store.storage)
    if store.begun_from is not None:
        store.committed = store.begun_from.manifest.update
    elif store.elsewhere is not None:
        _check_nothing_is_gone(store)


def opened(run: Path, owned: Lock | None, begun_from: Found | None, folder: Path) -> Store:
    """A run directory, its checkpoints in `folder`; without a lock on ranks but the first."""
    elsewhere = None if folder == run / CHECKPOINTS else folder
    how = STORAGE if is_local(folder) else REMOTE
    return Store(run, owned, begun_from, storage=how, elsewhere=elsewhere)


def _check_nothing_is_gone(store: Store) -> None:
    """A disk of another machine, or a bucket that was emptied, is no reason to begin anew."""
    update = read_status(store.run).get("update")
    if update is not None:
        raise CheckpointError(
            f"{store.elsewhere} holds no checkpoint, but {store.run} has committed update {update} "
            "there; make it reachable, or start afresh with resume 'never'"
        )


def last_launch(series: Path) -> Any:
    """What started the newest run of a series, if a launcher did."""
    run = next(iter(runs(series)), None)
    return None if run is None else read_status(run).get("launch")


def _named(series: Path, resume: str) -> Path | None:
    """The run to go on with; None: a new one."""
    if resume == "never":
        return None
    if resume in ("auto", "must"):
        return next(iter(runs(series)), None)
    return Path(resume) if (Path(resume) / CHECKPOINTS).is_dir() else None


def _explicit(text: str) -> Any:
    path = remote.path(text)
    try:
        read_manifest(path)
    except CheckpointError as error:
        if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise
        raise ConfigurationError(
            [
                f"resume {text!r} is neither auto, must, never, a run directory, "
                f"nor a checkpoint with a {MANIFEST}"
            ]
        ) from error
    return verify(path)


def begin_journal(
    store: Store, size: int | None, config: Mapping[str, Any], *, closed: bool = False
) -> None:
    """Open the journal, cut back to what the checkpoint knew, and write the configuration."""
    if store.lock is None:
        return
    path = store.run / JOURNAL
    store.journal = open_journal(path, size=size)
    if not closed:  # a closing tick that failed is made again, so its row is not the last word
        store.journal.cut_last("end")
    text = yaml.safe_dump(dict(config), sort_keys=False)
    (store.run / CONFIG).write_text(text, encoding="utf-8")


def close_store(store: Store) -> None:
    """Let a save in the background end, close the journal, and give the run directory back."""
    if store.writer is not None:
        store.writer.shutdown()
    part(store.group)
    if store.journal is not None:
        store.journal.close()
    if store.lock is not None:
        store.lock.release()


def status(store: Store, state: str, now: Progress, **more: Any) -> None:
    """Write `status.json`: the state, the last committed update, and a heartbeat."""
    if store.lock is None:
        return
    here = {"update": store.committed, "at_update": now.update, "session": now.session}
    here |= {"attempts": _attempts(store, state, now), "launch": this_launch()}
    write_status(store.run, state=state, **here, heartbeat=time.time(), pid=os.getpid(), **more)


def recorded_config(store: Store, directory: Path) -> Any:
    """The configuration of a checkpoint's run; None where there is none to read."""
    own = directory.parent == store.checkpoints
    return config_of(store.run if own else directory.parent.parent)


def config_of(run: Path) -> Any:
    """The configuration of a run; None where there is none to read."""
    try:
        return yaml.safe_load(read(run / CONFIG).decode("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def changed(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted path, old and new value wherever two configurations differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            deeper = f"{path}.{key}" if path else str(key)
            yield from changed(before.get(key), after.get(key), deeper)
    elif before != after:
        yield path, before, after


@dataclass(frozen=True, slots=True)
class Pending:
    """What goes on in the background."""

    update: int
    future: Future[str | None]
    """What is to be said about it."""


Spread = Callable[[str, TreePath, torch.Tensor], bool]


def save(
    store: Store, requests: Sequence[Request], files: Mapping[str, Any], spread: Spread | None
) -> None:
    """Commit one checkpoint for all these requests; raises CheckpointError.

    Several ranks do this together, what `spread` picks in parts.
    """
    claims = [{"by": r.by, **asdict(r.effect)} for r in requests if isinstance(r.effect, Save)]
    progress = files[STATE]["progress"]
    about = {"update": progress["update"], "progress": progress, "claims": claims}
    given = (store.checkpoints, files, about)
    if spread is None:
        _flush(store)
        commit(*given, storage=store.storage)
    else:
        more: Any = {"group": store.group, "storage": store.storage}
        commit_together(*given, spread=spread, first=partial(_flush, store), **more)


def _flush(store: Store) -> None:
    if store.journal is not None:
        store.journal.sync()


def tidy(store: Store) -> str | None:
    """Remove the checkpoints that no claim keeps; what is to be said about it."""
    if store.lock is None:
        return None
    try:
        prune(store.checkpoints, storage=store.storage)
    except CheckpointError as error:
        return str(error)
    return None


def behind(store: Store, update: int, work: Callable[[], str | None]) -> None:
    """Let a thread do the work."""
    if store.writer is None:
        store.writer = ThreadPoolExecutor(1, "noether-save")
    store.pending = Pending(update, store.writer.submit(work))
