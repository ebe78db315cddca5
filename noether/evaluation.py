"""`evaluate`: every data pass once, without training."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from toolz import unique

from noether import averages, passes
from noether import fold as folding
from noether import store as storage
from noether.arguments import CHOICES, is_count, tracker_mistakes
from noether.callback import Callback, Pipeline, chain
from noether.checkpoint import Found
from noether.console import Console
from noether.contents import recall
from noether.distributed import Ranks, from_first, joined, ranks_here
from noether.errors import ConfigurationError, suggestion
from noether.feed import Feed, kind, size
from noether.feed.fetches import Fetch, pass_fetches
from noether.feed.serving import close, server
from noether.journal import EVALUATIONS, open_journal
from noether.loop import Course
from noether.machine import machine
from noether.perform import show, tell_failures, write_row
from noether.progress import Progress
from noether.randomness import seed_all
from noether.session import Session, combine, raise_fatal, served
from noether.signals import Signals
from noether.state import TrainState
from noether.trackers import Tracker
from noether.tracking import track_evaluation, tracked_evaluation
from noether.turn import Carry, foreseen
from noether.world import World


def evaluate(
    model: Any,
    *,
    loss: Callable[[Any, Any], Any],
    datasets: Mapping[str, Any],
    callbacks: "Callback | Iterable[Callback]",
    run: str | Path | None = None,
    checkpoint: str = "latest",
    batch_size: int = 64,
    collate: Callable[[list[Any]], Any] | None = None,
    precision: str = "fp32",
    workers: int = 0,
    seed: int = 0,
    parallel: str = "ddp",
    device: str | None = None,
    actions: Mapping[str, Callable[..., Any]] | None = None,
    trackers: Sequence[Tracker] = (),
) -> TrainState:
    """Make the data pass of each callback once, whatever its schedule says.

    A callback's `at_evaluation` sees the results, its `on_schedule` where it has none; those
    without a pass or an `at_evaluation` do not run. What they log is returned, and what they
    write is written; they save, set and stop nothing.

    run: a run directory, or a series of them, whose newest is meant. Its checkpoint gives weights,
        averages and counts; a row with the results is added to `evaluation.jsonl` in it. None: the
        model is taken as it is.
    checkpoint: "latest", "best", or the tag of one.
    batch_size: samples of a batch over all ranks, where a pass names none.
    actions: what `Do` can ask for beside what every run has, as for `train`.
    trackers: those of the run, as for `train`. They get each result as `evaluation/{metric}`, at
        the update of the checkpoint; Weights & Biases, whose steps only grow, in its summary.

    Returns the snapshot with its metrics. Raises ConfigurationError before anything is evaluated,
    CheckpointError where there is no such checkpoint, HookError from a callback.

    >>> import torch
    >>> from noether import hooks
    >>> data = torch.utils.data.TensorDataset(torch.eye(2), torch.tensor([0, 0]))
    >>> hits = hooks.accuracy(dataset="val")
    >>> evaluate(torch.nn.Linear(2, 2, bias=False), loss=torch.nn.functional.mse_loss,
    ...     datasets={"val": data}, callbacks=hits).metrics.keys()
    dict_keys(['accuracy/val'])
    """
    ranks, plain = ranks_here(), locals()
    given: Any = callbacks
    single = isinstance(given, Callback) or callable(given)
    pipeline = chain(given if single else tuple(given))
    _check(pipeline, datasets, plain, shared_out=ranks.size > 1 and parallel == "fsdp")
    feed = _feed(batch_size, collate, seed, ranks)
    options = {"loss": loss, "precision": precision, "device": device, "parallel": parallel}
    with joined(ranks):
        session = _prepared(model, pipeline, datasets, feed, ranks, options, dict(actions or {}))
        session.workers, session.world.trackers = workers, tuple(trackers)
        if run is not None:
            where, found = from_first(ranks, lambda: storage.chosen(Path(run), checkpoint))
            _take(session, where, found)
        try:
            return _evaluated(session)
        finally:
            if session.world.store is not None and session.world.store.journal is not None:
                session.world.store.journal.close()


def _check(
    pipeline: Pipeline,
    datasets: Mapping[str, Any],
    plain: Mapping[str, Any],
    *,
    shared_out: bool,
) -> None:
    tracking = tracker_mistakes(plain["trackers"], plain["run"])
    problems = [*_plain(plain), *passes.unservable(datasets), *tracking]
    if shared_out:
        problems += [
            f"data set {name!r} has no numbered samples, as parallel='fsdp' needs; use 'ddp'"
            for name, dataset in datasets.items()
            if kind(dataset) in ("stream", "batches")
        ]
    for callback in pipeline:
        data = callback.data
        if data is not None:
            wrong = [
                *passes.mistakes(data, datasets),
                *averages.mistakes(data, pipeline, shared_out=shared_out),
            ]
            problems += [f"callback {callback.name!r}: {mistake}" for mistake in wrong]
    if not any(callback.data or callback.at_evaluation for callback in pipeline):
        problems.append("no callback has a data pass or an at_evaluation: nothing to evaluate")
    if problems:
        raise ConfigurationError(problems)


def _plain(options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with numbers and choices."""
    if not is_count(options["batch_size"]):
        yield f"batch_size is {options['batch_size']!r}; expected a positive integer"
    if options["workers"] != 0 and not is_count(options["workers"]):
        yield f"workers is {options['workers']!r}; expected 0 or a positive integer"
    for name in ("precision", "parallel"):
        if options[name] not in CHOICES[name]:
            yield f"{name} is {options[name]!r}. {suggestion(str(options[name]), CHOICES[name])}"


