"""What several ranks do is what one does: the same samples, counts, weights, passes and metrics.

The oracle is the run of one rank, made in this process. Functions called on ranks stand at module
level, so that they can be sent.
"""

import operator
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import noether
from noether import (
    Callback,
    ConfigurationError,
    DataPass,
    Log,
    Stop,
    TrainState,
    every,
    hooks,
    once_at_end,
    once_at_start,
)
from noether.journal import read
from noether.rundir import read_status, runs
from tests.group import Group, groups
from tests.strategies import net, samples, sgd, squared_error, unmeasured

# A group that hangs costs its whole time limit, so a failing example is shown as it is.
FEW = settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.generate))
pytestmark = pytest.mark.timeout(200)

each_size = pytest.mark.parametrize("ranks", [1, 2, 3])
Groups = Mapping[int, Group]
Sample = list[float]


@pytest.fixture(scope="session", name="ranked")
def _ranked() -> Iterator[Groups]:
    with groups(1, 2, 3) as made:
        yield made


# ---------------------------------------------------------------- what is trained on


@dataclass(slots=True)
class Numbered:
    """Samples in float64 that carry their number; noisy ones draw from all three generators."""

    length: int
    noisy: bool = False
    served: list[int] = field(default_factory=list)
    inputs: torch.Tensor = field(init=False)
    targets: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        content = samples(max(self.length, 1))
        self.inputs, self.targets = content.inputs.double(), content.targets.double()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        self.served.append(index)
        drawn = torch.zeros(3, dtype=torch.float64)
        if self.noisy:
            numbers = [random.random(), float(torch.rand(())), float(numpy.random.rand())]
            drawn = torch.tensor(numbers, dtype=torch.float64)
        return torch.tensor(index), self.inputs[index] + drawn, self.targets[index]


@dataclass(frozen=True, slots=True)
class Streamed:
    """The same samples one after another, their number not known beforehand."""

    data: Numbered

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        return (self.data[index] for index in range(len(self.data)))


@dataclass(frozen=True, slots=True)
class Case:
    """A run, whatever number of ranks makes it."""

    length: int = 7
    share: int = 1
    """Samples of one rank's micro-batch."""
    accumulate: int = 1
    until: Mapping[str, int] = field(default_factory=lambda: {"epochs": 2})
    seed: int = 0
    streamed: bool = False
    noisy: bool = False
    dropout: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def batch_size(self, ranks: int) -> int:
        """The samples of one update, over all ranks."""
        return self.share * self.accumulate * ranks


limits = st.one_of(
    st.fixed_dictionaries({"epochs": st.integers(1, 3)}),
    st.fixed_dictionaries({"updates": st.integers(1, 7)}),
    st.fixed_dictionaries({"samples": st.integers(1, 25)}),
)
options = st.fixed_dictionaries(
    {},
    optional={"shuffle": st.booleans(), "clip_norm": st.sampled_from([0.3, 2.0])},
)
cases = st.builds(
    Case,
    length=st.integers(1, 13),
    share=st.integers(1, 2),
    accumulate=st.integers(1, 3),
    until=limits,
    seed=st.integers(0, 3),
    streamed=st.booleans(),
    options=options,
)


