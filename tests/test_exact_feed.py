"""Training sees each sample once per epoch, every pass exactly its own set, with workers or not."""

import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from noether import (
    Callback,
    ConfigurationError,
    Log,
    Preempted,
    Schedule,
    TrainState,
    always,
    every,
    on_improvement,
    once_at_end,
    once_at_start,
    when,
)
from noether.testing import terms
from tests.feeding import (
    Numbered,
    Witness,
    assert_same,
    assert_same_weights,
    fit,
    journal,
    named,
    signalled,
)
from tests.strategies import metric_values

DEFAULT: int = settings.default.max_examples  # type: ignore[union-attr]
WITHOUT_WORKERS = settings(max_examples=max(5, 3 * DEFAULT // 4))
SOME = settings(max_examples=max(5, DEFAULT // 3))
WITH_WORKERS = settings(max_examples=max(5, DEFAULT // 10))
"""Each example starts processes."""

# ---------------------------------------------------------------- runs, invented

SETS = ("a", "b", "c")


@dataclass(frozen=True)
class Pass:
    """A data pass in plain words."""

    dataset: str
    schedule: Schedule | None
    size: int | None
    limit: int | None


@dataclass(frozen=True)
class Case:
    """The geometry of a run, its evaluation sets, and its passes as declared."""

    n: int
    micro: int
    accumulate: int
    drop_last: bool
    shuffle: bool
    drawing: bool
    seed: int
    until: Mapping[str, int]
    lengths: Mapping[str, int]
    told: tuple[float, ...]
    passes: tuple[Pass, ...]

    @property
    def batch_size(self) -> int:
        return self.micro * self.accumulate

    @property
    def per_epoch(self) -> int:
        return self.n - self.n % self.batch_size if self.drop_last else self.n

    def size(self, one: Pass) -> int:
        return one.size or self.micro

    def tell(self, state: TrainState) -> Log:
        return Log({"told/loss": self.told[state.now.update % len(self.told)]})

    def callbacks(self, witness: Witness) -> list[Callback]:
        telling = Callback("told", after_update=self.tell, reads=(), writes=("told/loss",))
        return [telling, *(self.visiting(witness, k, p) for k, p in enumerate(self.passes))]

    def visiting(self, witness: Witness, number: int, one: Pass) -> Callback:
        options: dict[str, Any] = {} if one.limit is None else {"limit": one.limit}
        return witness.visiting(
            f"p{number}", one.dataset, one.schedule, batch_size=one.size, **options
        )

    def run(self, callbacks: Any = None, **options: Any) -> Witness:
        sets = enumerate(self.lengths.items(), start=1)
        return fit(
            Numbered(self.n, drawing=self.drawing),
            callbacks or self.callbacks,
            until=self.until,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            drop_last=self.drop_last,
            shuffle=self.shuffle,
            seed=self.seed,
            counters={"tokens": tokens},
            datasets={name: Numbered(n, tag, self.drawing) for tag, (name, n) in sets},
            **options,
        )


def tokens(batch: Any) -> int:
    """Between one and three for each sample, as it falls."""
    return int((1 + (batch[0] > 0).sum(dim=1)).clamp(max=3).sum())


def driven(metrics: list[str]) -> st.SearchStrategy[Schedule]:
    """Schedules that cannot be known before the run."""
    improving = terms.improvements(metrics) | terms.plateaus(metrics)
    return st.recursive(terms.conditions(metrics) | improving, terms.combined, max_leaves=3)


@st.composite
def passes(draw: st.DrawFn, number: int) -> Pass:
    """A pass whose schedule may look at what is told, or at what earlier passes logged."""
    metrics = ["told/loss", *(f"p{k}/loss" for k in range(number))]
    schedules = st.none() | terms.schedules(metrics=metrics) | driven(metrics)
    return Pass(
        draw(st.sampled_from(SETS)),
        draw(schedules),
        draw(st.none() | st.integers(1, 60)),
        draw(st.none() | st.none() | st.integers(1, 6)),
    )


LIMITS = {"epochs": (1, 3), "samples": (1, 60)}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    micro, accumulate = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    drop_last = draw(st.booleans())
    units = draw(st.lists(st.sampled_from(sorted(LIMITS)), max_size=1))
    return Case(
        n=draw(st.integers(micro * accumulate if drop_last else 1, 50)),
        micro=micro,
        accumulate=accumulate,
        drop_last=drop_last,
        shuffle=draw(st.booleans()),
        drawing=draw(st.booleans()),
        seed=draw(st.integers(0, 2**40)),
        until={"updates": draw(st.integers(0, 12))}
        | {unit: draw(st.integers(*LIMITS[unit])) for unit in units},
        lengths={name: draw(st.integers(0, 50)) for name in SETS},
        told=tuple(draw(st.lists(metric_values, min_size=1, max_size=4))),
        passes=tuple(draw(passes(k)) for k in range(draw(st.integers(1, 4)))),
    )


# ---------------------------------------------------------------- what must have come


def windows(case: Case) -> Iterator[tuple[list[int], bool]]:
    """The sizes of each update's micro-batches, and whether it closes an epoch; without end."""
    while True:
        for start in range(0, case.per_epoch, case.batch_size):
            end = min(start + case.batch_size, case.per_epoch)
            sizes = [min(case.micro, end - k) for k in range(start, end, case.micro)]
            yield sizes, end == case.per_epoch


def expected(case: Case) -> tuple[list[int], dict[str, int]]:
    """The sizes of all micro-batches of the run, and its counts at the end."""
    counts, sizes = {"updates": 0, "epochs": 0, "samples": 0}, []
    for window, closes in windows(case):
        if any(counts[unit] >= limit for unit, limit in case.until.items()):
            break
        sizes += window
        counts["updates"] += 1
        counts["samples"] += sum(window)
        counts["epochs"] += closes
    return sizes, counts


def check_training(case: Case, seen: Witness) -> None:
    sizes, counts = expected(case)
    assert [len(batch) for batch in seen.micro_batches] == sizes
    assert {unit: seen.final.now.count(unit) for unit in counts} == counts
    assert seen.updates == [*range(1, counts["updates"] + 1)]
    assert seen.closed == [case.per_epoch * (k + 1) for k in range(counts["epochs"])]
    everything = set(named(0, range(case.n)))
    for start in range(0, len(seen.trained), case.per_epoch):
        epoch = seen.trained[start : start + case.per_epoch]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= everything
        if not case.shuffle:
            assert epoch == named(0, range(len(epoch)))


def check_passes(case: Case, seen: Witness) -> None:
    tags = {name: tag for tag, name in enumerate(case.lengths, start=1)}
    for number, one in enumerate(case.passes):
        n, size = case.lengths[one.dataset], case.size(one)
        names = named(tags[one.dataset], range(n))
        batches = [tuple(names[k : k + size]) for k in range(0, n, size)][: one.limit]
        for visit in seen.of(f"p{number}"):
            assert list(visit.batches) == batches, one
            assert visit.results.get("names", []) == [list(name) for name in visit.names]
            assert bool(visit.results) == bool(n)
            # Noise is the same whenever a pass is made.
            assert visit.results.get("inputs") == seen.of(f"p{number}")[0].results.get("inputs")


@WITHOUT_WORKERS
@given(cases())
def test_training_and_every_pass_see_exactly_their_own_samples(case: Case) -> None:
    seen = case.run()
    check_training(case, seen)
    check_passes(case, seen)


@SOME
@given(cases())
def test_passes_leave_training_as_it_is_without_them(case: Case) -> None:
    bare, with_passes = case.run(lambda witness: []), case.run()
    assert with_passes.micro_batches == bare.micro_batches
    assert_same_weights(with_passes, bare)


# ---------------------------------------------------------------- workers


def recorded(case: Case, **options: Any) -> tuple[Witness, list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as series:
        seen = case.run(run_dir=series, **options)
        return seen, journal(Path(series))


@pytest.mark.timeout(300)
@WITH_WORKERS
@given(cases(), st.integers(1, 2))
def test_workers_change_nothing(case: Case, workers: int) -> None:
    assume(case.until["updates"])
    plain, rows = recorded(case)
    seen, told = recorded(case, workers=workers)
    check_training(case, seen)
    check_passes(case, seen)
    assert_same(seen, plain)
    assert told == rows


TWO_EPOCHS = Case(
    n=11,
    micro=2,
    accumulate=2,
    drop_last=False,
    shuffle=True,
    drawing=True,
    seed=3,
    until={"updates": 6},
    lengths={"a": 5, "b": 0, "c": 1},
    told=(2.0, 3.0, 2.0, 2.0, 1.0),
    passes=(
        Pass("a", every(updates=1), None, None),
        Pass("a", every(epochs=1), 2, None),
        Pass("a", on_improvement("told/loss", mode="min"), 3, None),
        Pass("b", always, None, None),
        Pass("c", when("p0/loss"), 60, None),
        Pass("c", once_at_start | once_at_end, 60, None),
    ),
)
"""Everything at once, without chance."""


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_metric_driven_passes_come_where_they_are_due(workers: int) -> None:
    seen = TWO_EPOCHS.run(workers=workers)
    check_training(TWO_EPOCHS, seen)
    check_passes(TWO_EPOCHS, seen)
    fired = {name: [v.update for v in seen.of(name)] for name in ("p0", "p1", "p2", "p4", "p5")}
    assert fired == {
        "p0": [1, 2, 3, 4, 5, 6],
        "p1": [3, 6],
        "p2": [1, 2, 4],
        "p4": [1, 2, 3, 4, 5, 6],
        "p5": [0, 6],
    }
    assert_same(seen, TWO_EPOCHS.run())


def sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 2)])
@pytest.mark.parametrize("where", ["before_update", "after_update"])
def test_workers_may_change_when_a_run_is_resumed(
    tmp_path: Path, before: int, after: int, where: str
) -> None:
    whole = signalled(tmp_path / "whole")
    with pytest.raises(Preempted):
        signalled(tmp_path / "runs", send=sigterm, where=where, workers=before)
    rest = signalled(tmp_path / "runs", workers=after, resume="auto")
    assert rest.trained == whole.trained[19:]
    assert_same_weights(rest, whole)
    assert rest.final.metrics == whole.final.metrics


# ---------------------------------------------------------------- the edges


@pytest.mark.parametrize("workers", [0, 2])
def test_an_empty_training_set_is_refused_before_anything_is_started(workers: int) -> None:
    with pytest.raises(ConfigurationError, match="0 samples"):
        fit(Numbered(0), workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_smaller_than_a_batch_is_one_update(workers: int) -> None:
    seen = fit(Numbered(3), batch_size=64, until={"epochs": 2}, workers=workers)
    assert [len(batch) for batch in seen.micro_batches] == [3, 3]
    assert sorted(seen.micro_batches[0]) == named(0, range(3))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_takes_trainings_micro_batch_unless_it_has_a_size(workers: int) -> None:
    seen = fit(
        Numbered(8),
        lambda w: [w.visiting("own", "a", batch_size=5), w.visiting("shared", "a")],
        batch_size=6,
        accumulate=2,
        until={"updates": 1},
        datasets={"a": Numbered(7, tag=1)},
        workers=workers,
    )
    for name, size in (("own", 5), ("shared", 3)):
        visits = seen.of(name)
        assert visits
        for visit in visits:
            assert len(visit.batches) == ceil(7 / size)
            assert visit.names == named(1, range(7))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_training_set_may_be_evaluated_too(workers: int) -> None:
    data = Numbered(9, drawing=True)
    seen = fit(
        data,
        lambda w: [w.visiting("same", "probe", every(updates=1), batch_size=4)],
        until={"epochs": 2},
        datasets={"probe": data},
        workers=workers,
    )
    assert [visit.names for visit in seen.of("same")] == [named(0, range(9))] * 6
    for start in (0, 9):
        assert sorted(seen.trained[start : start + 9]) == named(0, range(9))
