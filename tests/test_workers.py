"""The pool of workers: when they live, what they load ahead, and what they leave alone."""

import multiprocessing
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy
import pytest
import torch

import noether
from noether import (  # fmt: skip
    Callback,
    DataPass,
    FeedError,
    Log,
    TrainState,
    at,
    every,
    once_at_end,
    once_at_start,
    skip,
    when,
)
from noether.feed import Feed, feed, windows
from noether.feed.fetches import TRAINING, Fetch, Shelf, training_fetches
from noether.feed.foresight import Outlook, fetches
from noether.feed.pool import close_pool, passed, pool, trained
from noether.progress import Progress
from tests.strategies import net, samples, sgd, squared_error

DATA, VAL, OTHER = samples(20), samples(7, seed=2), samples(5, seed=3)


def run(*callbacks: Callback, workers: int = 2, **options: Any) -> TrainState:
    given: dict[str, Any] = {
        "until": {"epochs": 3},
        "batch_size": 4,
        "datasets": {"val": VAL, "other": OTHER},
        "defaults": False,
        **options,
    }
    module = given.pop("module", None) or net()
    return noether.train(
        module,
        DATA,
        loss=squared_error,
        optimizer=sgd,
        callbacks=callbacks,
        workers=workers,
        **given,
    )


def inputs(model: Any, batch: Any) -> dict[str, Any]:
    return {"x": batch[0]}


def passing(name: str, schedule: Any, dataset: str = "val", **options: Any) -> Callback:
    def log(state: TrainState) -> Log:
        return Log({f"{name}/sum": state.results["x"].sum()})

    data = DataPass(dataset, inputs, **options)
    return Callback(name, on_schedule=log, data=data, schedule=schedule, writes=(f"{name}/sum",))


def children() -> frozenset[int]:
    return frozenset(p.pid for p in multiprocessing.active_children() if p.pid is not None)


def test_no_worker_is_started_or_ended_after_the_first_tick() -> None:
    seen: list[frozenset[int]] = []
    noting = Callback("noting", on_schedule=lambda state: seen.append(children()))
    before = children()
    a = passing("a", once_at_start | every(updates=2) | once_at_end)
    b = passing("b", every(epochs=1), "other", batch_size=1)
    run(noting, a, b, passing("c", skip(2, every(updates=3))))
    assert len(seen) == 16  # the closing tick repeats nothing
    assert len(set(seen)) == 1
    assert len(seen[0] - before) == 2
    assert children() <= before


def test_what_a_metric_decides_has_workers_that_stay() -> None:
    seen: list[frozenset[int]] = []
    noting = Callback("noting", after_update=lambda state: seen.append(children()))
    before = children()
    run(noting, passing("a", every(updates=2)), passing("b", when("a/sum", "<", 1e9), "other"))
    assert [len(each - before) for each in seen] == [2] * 2 + [4] * 13
    assert len(set(seen[2:])) == 1


def test_training_draws_the_numbers_that_it_draws_without_workers() -> None:
    def drawn(workers: int, **options: Any) -> list[tuple[float, ...]]:
        seen: list[tuple[float, ...]] = []

        def draw(state: TrainState) -> None:
            # Of normal numbers numpy draws two at once, and keeps the second for later.
            normal = float(numpy.random.randn()), float(numpy.random.rand())
            seen.append((random.random(), float(torch.rand(())), *normal))

        callbacks = Callback("draw", after_update=draw), passing("a", every(updates=2))
        run(*callbacks, workers=workers, **options)
        return seen

    assert len(set(drawn(2))) == 15
    assert drawn(2) == drawn(0) == drawn(2)
    assert drawn(0, accumulate=2) == drawn(2, accumulate=2)


def test_passes_that_read_the_same_load_it_once() -> None:
    read = Read(7)
    one, two = passing("a", every(epochs=1), "read"), passing("b", every(updates=5), "read")
    final = run(one, two, workers=0, datasets={"read": read})
    assert read.served == list(range(7)) * 3
    assert final.metrics["a/sum"] == final.metrics["b/sum"]


