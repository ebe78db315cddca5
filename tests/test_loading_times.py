"""What loading an update's samples took, of each kind of data, here and in workers."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

import noether
from noether import Callback, DataPass, Progress, TrainState, every, hooks
from noether.feed import feed
from noether.feed.serving import server, updates
from noether.randomness import seed_sample
from tests.group import Group
from tests.strategies import net, sgd

Sample = tuple[torch.Tensor, torch.Tensor, int]
Told = list[tuple[list[int], dict[str, float]]]
"""Of each update the samples trained on, and its timings."""


def sample(index: int) -> Sample:
    return torch.full((3,), float(index)), torch.zeros(2), index


def told(data: Any, *callbacks: Callback, **options: Any) -> Told:
    """What two epochs tell, each of two updates with four samples and one with two."""
    seen: Told = []
    trained: list[int] = []

    def loss(model: Any, batch: Any) -> torch.Tensor:
        trained.extend(batch[2].tolist())
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    def note(state: TrainState) -> None:
        seen.append((list(trained), dict(state.timings)))
        trained.clear()

    given: dict[str, Any] = {"until": {"epochs": 2}, "batch_size": 4, "defaults": False}
    if isinstance(data, DataLoader):
        del given["batch_size"]
    noting = Callback("noting", after_update=note)
    given |= {"loss": loss, "optimizer": sgd, "callbacks": [noting, *callbacks]}
    noether.train(net(), data, **{**given, **options})
    return seen


# ---------------------------------------------------------------- a clock of hands


@dataclass
class Hands:
    """A clock that goes on when it is told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def collate(self, samples: list[Sample]) -> Any:
        self.now += 2 + len(samples) / 8
        return default_collate(samples)


@pytest.fixture(name="hands")
def _hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    """The clock that loading is measured by; seeding is no part of it, however long it takes."""
    hands = Hands()

    def seed_slowly(seed: int, epoch: int, index: int) -> int:
        hands.now += 2**20
        return seed_sample(seed, epoch, index)

    monkeypatch.setattr("noether.feed.samples.perf_counter", hands)
    monkeypatch.setattr("noether.feed.samples.seed_sample", seed_slowly)
    monkeypatch.setattr("noether.feed.streams.seed_sample", seed_slowly)
    return hands


def cost(index: int) -> float:
    """Seconds that a sample takes: each its own."""
    return 1 + (1 << index) / 1024


@dataclass
class OneByOne:
    hands: Hands
    n: int = 10

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        self.hands.now += cost(index)
        return sample(index)


@dataclass
class AtOnce:
    hands: Hands
    n: int = 10

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        self.hands.now += sum(map(cost, indices))
        return [sample(index) for index in indices]


@dataclass
class Stream:
    hands: Hands
    n: int = 10

    def __iter__(self) -> Iterator[Sample]:
        for index in range(self.n):
            self.hands.now += cost(index)
            yield sample(index)


KINDS: list[Callable[[Hands], Any]] = [OneByOne, AtOnce, Stream]


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("made", KINDS)
def test_each_update_tells_what_its_own_samples_took(
    hands: Hands, made: Callable[[Hands], Any], accumulate: int
) -> None:
    found = told(made(hands), accumulate=accumulate, collate=hands.collate)
    assert [len(indices) for indices, _ in found] == [4, 4, 2] * 2
    for indices, timings in found:
        batches = ceil(len(indices) * accumulate / 4)
        assert timings["getitem"] == sum(map(cost, indices))
        assert timings["collate"] == 2 * batches + len(indices) / 8


def test_a_pass_is_no_part_of_it(hands: Hands) -> None:
    data = DataPass("val", lambda model, batch: {"x": batch[0]})
    passing = every(updates=1)(Callback("passing", on_schedule=lambda state: None, data=data))
    sets = {"val": Stream(hands)}
    for indices, timings in told(OneByOne(hands), passing, datasets=sets, collate=hands.collate):
        assert timings["getitem"] == sum(map(cost, indices))


def test_beginning_an_iterable_counts_to_its_first_sample(hands: Hands) -> None:
    class Opened:
        def __iter__(self) -> Iterator[Sample]:
            hands.now += 64
            return iter(Stream(hands))

    for number, (indices, timings) in enumerate(told(Opened())):
        assert timings["getitem"] == sum(map(cost, indices)) + 64 * (number % 3 == 0)