def _feed(batch_size: int, collate: Any, seed: int, ranks: Ranks) -> Feed:
    """The geometry of a feed that trains on nothing."""
    collate = collate or torch.utils.data.default_collate
    order: Any = {"seed": seed, "shuffle": False, "drop_last": False}
    return Feed((), 0, batch_size, 1, collate=collate, rank=ranks.rank, ranks=ranks.size, **order)


def _prepared(
    model: Any,
    pipeline: Pipeline,
    datasets: Mapping[str, Any],
    feed: Feed,
    ranks: Ranks,
    options: Mapping[str, Any],
    actions: Mapping[str, Callable[..., Any]],
) -> Session:
    seed_all(feed.seed)
    idle: Any = {"lr_scheduler": None, "clip_norm": None, "clip_value": None}
    made = machine(
        model,
        optimizer=partial(torch.optim.SGD, lr=0.0),
        on_nonfinite="raise",
        lr_interval="update",
        ranks=ranks,
        **idle,
        **options,
    )
    known = (made, Course(Progress()), feed.seed, None, Console(rank=ranks.rank), None, pipeline)
    world = World(*known, actions=actions)
    lengths = {name: size(data) for name, data in datasets.items()}
    start = Progress()
    base = TrainState("evaluation", start, start, model=made.view, dataset_lengths=lengths)
    base = replace(base, rank=ranks.rank, world_size=ranks.size)
    fold = folding.compiled(pipeline)
    # No signal is listened to: nothing has to be saved, so the first one ends it.
    return Session(world, fold, feed, {}, base, Signals(), datasets, Carry())


def _take(session: Session, run: Path, found: Found) -> None:
    """Weights, memories and counts of a checkpoint; where the results go."""
    world = session.world
    for note in found.notes:
        world.console.warn(note)
    pipeline = session.fold.pipeline
    session.carry, progress = recall(found.directory, world.machine, pipeline)
    session.base = replace(session.base, before=progress, now=progress)
    world.course.progress = progress
    world.store = storage.Store(run, None, found, committed=progress.update)
    world.console.say(f"evaluating {found.directory}")
    if not world.machine.ranks.rank:
        world.store.journal = open_journal(run / EVALUATIONS)


def _evaluated(session: Session) -> TrainState:
    world, fold = session.world, session.fold
    begun = folding.begin(fold, session.base, session.carry)
    raise_fatal(session, session.base, tell_failures(world, begun.failures))
    pin = world.machine.device.type == "cuda"
    options: Any = {"workers": session.workers, "pin": pin, "lockstep": world.machine.lockstep}
    session.server = server(session.feed, session.datasets, _ahead(session), **options)
    try:
        serve = partial(served, session)
        outcome = folding.evaluate(fold, session.base, begun.carry, serve, combine(session))
    finally:
        close(session.server)
        world.console.wipe()
    raise_fatal(session, outcome.state, tell_failures(world, outcome.failures))
    write_row(world, outcome)
    with tracked_evaluation(world):
        track_evaluation(world, outcome.state)
        show(world, outcome)
    return outcome.state


def _ahead(session: Session) -> Iterator[Fetch]:
    """The batches of all passes, in the order in which they are made."""
    passing = [c.data for c in session.fold.pipeline if c.data is not None and foreseen(c)]
    lockstep = session.world.machine.lockstep
    for data in unique(passing, key=attrgetter("source")):
        length = size(session.datasets[data.dataset])
        if length is not None:
            update = session.base.now.update
            yield from pass_fetches(session.feed, data, length, update, lockstep=lockstep)