def test_passes_that_read_otherwise_are_made_apart() -> None:
    read = Read(7)
    one = passing("a", every(epochs=1), "read")
    run(one, passing("b", every(epochs=1), "read", limit=1), workers=0, datasets={"read": read})
    assert read.served == [*range(7), *range(4)] * 3


@dataclass
class Read:
    """Notes which of its samples were loaded."""

    n: int

    def __post_init__(self) -> None:
        self.served: list[int] = []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.served.append(index)
        return torch.full((3,), float(index)), torch.zeros(2)


# ---------------------------------------------------------------- foresight


def made() -> Feed:
    options: Any = {"seed": 0, "shuffle": True, "drop_last": False}
    return feed(range(10), batch_size=4, accumulate=2, collate=list, **options)


def outlook(*callbacks: Callback, now: Progress | None = None, offset: int = 0) -> Outlook:
    until, total = {"epochs": 2}, Progress(2, 6, 20, None)
    return Outlook(
        made(),
        until,
        total,
        now or Progress(),
        offset,
        {"val": 3},
        False,
        callbacks,
        {},
        frozenset(),
    )


def order(found: Any) -> list[tuple[str, int]]:
    """What is loaded in which update, batches of one kind after the other as one."""
    told = [(each.dataset, each.update) for each in found]
    return [each for i, each in enumerate(told) if i == 0 or told[i - 1] != each]


def test_passes_stand_where_their_ticks_will_be() -> None:
    a = passing("a", once_at_start | at(updates=[2, 3]) | once_at_end)
    expected = [("val", 0), (TRAINING, 1), (TRAINING, 2), ("val", 2), (TRAINING, 3), ("val", 3)]
    assert order(fetches(outlook(a))) == [
        *expected,
        *((TRAINING, u) for u in (4, 5, 6)),
        ("val", 6),
    ]


def test_a_resumed_session_goes_on_where_it_is() -> None:
    now = Progress(epoch=1, update=4, sample=14, session=2)
    assert order(fetches(outlook(now=now, offset=4))) == [(TRAINING, 5), (TRAINING, 6)]


def test_a_run_that_never_ends_is_foreseen_bit_by_bit() -> None:
    endless = outlook(passing("a", every(updates=1)))
    endless.until = {"seconds": 1e9}
    found = list(islice(fetches(endless), 10_000))
    assert found[-1].update > 2000


# ---------------------------------------------------------------- tags


def wanted(update: int = 1) -> Sequence[Fetch]:
    return training_fetches(made(), next(windows(made(), 0, 0)), 0, update)


@dataclass(frozen=True)
class Numbers:
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, int]:
        return os.getpid(), index


def test_a_batch_with_another_tag_is_an_error_and_never_swapped() -> None:
    workers = pool(Shelf({TRAINING: Numbers()}, list), wanted(1), 1, pin=False)
    try:
        with pytest.raises(FeedError, match=r"asked for batch 0 of training, update 2, found .* 1"):
            list(trained(workers, wanted(2)))
    finally:
        close_pool(workers)


def test_a_pass_that_the_stream_does_not_hold_is_loaded_elsewhere() -> None:
    shelf = Shelf({TRAINING: Numbers(), "val": Numbers()}, list)
    workers = pool(shelf, wanted(), 1, pin=False)
    try:
        other = [Fetch("val", 0, 0, range(3), 0, 0)]
        (((first, *_), _),) = passed(workers, other, foreseen=True)
        batches = [batch for batch, _ in trained(workers, wanted())]
        assert first[1] == 0
        assert [[index for _, index in batch] for batch in batches] == [
            list(each.indices) for each in wanted()
        ]
        assert len({pid for batch in [*batches, [first]] for pid, _ in batch}) == 2
    finally:
        close_pool(workers)


def test_the_end_of_the_stream_is_an_error() -> None:
    workers = pool(Shelf({TRAINING: Numbers()}, list), wanted(), 1, pin=False)
    try:
        list(trained(workers, wanted()))
        with pytest.raises(FeedError, match="has ended"):
            list(trained(workers, wanted(2)))
    finally:
        close_pool(workers)