def test_what_a_resume_skips_of_an_iterable_is_not_the_next_update_s(
    hands: Hands, tmp_path: Path
) -> None:
    saving = hooks.checkpoint(schedule=every(updates=1))
    told(Stream(hands), saving, until={"updates": 1}, run_dir=tmp_path)
    start = tmp_path / "1" / "checkpoints" / "step-1"
    options: dict[str, Any] = {"until": {"updates": 2}, "run_dir": tmp_path, "resume": start}
    ((indices, timings),) = told(Stream(hands), saving, **options)
    assert indices == [4, 5, 6, 7]
    assert timings["getitem"] == sum(map(cost, indices))


@pytest.mark.parametrize(("made", "read"), [(OneByOne, [2, 3]), (Stream, [0, 1, 2, 3])])
def test_a_rank_tells_of_what_it_loads_itself(hands: Hands, made: Any, read: list[int]) -> None:
    options: dict[str, Any] = {"seed": 0, "shuffle": False, "drop_last": False}
    options |= {"batch_size": 4, "accumulate": 1, "rank": 1, "ranks": 2}
    served = server(feed(made(hands), collate=hands.collate, **options), {}, None)
    _, (part,) = next(updates(served, Progress(), 0))
    assert part.batch[2].tolist() == [2, 3]
    assert part.seconds == {"getitem": sum(map(cost, read)), "collate": 2 + 2 / 8}


# ---------------------------------------------------------------- what is not known


def rows() -> TensorDataset:
    inputs, targets, indices = default_collate([sample(index) for index in range(10)])
    return TensorDataset(inputs, targets, indices)


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_that_are_gathered_at_once_are_never_collated(workers: int) -> None:
    for _, timings in told(rows(), workers=workers):
        assert timings["getitem"] > 0
        assert "collate" not in timings


def test_rows_that_are_collated_by_the_user_s_function_have_both(hands: Hands) -> None:
    for indices, timings in told(rows(), collate=hands.collate):
        assert timings["collate"] == 2 + len(indices) / 8
        assert "getitem" in timings


@pytest.mark.parametrize("workers", [0, 1])
def test_of_a_loader_of_the_user_s_neither_is_known(workers: int) -> None:
    for _, timings in told(DataLoader(rows(), 4, num_workers=workers)):
        assert timings.keys() == {"data_wait", "forward", "backward", "step", "pause"}


# ---------------------------------------------------------------- workers

SAMPLE, BATCH = 0.002, 0.003
"""Seconds that a sample, and a batch, takes at least."""


def busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def collate_slowly(samples: list[Sample]) -> Any:
    busy(BATCH)
    return default_collate(samples)


@dataclass(frozen=True)
class Busy:
    n: int = 10

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        busy(SAMPLE)
        return sample(index)


@dataclass(frozen=True)
class BusyStream:
    data: Busy = field(default_factory=Busy)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.data.__getitem__, range(10))


@pytest.mark.parametrize("data", [Busy(), BusyStream()])
def test_what_workers_took_comes_with_their_batches(data: Any) -> None:
    begun = time.perf_counter()
    found = told(data, workers=2, accumulate=2, collate=collate_slowly)
    passed = time.perf_counter() - begun
    for indices, timings in found:
        assert timings["getitem"] >= SAMPLE * len(indices)
        assert timings["collate"] >= BATCH * ceil(len(indices) / 2)
    whole = sum(timings["getitem"] + timings["collate"] for _, timings in found)
    assert whole <= 2 * passed


def loaded() -> Told:
    return told(Busy(), until={"updates": 2}, collate=collate_slowly, workers=1)


@pytest.mark.timeout(200)
def test_each_rank_tells_of_its_own_workers(tmp_path: Path) -> None:
    group = Group(2, tmp_path / "log")
    try:
        ranks = group.call(loaded)
    finally:
        group.close()
    for update in zip(*ranks, strict=True):
        assert sorted(len(indices) for indices, _ in update) == [2, 2]
        for indices, timings in update:
            assert timings["getitem"] >= SAMPLE * len(indices)
            assert timings["collate"] >= BATCH
