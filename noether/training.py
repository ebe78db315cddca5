"""`train`: the fold over the loop's snapshots, from the opening tick to the closing one."""

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from noether import dataflow, forecast, randomness
from noether import fold as folding
from noether import store as storage
from noether.arguments import check_horizon, checked, described_run, uncounted
from noether.callback import Callback, Pipeline, chain
from noether.checkpoint import newest
from noether.checkpoint.retention import summary
from noether.checkpoint.staging import Staging
from noether.console import Console
from noether.contents import restore
from noether.defaults import LIVE, wanted, with_defaults
from noether.distributed import (
    ALONE,
    Exchange,
    Ranks,
    apart,
    from_first,
    joined,
    ranks_here,
    restarted,
)
from noether.elsewhere import checkpoints_of
from noether.elsewhere import chosen as chosen_place
from noether.errors import CheckpointError, ConfigurationError
from noether.feed import Feed, feed, horizon, reached, size
from noether.loop import Clock, Course
from noether.machine import machine
from noether.progress import Progress
from noether.purity import watched
from noether.randomness import seed_all, seed_rank
from noether.resuming import go_on
from noether.running import lived
from noether.saving import core_save, load_tagged, save
from noether.schedules import Schedule
from noether.session import Session, closed, write_status
from noether.signals import Signals, listening
from noether.state import TrainState
from noether.trackers import Tracker
from noether.turn import Carry
from noether.weights import initialise
from noether.world import World

PARALLEL = ("parallel", "sync_batchnorm")
FEED = ("batch_size", "accumulate", "collate", "seed", "shuffle", "drop_last", "counters")
DEFAULTS = ("defaults", "log", "track")
MACHINE = (
    *("loss", "optimizer", "lr_scheduler", "lr_interval", "precision"),
    *("clip_norm", "clip_value", "on_nonfinite", "device"),
)


def train(
    model: Any,
    train_set: Any,
    *,
    loss: Callable[[Any, Any], Any],
    optimizer: Any,
    until: Mapping[str, float],
    batch_size: int = 64,
    collate: Callable[[list[Any]], Any] | None = None,
    callbacks: "Callback | Iterable[Callback]" = (),
    datasets: Mapping[str, Any] | None = None,
    lr_scheduler: Any = None,
    lr_interval: str = "update",
    accumulate: int = 1,
    precision: str = "fp32",
    clip_norm: float | None = None,
    clip_value: float | None = None,
    on_nonfinite: str | Mapping[str, int] = "raise",
    workers: int = 0,
    seed: int = 0,
    run_dir: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    resume: str | Path = "never",
    async_save: bool = False,
    init_from: str | Path | Mapping[str, Any] | None = None,
    defaults: bool | Mapping[str, bool] = True,
    log: Schedule | None = None,
    track: Schedule | None = None,
    strict: bool = False,
    compile: bool = False,
    drop_last: bool = False,
    shuffle: bool = True,
    counters: Mapping[str, Callable[[Any], int]] | None = None,
    actions: Mapping[str, Callable[..., Any]] | None = None,
    trackers: Sequence[Tracker] = (),
    device: str | None = None,
    parallel: str = "ddp",
    sync_batchnorm: bool = False,
    console: str = "auto",
    config: Mapping[str, Any] | None = None,
    clock: Clock = time.monotonic,
) -> TrainState:
    """Train `model` until the first limit is reached, folding `callbacks` over every tick.

    loss: `loss(model, batch)` gives the mean over the batch: a tensor, a mapping of named tensors,
        or a pair of either and outputs.
    optimizer: an optimizer, or a function of the parameters that makes one.
    until: limits among epochs, updates, samples and seconds.
    batch_size: samples of one update; each of its `accumulate` micro-batches has an equal share.
        The last update of an epoch takes what is left, or is left out with `drop_last`.
    train_set, datasets: data sets with `__len__` and `__getitem__`, iterables of samples, whose
        length is not known and which a resume goes through again up to where it was, or a
        DataLoader, whose batches are taken as micro-batches as they come.
    workers: processes that load training's and all passes' batches ahead; results are the same.
    datasets: evaluation sets by the names that data passes use.
    counters: what else is counted, for `every(tokens=...)` say: by name, a function from a batch,
        on the CPU, to how much it holds.
    actions: what `Do` can ask for beside what every run has: by name, a function of its options.
    trackers: where metrics go beside the journal, by `noether.trackers`: `[trackers.csv()]`, say.
        One that fails or hangs changes nothing but that its lines are lost, which is told.
    on_nonfinite: "raise", read one tick late; "skip", or {"skip": limit in a row}, read at once.
    run_dir: the series in which this run gets a numbered directory; None writes nothing.
    checkpoint_dir: where the run's checkpoints get a directory of its number, if not in its own: a
        local path, or a URL of any file system of fsspec, "s3://bucket/digits" say.
    resume: "never", "auto", "must", the path of a run, or the path or URL of a checkpoint.
    async_save: write checkpoints while training goes on; it stands still only to copy the state
        into CPU memory, which holds as much as a checkpoint and is kept for the next.
    init_from: the weights that a fresh run starts from: a .safetensors file, a state dict saved by
        torch, a checkpoint, a run; or a mapping with its `path` and any of `rename`, `include`,
        `exclude`, `weights`, `checkpoint`, and `missing`, `unexpected`, `mismatched`: "allow".
    parallel: on several ranks, started by `torchrun` say, "ddp" keeps a copy of the model on each,
        "fsdp" shares it out. `batch_size` is that of all ranks together.
    sync_batchnorm: make batch norms take the mean over all ranks; GPUs only.
    strict: look around every call of a hook for what hooks may not do: changing tensors, drawing
        random numbers, reading or logging undeclared metrics, keeping the model's own tensors. Such
        a hook is an error that names it, any error of a hook ends the run, and small models train
        several times slower: for tests and first runs.
    defaults: False for no default callbacks, {"progress": False} for all but one.
    console: "auto" draws on a terminal, under its lines, what goes on; "plain" prints lines alone,
        "json" one JSON value a line, "quiet" warnings alone.
    config: what `config.yaml` in the run directory shall say.

    Returns the closing snapshot. Raises ConfigurationError before anything is trained or written,
    HookError, NonFiniteError or CheckpointError from the run; after a SIGTERM `Preempted` (exit
    code 75), after a SIGINT KeyboardInterrupt, each with a checkpoint committed.
    """
    options: dict[str, Any] = {**locals()}
    pipeline = options["callbacks"] = _chained(callbacks)
    ranks = ranks_here()
    checked(options, pipeline, ranks=ranks.size)
    with listening() as signals, joined(ranks), randomness.kept():
        return _trained(options, pipeline, signals, ranks)