@dataclass(slots=True)
class Played:
    """What a rank saw of its run."""

    rank: int = 0
    steps: list[list[Sample]] = field(default_factory=list)
    """What each accumulation step's loss was asked for: number and inputs of the samples."""
    counts: list[tuple[Any, ...]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    """The fresh metrics of each tick."""
    weights: list[torch.Tensor] = field(default_factory=list)
    served: list[int] = field(default_factory=list)
    memory: Any = None
    final: tuple[Any, ...] = ()
    told: list[tuple[int, int]] = field(default_factory=list)
    """Rank and number of ranks, as every hook was told."""
    joined: bool = False
    """Whether torch's process group was still there after the run."""


def watching(played: Played, current: list[Sample]) -> list[Callback]:
    """Callbacks that note everything, and log the loss and the norm of the gradient."""

    def close(state: TrainState) -> None:
        played.told.append((state.rank, state.world_size))
        played.steps.append(list(current))
        current.clear()

    def norm(state: TrainState) -> Log:
        played.told.append((state.rank, state.world_size))
        return Log({"gradient": state.model.grad_norm})

    def tell(state: TrainState, total: float) -> tuple[Any, Log]:
        played.told.append((state.rank, state.world_size))
        now = state.now
        played.counts.append((now.epoch, now.update, now.sample, now.counters["numbers"]))
        loss = state.losses["total"].detach().clone()
        return total + loss, Log({"mine": loss})

    def read_metrics(state: TrainState) -> None:
        played.metrics.append({name: state.metrics[name] for name in sorted(state.fresh)})

    return [
        Callback("close", after_accumulation_step=close),
        Callback("norm", before_update=norm, writes=("gradient",)),
        Callback(
            "tell",
            init=lambda state: torch.zeros((), dtype=torch.float64),
            after_update=tell,
            writes=("mine",),
        ),
        Callback("reader", on_schedule=read_metrics, schedule=every(updates=1), reads=("mine",)),
    ]


def play(case: Case, batch_size: int, series: str | None = None, resume: str = "never") -> Played:
    """Train as the case says; gives all that was seen. On one rank or on several."""
    played, current = Played(), list[Sample]()
    model = net(dropout=case.dropout).double()
    data = Numbered(case.length, case.noisy)

    def loss(model: Any, batch: Any) -> torch.Tensor:
        numbers, inputs, targets = batch
        current.extend([float(n), *x] for n, x in zip(numbers, inputs.tolist(), strict=True))
        return squared_error(model, (inputs, targets))

    saving = hooks.checkpoint(schedule=every(updates=1) | once_at_end, keep_last=None)
    final = noether.train(
        model,
        Streamed(data) if case.streamed else data,
        loss=loss,
        optimizer=sgd,
        until=case.until,
        batch_size=batch_size,
        accumulate=case.accumulate,
        seed=case.seed,
        callbacks=[*watching(played, current), *([saving] if series else [])],
        counters={"numbers": lambda batch: int((batch[0] + 1).square().sum())},
        defaults=False,
        run_dir=series,
        resume=resume,
        **case.options,
    )
    played.rank = final.rank
    played.weights = [value.detach().clone() for value in model.parameters()]
    played.served, played.memory = data.served, final.memories["tell"]
    played.final = (final.now.epoch, final.now.update, final.now.sample)
    played.joined = torch.distributed.is_initialized()
    return played


def bitwise(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def close_to(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(one, other, strict=True))


def near(rows: Sequence[Mapping[str, float]], tolerance: float) -> list[Any]:
    return [pytest.approx(row, rel=tolerance, abs=tolerance) for row in rows]


def makes(parts: Sequence[list[Sample]], whole: list[Sample]) -> bool:
    """Whether the parts in rank order are the whole.

    A rank that has no sample of its own may have been given a stand-in: it is left out.
    """
    return any(
        list(chain.from_iterable(part for part, own in zip(parts, owning, strict=True) if own))
        == whole
        for owning in product((True, False), repeat=len(parts))
    )


def check_shares(results: Sequence[Played], one: Played, full: int) -> None:
    """The ranks' parts of each micro-batch are the one rank's micro-batch, in rank order."""
    assert [len(result.steps) for result in results] == [len(one.steps)] * len(results)
    for number, whole in enumerate(one.steps):
        parts = [result.steps[number] for result in results]
        assert makes(parts, whole), (number, parts, whole)
        if len(whole) == full:  # nobody needs a stand-in here
            assert [len(part) for part in parts] == [full // len(parts)] * len(parts)
            assert list(chain.from_iterable(parts)) == whole


# ---------------------------------------------------------------- training

# More ranks than samples; a left-over window of fewer samples than ranks, and of one step alone.
tricky = [
    Case(length=1),
    Case(length=7, share=2, until={"epochs": 1}),
    Case(length=7, share=1, accumulate=2),
    Case(length=13, share=2, accumulate=3, until={"samples": 14}),
    Case(length=5, share=2, accumulate=2, streamed=True),
]


@each_size
@FEW
@given(case=cases)
@example(case=tricky[0])
@example(case=tricky[1])
@example(case=tricky[2])
@example(case=tricky[4])
def test_ranks_share_each_micro_batch_of_one_rank_in_order(
    ranked: Groups, ranks: int, case: Case
) -> None:
    size = case.batch_size(ranks)
    one = play(case, size)
    results = ranked[ranks].call(play, case, size)
    check_shares(results, one, case.share * ranks)


@each_size
@FEW
@given(case=cases.filter(lambda case: "epochs" in case.until))
@example(case=tricky[0])
@example(case=tricky[1])
@example(case=tricky[2])
def test_each_sample_is_served_and_counted_once_per_epoch_over_all_ranks(
    ranked: Groups, ranks: int, case: Case
) -> None:
    results = ranked[ranks].call(play, case, case.batch_size(ranks))
    epochs = case.until["epochs"]
    served = Counter(chain.from_iterable(result.served for result in results))
    assert set(served) == set(range(case.length))
    assert min(served.values()) >= epochs
    seen = sum(len(step) for result in results for step in result.steps)
    if not case.streamed:  # a stream can only be read past the others' samples
        assert sum(served.values()) <= seen
    squares = sum((number + 1) ** 2 for number in range(case.length))
    for result in results:
        assert result.counts[-1][0] == epochs
        assert result.counts[-1][2:] == (epochs * case.length, epochs * squares)


@each_size
@FEW
@given(case=cases)
@example(case=tricky[0])
@example(case=tricky[3])
@example(case=tricky[4])
def test_counts_are_those_of_one_rank_at_every_tick_and_limit(
    ranked: Groups, ranks: int, case: Case
) -> None:
    size = case.batch_size(ranks)
    one = play(case, size)
    for result in ranked[ranks].call(play, case, size):
        assert (result.counts, result.final) == (one.counts, one.final)


@each_size
@FEW
@given(case=cases)
@example(case=tricky[0])
@example(case=tricky[1])
@example(case=tricky[2])
@example(case=tricky[3])
@example(case=tricky[4])
def test_weights_are_equal_on_all_ranks_and_those_of_one_rank(
    ranked: Groups, ranks: int, case: Case
) -> None:
    size = case.batch_size(ranks)
    one = play(case, size)
    results = ranked[ranks].call(play, case, size)
    for result in results:
        assert bitwise(result.weights, results[0].weights)
        assert close_to(result.weights, one.weights)
    untrained = [value.detach() for value in net().double().parameters()]
    assert not close_to(one.weights, untrained), "a run that trains nothing proves nothing"


@each_size
@FEW
@given(case=cases)
@example(case=tricky[1])
@example(case=tricky[2])
def test_metrics_and_memories_are_equal_on_all_ranks_and_those_of_one_rank(
    ranked: Groups, ranks: int, case: Case
) -> None:
    size = case.batch_size(ranks)
    one = play(case, size)
    assert set(one.metrics[0]) == {"mine", "gradient"}
    results = ranked[ranks].call(play, case, size)
    for result in results:
        assert result.metrics == results[0].metrics
        assert result.metrics == near(one.metrics, 1e-9)
        assert float(result.memory) == pytest.approx(float(one.memory), rel=1e-9)


@each_size
def test_every_hook_is_told_its_rank_and_the_group_is_left_as_it_was(
    ranked: Groups, ranks: int
) -> None:
    results = ranked[ranks].call(play, Case(), 2 * 3 * ranks)
    for rank, result in enumerate(results):
        assert result.rank == rank
        assert set(result.told) == {(rank, ranks)}
        assert result.joined


@each_size
@settings(FEW, max_examples=8)
@given(case=cases.map(lambda case: replaced(case, noisy=True, streamed=False)))
def test_augmentation_draws_for_a_sample_as_on_one_rank(
    ranked: Groups, ranks: int, case: Case
) -> None:
    size = case.batch_size(ranks)
    one = play(case, size)
    results = ranked[ranks].call(play, case, size)
    check_shares(results, one, case.share * ranks)
    plain = play(replaced(case, noisy=False), size)
    assert one.steps != plain.steps


def replaced(case: Case, **fields: Any) -> Case:
    given = {name: getattr(case, name) for name in case.__slots__}
    return Case(**(given | fields))


@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "noisy"])
def test_worker_processes_change_nothing(ranked: Groups, noisy: bool) -> None:  # noqa: FBT001
    case = Case(length=11, share=2, accumulate=2, noisy=noisy)
    one = play(case, 8)
    without = ranked[2].call(play, case, 8)
    helped = ranked[2].call(play, replaced(case, options={"workers": 2}), 8)
    check_shares(helped, one, 4)
    for result in helped:
        assert result.counts == one.counts
        assert bitwise(result.weights, without[0].weights)


def sharded(parallel: str | None) -> list[float]:
    """Train on uneven windows and validate after each epoch; gives the validation's losses."""
    losses: list[float] = []
    more: dict[str, Any] = {} if parallel is None else {"parallel": parallel}

    def note(state: TrainState) -> None:
        losses.append(state.metrics["loss/val/total"])

    noether.train(
        net(dropout=0.0).double(),
        Numbered(9),
        loss=lambda model, batch: squared_error(model, batch[1:]),
        optimizer=sgd,
        until={"epochs": 3},
        batch_size=4,
        callbacks=[
            every(epochs=1)(hooks.offline_loss(dataset="val", batch_size=2)),
            Callback("note", on_schedule=note, schedule=every(epochs=1), reads=("loss/val/total",)),
        ],
        datasets={"val": Numbered(5)},
        defaults=False,
        **more,
    )
    return losses


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_whole_and_sharded_weights_train_as_those_of_one_rank(
    ranked: Groups, parallel: str
) -> None:
    one = sharded(None)
    assert len(one) == len(set(one)) == 3
    results = ranked[2].call(sharded, parallel)
    assert results[0] == results[1] == pytest.approx(one, rel=1e-6)


# ---------------------------------------------------------------- refused


def refused(kind: str) -> str:
    """The message of the ConfigurationError, and how often the data was asked."""
    data = Numbered(8)
    dataset: Any = data
    loader: Any = torch.utils.data.DataLoader(dataset, batch_size=2)
    given: dict[str, Any] = {
        "batch size": {"train_set": data, "batch_size": 6, "accumulate": 2},
        "loader": {"train_set": loader, "batch_size": 12},
    }[kind]
    try:
        noether.train(
            net().double(),
            given.pop("train_set"),
            loss=lambda model, batch: squared_error(model, batch[1:]),
            optimizer=sgd,
            until={"updates": 1},
            defaults=False,
            **given,
        )
    except ConfigurationError as error:
        assert data.served == []
        return str(error)
    return "nothing"


@pytest.mark.parametrize(
    ("kind", "ranks", "named"),
    [
        ("batch size", 2, ["batch_size", "6", "2"]),
        ("loader", 2, ["DataLoader"]),
        ("loader", 3, ["DataLoader"]),
    ],
)
def test_what_ranks_cannot_share_is_refused_on_each_of_them(
    ranked: Groups, kind: str, ranks: int, named: list[str]
) -> None:
    assert refused(kind) == "nothing", "one rank takes it"
    for message in ranked[ranks].call(refused, kind):
        assert all(word in message for word in named), message


def test_a_batch_that_divides_by_accumulation_and_ranks_is_not_refused(ranked: Groups) -> None:
    assert ranked[3].call(refused, "batch size") == ["nothing"] * 3


# ---------------------------------------------------------------- passes


@dataclass(slots=True)
class Tally:
    """A partial result that is merged as torchmetrics' metrics are."""

    words: list[str]

    def merge_state(self, other: "Tally") -> None:
        self.words += other.words


REDUCE: Mapping[str, Any] = {
    **{"mean": "mean", "sum": "sum", "least": "min", "most": "max"},
    **{"tally": "merge", "count": "merge", "text": operator.add},
}


@dataclass(frozen=True, slots=True)
class Viewing:
    """A pass over an evaluation set before training."""

    length: int
    size: int | None
    limit: int | None = None
    streamed: bool = False
    offload: bool = False


viewings = st.builds(
    Viewing,
    length=st.integers(0, 11),
    size=st.integers(1, 4),
    limit=st.none() | st.integers(1, 4),
    streamed=st.booleans(),
    offload=st.booleans(),
)


def reduced(model: Any, batch: Any) -> dict[str, Any]:
    """Something for every reduction, and of every kind."""
    numbers, inputs, _ = batch
    first, words = int(numbers[0]), [f"w{int(n)}" for n in numbers]
    return {
        **{"numbers": numbers, "inputs": inputs, "outputs": model(inputs), "one": inputs.sum()},
        **{"ragged": torch.full((1, 1 + first % 3), first), "words": words, "number": first},
        **{"mean": inputs, "sum": inputs, "least": inputs, "most": inputs},
        **{
            "tally": Tally(list(words)),
            "count": Counter(words),
            "text": words[0],
        },
    }


@dataclass(slots=True)
class Viewed:
    """What a rank got of a pass, and the batches that it processed itself."""

    results: dict[str, Any] = field(default_factory=dict)
    batches: list[list[int]] = field(default_factory=list)
    calls: int = 0


def view(viewing: Viewing, batch_size: int = 6, accumulate: int = 1) -> Viewed:
    """Make the pass on the opening tick of a run that trains nothing."""
    viewed = Viewed()

    def process(model: Any, batch: Any) -> dict[str, Any]:
        viewed.batches.append(batch[0].tolist())
        return reduced(model, batch)

    def keep(state: TrainState) -> None:
        viewed.calls += 1
        viewed.results = dict(state.results)

    data = Numbered(viewing.length)
    noether.train(
        net(dropout=0.0).double(),
        Numbered(6),
        loss=lambda model, batch: squared_error(model, batch[1:]),
        optimizer=sgd,
        until={"updates": 0},
        batch_size=batch_size,
        accumulate=accumulate,
        callbacks=[
            Callback(
                "keep",
                on_schedule=keep,
                schedule=once_at_start,
                data=DataPass(
                    "val",
                    process,
                    REDUCE,
                    viewing.size,
                    limit=viewing.limit,
                    offload=viewing.offload,
                ),
            )
        ],
        datasets={"val": Streamed(data) if viewing.streamed else data},
        defaults=False,
    )
    return viewed


def same(one: Any, other: Any) -> bool:
    """Equal in type, shape and every bit, tensors inside included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def cut(viewing: Viewing) -> list[list[int]]:
    """The batches of a pass."""
    assert viewing.size is not None
    starts = range(0, viewing.length, viewing.size)
    whole = [list(range(viewing.length))[start : start + viewing.size] for start in starts]
    return whole[: viewing.limit]


ROUNDED = ("mean", "sum")
"""What may differ in the last digits."""


@each_size
@FEW
@given(viewing=viewings)
@example(viewing=Viewing(0, 2))
@example(viewing=Viewing(1, 1))
@example(viewing=Viewing(7, 2))
@example(viewing=Viewing(7, 1, limit=2))
@example(viewing=Viewing(5, 2, streamed=True))
def test_a_pass_gives_every_rank_the_exact_result_of_one(
    ranked: Groups, ranks: int, viewing: Viewing
) -> None:
    one = view(viewing)
    results = ranked[ranks].call(view, viewing)
    for viewed in results:
        assert viewed.calls == one.calls == 1
        assert set(viewed.results) == set(one.results)
        for name, value in viewed.results.items():
            assert same(value, results[0].results[name]), name
            if name in ROUNDED:
                torch.testing.assert_close(value, one.results[name], rtol=1e-12, atol=1e-12)
            else:
                assert same(value, one.results[name]), name


def part(batches: list[Any], rank: int, ranks: int, *, streamed: bool = False) -> list[Any]:
    """A rank's batches: contiguous, as even as can be; those of a stream in turn."""
    if streamed:
        return batches[rank::ranks]
    return batches[rank * len(batches) // ranks : (rank + 1) * len(batches) // ranks]


@each_size
@FEW
@given(viewing=viewings)
@example(viewing=Viewing(2, 1))
def test_a_pass_sees_the_data_set_once_and_in_order_each_rank_a_part_of_its_batches(
    ranked: Groups, ranks: int, viewing: Viewing
) -> None:
    batches = cut(viewing)
    numbers = list(chain.from_iterable(batches))
    for rank, viewed in enumerate(ranked[ranks].call(view, viewing)):
        assert viewed.batches == part(batches, rank, ranks, streamed=viewing.streamed)
        if not numbers:
            assert viewed.results == {}
            continue
        results, words = viewed.results, [f"w{number}" for number in numbers]
        firsts = [f"w{batch[0]}" for batch in batches]
        inputs = Numbered(viewing.length).inputs[numbers]
        assert results["numbers"].tolist() == numbers
        assert torch.equal(results["inputs"], inputs)
        assert results["words"] == results["tally"].words == words
        assert results["number"] == [batch[0] for batch in batches]
        assert (results["count"], results["text"]) == (Counter(words), "".join(firsts))
        torch.testing.assert_close(results["mean"], inputs.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(results["sum"].sum(), inputs.sum(), rtol=1e-12, atol=1e-12)


@each_size
def test_a_pass_takes_a_ranks_micro_batch_where_it_names_no_size(
    ranked: Groups, ranks: int
) -> None:
    viewed = ranked[ranks].call(view, Viewing(25, None), 24, 2)
    size = 24 // (2 * ranks)
    batches = [list(range(25))[start : start + size] for start in range(0, 25, size)]
    parts = [part(batches, rank, ranks) for rank in range(ranks)]
    assert [result.batches for result in viewed] == parts


def weighed() -> list[float]:
    """The means of D14: values 0, 1, 4 in batches of two, as a hook reads them."""
    found: list[float] = []
    noether.train(
        net().double(),
        Numbered(6),
        loss=lambda model, batch: squared_error(model, batch[1:]),
        optimizer=sgd,
        until={"epochs": 1},
        batch_size=6,
        callbacks=[
            Callback(
                "mean",
                on_schedule=lambda state: found.append(float(state.results["x"])),
                schedule=every(epochs=1),
                data=DataPass("val", lambda model, batch: {"x": batch.double()}, "mean", 2),
            )
        ],
        datasets={"val": [0, 1, 4]},
        defaults=False,
    )
    return found


@each_size
def test_a_mean_weighs_samples_and_counts_no_padding(ranked: Groups, ranks: int) -> None:
    assert ranked[ranks].call(weighed) == [[5 / 3]] * ranks


# ---------------------------------------------------------------- agreement

VALUES = (4.0, -1.0, 6.5)
"""What each rank logs."""
OVER: Mapping[str, Any] = {
    "mean": lambda values: sum(values) / len(values),
    "sum": sum,
    "min": min,
    "max": max,
    "none": lambda values: values[0],
}


def bare(*callbacks: Callback, updates: int = 5) -> TrainState:
    return noether.train(
        net().double(),
        Numbered(12),
        loss=lambda model, batch: squared_error(model, batch[1:]),
        optimizer=sgd,
        until={"updates": updates},
        batch_size=6,
        callbacks=callbacks,
        defaults=False,
    )


def logged(kind: str) -> tuple[dict[str, float], list[dict[str, float]], bool]:
    """Final metrics, those that a later hook of the same tick saw, whether they are plain."""
    seen: list[dict[str, float]] = []

    def teller(over: Any) -> Callback:
        def tell(state: TrainState) -> Log:
            value: Any = VALUES[state.rank]
            kinds: dict[str, Any] = {"number": float, "whole": int, "tensor": torch.tensor}
            return Log({over: kinds[kind](value)}, over_ranks=over)

        return Callback(over, after_update=tell, writes=(over,))

    def note(state: TrainState) -> None:
        seen.append(dict(state.metrics))

    reader = Callback("reader", on_schedule=note, schedule=every(updates=1), reads=tuple(OVER))
    final = bare(*map(teller, OVER), reader, updates=2)
    plain = all(type(value) in (int, float) for value in final.metrics.values())
    return dict(final.metrics), seen, plain


@each_size
@pytest.mark.parametrize("kind", ["number", "whole", "tensor"])
def test_a_logged_value_is_made_one_over_the_ranks(ranked: Groups, ranks: int, kind: str) -> None:
    values = [int(value) if kind == "whole" else value for value in VALUES[:ranks]]
    expected = {over: pytest.approx(combine(values), rel=1e-7) for over, combine in OVER.items()}
    results = ranked[ranks].call(logged, kind)
    for metrics, seen, plain in results:
        assert plain
        assert metrics == results[0][0] == expected
        assert seen == [metrics, metrics]


def stopped(who: str) -> tuple[int, str | None, list[int]]:
    """Last update, the reason, and the updates of the ticks that a hook saw."""
    ticks: list[int] = []

    def tell(state: TrainState) -> Log:
        return Log({"value": VALUES[state.rank] * state.now.update})

    def stop(state: TrainState) -> Stop | None:
        ticks.append(state.now.update)
        asks = {
            "all": state.now.update >= 2,
            "last": state.now.update >= 2 and state.rank == state.world_size - 1,
            "first": state.now.update >= 2 and state.rank == 0,
            # 1.5 times the update on two ranks, on one of which the value never is above 4.
            "metric": state.metrics["value"] > 4,
        }
        return Stop("enough") if asks[who] else None

    final = bare(
        Callback("tell", after_update=tell, writes=("value",)),
        Callback("stop", on_schedule=stop, schedule=every(updates=1), reads=("value",)),
        updates=9,
    )
    return final.now.update, final.reason, ticks


@pytest.mark.parametrize(
    ("who", "ranks", "last"),
    [
        *(("all", ranks, 2) for ranks in (1, 2, 3)),
        *(("last", ranks, 3) for ranks in (2, 3)),
        *(("first", ranks, 3) for ranks in (2, 3)),
        ("metric", 2, 3),
    ],
)
def test_a_stop_ends_all_ranks_after_its_tick_or_the_next_where_some_ask_alone(
    ranked: Groups, who: str, ranks: int, last: int
) -> None:
    for update, reason, ticks in ranked[ranks].call(stopped, who):
        assert update == last
        assert ticks == list(range(1, last + 1))
        assert reason is not None


# ---------------------------------------------------------------- the run directory


def recorded(series: str) -> int:
    """A run that journals training, validation and checkpoints."""
    final = noether.train(
        net(dropout=0.0).double(),
        Numbered(13),
        loss=lambda model, batch: squared_error(model, batch[1:]),
        optimizer=sgd,
        until={"epochs": 3},
        batch_size=6,
        callbacks=[
            every(updates=2)(hooks.online_loss()),
            every(epochs=1)(hooks.offline_loss(dataset="val", batch_size=2)),
            hooks.checkpoint(schedule=every(updates=4) | once_at_end),
        ],
        datasets={"val": Numbered(5)},
        defaults={"progress": False},
        run_dir=series,
    )
    return int(final.now.update)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_journal_is_that_of_one_rank_and_the_only_one(
    ranked: Groups, ranks: int, tmp_path: Path
) -> None:
    recorded(str(tmp_path / "one"))
    assert ranked[ranks].call(recorded, str(tmp_path / "many")) == [9] * ranks
    one, many = (list(read(tmp_path / name / "1/journal.jsonl")) for name in ("one", "many"))
    apart = ("seconds", "metrics")
    assert [without(row, apart) for row in many] == [without(row, apart) for row in one]
    metrics = [unmeasured(row["metrics"]) for row in many]
    assert metrics == near([unmeasured(row["metrics"]) for row in one], 1e-12)
    assert {"loss/online/total/U2", "loss/val/total"} <= set().union(*metrics)
    assert [run.name for run in runs(tmp_path / "many")] == ["1"]
    status = read_status(tmp_path / "many/1")
    assert (status["state"], status["update"]) == ("done", 9)


def without(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def checkpoint(series: str, update: int) -> str:
    return str(Path(series) / "1" / "checkpoints" / f"step-{update}")


@pytest.mark.parametrize("ranks", [2, 3])
@settings(FEW, max_examples=6)
@given(update=st.integers(1, 5), accumulate=st.integers(1, 2), seed=st.integers(0, 3))
@example(update=1, accumulate=1, seed=0)  # in the middle of an epoch
@example(update=3, accumulate=2, seed=0)  # at its end
def test_a_run_that_goes_on_equals_the_unbroken_one_bit_for_bit(
    ranked: Groups, ranks: int, update: int, accumulate: int, seed: int
) -> None:
    # Three updates an epoch, the last one left over; each rank's dropout draws go on too.
    size = 2 * accumulate * ranks
    case = Case(2 * size + 1, 2, accumulate, {"updates": 6}, seed=seed, noisy=True, dropout=0.3)
    with tempfile.TemporaryDirectory() as series:
        whole = ranked[ranks].call(play, case, size, series)
        found = checkpoint(series, update)
        resumed = ranked[ranks].call(play, case, size, series, found)
        assert [run.name for run in runs(Path(series))] == ["2", "1"]
    for unbroken, later in zip(whole, resumed, strict=True):
        assert later.counts == unbroken.counts[update:]
        assert later.metrics == unbroken.metrics[update:]
        assert later.steps == unbroken.steps[len(unbroken.steps) - len(later.steps) :]
        assert bitwise(later.weights, unbroken.weights)
        assert torch.equal(later.memory, unbroken.memory)
        assert later.final == unbroken.final


@pytest.mark.parametrize(("saving", "resuming"), [(2, 1), (1, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("update", [1, 3, 4])
def test_a_run_goes_on_with_the_right_samples_on_another_number_of_ranks(
    ranked: Groups, tmp_path: Path, saving: int, resuming: int, update: int
) -> None:
    # Three updates an epoch, the last one of a single sample.
    case = Case(13, 1, 1, {"updates": 7}, seed=1, noisy=True)
    one, series = play(case, 6), str(tmp_path)
    ranked[saving].call(play, case, 6, series)
    found = checkpoint(series, update)
    results = ranked[resuming].call(play, case, 6, series, found)
    tail = Played(steps=one.steps[update:])
    check_shares(results, tail, 6)
    for result in results:
        assert result.counts == one.counts[update:]
        assert bitwise(result.weights, results[0].weights)
        assert close_to(result.weights, one.weights)
        assert float(result.memory) == pytest.approx(float(one.memory), rel=1e-9)


# ---------------------------------------------------------------- habits and accidents of one rank


def rank_zero_logs() -> dict[str, float]:
    """The habit from other trainers: only rank 0 logs."""

    def log(state: TrainState) -> Log | None:
        return Log({"mine": 7.0}) if state.rank == 0 else None

    return dict(bare(Callback("log", after_update=log), updates=2).metrics)


def test_what_rank_zero_alone_logs_is_known_to_all(ranked: Groups) -> None:
    assert ranked[2].call(rank_zero_logs) == [{"mine": 7.0}] * 2


def warned_before_a_pass() -> dict[str, float]:
    """An observer fails on rank 1 alone, just before all make a pass."""

    def fail(state: TrainState) -> None:
        if state.rank == 1 and state.now.update == 1:
            raise OSError("the network of rank 1")

    data = samples(7, seed=2)
    final = noether.train(
        net(),
        samples(12),
        loss=squared_error,
        optimizer=sgd,
        until={"updates": 2},
        batch_size=6,
        callbacks=[
            Callback("watch", after_update=fail, on_error="warn"),
            every(updates=1)(hooks.offline_loss(dataset="val")),
        ],
        datasets={"val": data},
        defaults=False,
    )
    return dict(final.metrics)


def test_an_observer_that_fails_on_one_rank_leaves_the_passes_of_its_tick_alone(
    ranked: Groups,
) -> None:
    first, second = ranked[2].call(warned_before_a_pass)
    assert first == second
    assert set(first) == {"loss/val/total"}


def parts_of_the_model() -> float:
    """A loss that uses the model's parts, and not the model as a function."""

    def loss(model: Any, batch: Any) -> torch.Tensor:
        output = model[3](torch.tanh(model[0](batch[0])))
        return torch.nn.functional.mse_loss(output, batch[1])

    module = net(dropout=0.0).double()
    data = samples(12)
    pairs = list(zip(data.inputs.double(), data.targets.double(), strict=True))
    noether.train(
        module, pairs, loss=loss, optimizer=sgd, until={"epochs": 2}, batch_size=6, defaults=False
    )
    return float(sum(parameter.detach().sum() for parameter in module.parameters()))


def test_a_loss_may_use_the_parts_of_a_model(ranked: Groups) -> None:
    alone = parts_of_the_model()
    assert ranked[2].call(parts_of_the_model) == pytest.approx([alone] * 2, rel=1e-9)