def _chained(given: Any) -> Pipeline:
    single = isinstance(given, Callback) or callable(given)
    return chain(given if single else tuple(given))


def _trained(
    options: Mapping[str, Any], pipeline: Pipeline, signals: Signals, ranks: Ranks
) -> TrainState:
    """A checked run, its ranks joined."""
    series = None if options["run_dir"] is None else Path(options["run_dir"])
    resume = str(options["resume"])
    if series is not None:
        again = from_first(ranks, lambda: restarted(storage.last_launch(series)))
        resume = "auto" if again and resume == "never" else resume
        done = from_first(ranks, lambda: storage.finished(series, resume))
        if done is not None:
            return _already_done(done, options)
    goes_on = False
    if series is not None and options["init_from"] is not None:
        goes_on = from_first(ranks, lambda: storage.goes_on(series, resume))
    session = _prepared(options, pipeline, signals, ranks, goes_on=goes_on)
    described = described_run(options, session.fold.pipeline)
    session.world.trackers, session.world.config = tuple(options["trackers"]), described
    if series is None:
        try:
            return lived(session)
        finally:
            session.world.console.recap()
    given = options["checkpoint_dir"]
    place = None if given is None else chosen_place(given)
    session.world.store = _opened(series, resume, place, ranks)
    session.world.store.staging = Staging() if options["async_save"] else None
    return _recorded(session, described)


def _opened(series: Path, resume: str, place: Path | None, ranks: Ranks) -> storage.Store:
    """The run directory, which rank 0 opens; the others are told where it is."""
    own: list[storage.Store] = []

    def opened() -> tuple[Any, ...]:
        own.append(storage.open_store(series, resume, place))
        return own[0].run, own[0].begun_from, own[0].checkpoints, own[0].committed

    run, begun_from, folder, committed = from_first(ranks, opened)
    store = own[0] if own else storage.opened(run, None, begun_from, folder)
    store.committed = committed
    store.group = apart(ranks)
    return store


def chosen(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: options[name] for name in names}


def laid_out(
    options: Mapping[str, Any], pipeline: Pipeline, ranks: Ranks = ALONE
) -> tuple[Feed, Progress, Pipeline]:
    """What the arguments of `train` make of a run: its feed, its horizon, and its callbacks with
    the default ones, in the fold's order. Only the training set is looked at.
    """
    own = chosen(options, FEED) | {"rank": ranks.rank, "ranks": ranks.size}
    served = feed(options["train_set"], **own)
    total = horizon(served, options["until"])
    saves = options["run_dir"] is not None
    pipeline = with_defaults(pipeline, total, saves=saves, **chosen(options, DEFAULTS))
    check_horizon(pipeline, total)
    if stray := [message for _, message in uncounted(pipeline, options["counters"] or {})]:
        raise ConfigurationError(stray)
    if served.updates_per_epoch == 0 and not reached(Progress(), options["until"]):
        raise ConfigurationError([f"the training set's {served.length} samples make no update"])
    return served, total, dataflow.order(pipeline)


def _prepared(
    options: Mapping[str, Any],
    pipeline: Pipeline,
    signals: Signals,
    ranks: Ranks,
    *,
    goes_on: bool,
) -> Session:
    """A session at the beginning of a run, nothing written yet."""
    served, total, pipeline = laid_out(options, pipeline, ranks)
    pipeline = tuple(map(watched, pipeline)) if options["strict"] else pipeline
    fold = folding.compiled(pipeline)
    live = wanted(options["defaults"], LIVE)
    console = Console(rank=ranks.rank, live=live, form=options["console"])
    first = options["init_from"]
    initialise(options["model"], first, pipeline, console, ranks, goes_on=goes_on)
    seed_all(options["seed"])
    made = machine(options["model"], ranks=ranks, **chosen(options, MACHINE + PARALLEL))
    seed_rank(options["seed"], ranks.rank)
    datasets = dict(options["datasets"] or {})
    start = Progress()
    course = Course(start, clock=options["clock"])
    if ranks.size > 1:
        course.exchange = Exchange(ranks, from_first(ranks, lambda: uuid4().hex))
    lengths = {"train": served.length, **{name: size(data) for name, data in datasets.items()}}
    base = TrainState("start", start, start, total=total, model=made.view, dataset_lengths=lengths)
    base = replace(base, rank=ranks.rank, world_size=ranks.size)
    if total.sample is not None:
        for name, why in forecast.warnings(pipeline, forecast.line(served, total)):
            console.warn(f"callback {name!r} can never run: {why}")
    world = World(
        made,
        course,
        options["seed"],
        served.length,
        console,
        None,
        pipeline,
        options["actions"] or {},
    )
    given = (served, options["until"], base, signals, datasets, Carry(), options["workers"])
    return Session(world, fold, *given)


def _already_done(run: Path, options: Mapping[str, Any]) -> TrainState:
    """The closing state of a run that is done, its weights put into the model."""
    made = machine(options["model"], **chosen(options, MACHINE))
    found = newest(checkpoints_of(run))
    carry, course = Carry(), Course(Progress())
    if found is not None:
        carry, _ = restore(found.directory, made, course, chain(options["callbacks"]))
        for tag in carry.loads:
            load_tagged(checkpoints_of(run), tag, made)
    now = course.progress
    console = Console(form=options["console"])
    console.say(f"{run} is done already, at update {now.update}; nothing is trained")
    state = TrainState("end", now, now, model=made.view, reason="the run was done already")
    return replace(state, metrics=carry.metrics, memories=carry.memories)


def _recorded(session: Session, config: Mapping[str, Any]) -> TrainState:
    """Live in a run directory, whose status tells the truth on every way out."""
    store, console = session.world.store, session.world.console
    assert store is not None
    state, reason = "failed", "it ended before its first tick"
    console.say(f"run directory {store.run}")
    try:
        size = go_on(session, store, config)
        write_status(session, "running", None)
        storage.begin_journal(store, size, config, closed=closed(session))
        if store.begun_from is not None and store.committed is None:
            save(session.world, session.carry, [core_save("start")], final=True)
        final = lived(session)
        state, reason = "done", str(final.reason)
        return final
    except (SystemExit, KeyboardInterrupt):
        state = "preempted" if session.signals.count else "failed"
        reason = session.signals.name or "a hook asked the process to exit"
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        _keep_traceback(store, error, console)
        raise
    finally:
        _farewell(session, store, state, reason)


def _keep_traceback(store: storage.Store, error: BaseException, console: Console) -> None:
    path = store.run / ("traceback.txt" if store.lock else f"traceback.{console.rank}.txt")
    with suppress(OSError):
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        console.say(f"traceback in {path}")


def _farewell(session: Session, store: storage.Store, state: str, reason: str) -> None:
    console = session.world.console
    try:
        write_status(session, state, reason)
    except OSError as error:
        console.warn(f"status.json could not be written: {error}")
    finally:
        storage.close_store(store)
    _say_best(store, console)
    for name, times in session.world.warned.items():
        console.say(f"callback {name!r} failed {times} times; the run went on")
    console.recap()
    console.say(f"{state}: {reason}\nrun directory {store.run}")


def _say_best(store: storage.Store, console: Console) -> None:
    try:
        for line in summary(store.checkpoints):
            console.say(line)
    except CheckpointError as error:  # the network; the run is over all the same
        console.warn(str(error))
