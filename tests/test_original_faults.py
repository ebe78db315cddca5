"""Faults of design that another trainer had, each by its number, as what must not come back."""

import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import (
    Callback,
    DataPass,
    HookError,
    Log,
    Preempted,
    Stop,
    TrainState,
    chain,
    every,
    hooks,
    on_improvement,
    once_at_end,
    once_at_start,
)
from noether.checkpoint import newest
from noether.rundir import read_status
from tests.feeding import (
    Numbered,
    Stream,
    Witness,
    assert_same_weights,
    fit,
    journal,
    named,
    names_of,
    signalled,
)
from tests.strategies import net, samples, sgd, squared_error

BOTH = pytest.mark.parametrize("workers", [0, 2])
A, B = named(1, range(6)), named(2, range(5))
SETS = {"a": Numbered(6, tag=1), "b": Numbered(5, tag=2)}


def epochs_of(seen: Witness, n: int) -> list[list[tuple[int, int]]]:
    """What was trained, epoch by epoch, sorted."""
    return [sorted(seen.trained[k : k + n]) for k in range(0, len(seen.trained), n)]


def committed(series: Path) -> int:
    found = newest(series / "1" / "checkpoints")
    assert found is not None
    return found.manifest.update


# ---------------------------------------------------------------- whose data a pass gets


@BOTH
def test_d1_an_epoch_pass_listed_before_an_update_pass_does_not_swap_their_data(
    workers: int,
) -> None:
    seen = fit(
        Numbered(8),
        lambda w: [
            w.visiting("rare", "a", every(epochs=1)),
            w.visiting("often", "b", every(updates=1)),
        ],
        until={"epochs": 3},
        datasets=SETS,
        workers=workers,
    )
    assert [(v.update, v.names) for v in seen.of("rare")] == [(2, A), (4, A), (6, A)]
    assert [(v.update, v.names) for v in seen.of("often")] == [(k, B) for k in range(1, 7)]
    assert epochs_of(seen, 8) == [named(0, range(8))] * 3


@pytest.mark.parametrize(
    ("schedule", "workers"),
    [(every(updates=1), 0), (every(updates=1), 2), (every(samples=3), 0), (every(samples=3), 2)],
    ids=str,
)
def test_d2_accumulation_with_a_pass_each_update_does_not_train_on_evaluation_samples(
    schedule: Any, workers: int
) -> None:
    seen = fit(
        Numbered(10),
        lambda w: [w.visiting("often", "a", schedule)],
        until={"epochs": 2},
        accumulate=2,
        datasets=SETS,
        workers=workers,
    )
    assert epochs_of(seen, 10) == [named(0, range(10))] * 2
    assert [len(batch) for batch in seen.micro_batches] == [2, 2, 2, 2, 2] * 2
    assert [visit.names for visit in seen.of("often")] == [A] * len(seen.of("often"))
    assert len(seen.of("often")) >= 5


@BOTH
@pytest.mark.parametrize("unit", ["epochs", "updates", "samples", "seconds"])
def test_d3_a_horizon_of_nothing_does_not_train_on_evaluation_data(
    tmp_path: Path, unit: str, workers: int
) -> None:
    ticks: list[str] = []
    seen = fit(
        Numbered(8),
        lambda w: [
            w.visiting("first", "a", once_at_start),
            w.visiting("last", "b", once_at_end),
            w.visiting("often", "a", every(updates=1)),
            Callback(
                "ticks",
                before_training=lambda s: ticks.append(s.event),
                after_update=lambda s: ticks.append(s.event),
                after_training=lambda s: ticks.append(s.event),
            ),
        ],
        until={unit: 0},
        datasets=SETS,
        run_dir=tmp_path,
        workers=workers,
    )
    assert ticks == ["start", "end"]
    assert [(v.by, v.names) for v in seen.visits] == [("first", A), ("last", B)]
    assert seen.micro_batches == []
    assert seen.final.now.update == seen.final.now.sample == 0
    assert [row["tick"] for row in journal(tmp_path)] == ["start", "end"]
    for name, value in net().state_dict().items():
        assert torch.equal(seen.weights[name], value)


# ---------------------------------------------------------------- what breaks off


def breaking(dataset: str, **options: Any) -> Callback:
    """A pass of one sample a batch that breaks off in its second."""
    count: list[int] = []

    def process(model: Any, batch: Any) -> dict[str, Any]:
        count.append(len(count))
        if len(count) % 2 == 0:
            raise ArithmeticError("in the middle")
        return {"x": batch[0]}

    def never_called(state: TrainState) -> None:
        raise AssertionError("its pass was broken off")

    data = DataPass(dataset, process, batch_size=1)
    return Callback("breaking", on_schedule=never_called, data=data, **options)


@BOTH
@pytest.mark.parametrize("listed", ["before", "after"])
@pytest.mark.parametrize("dataset", ["a", "b"])
def test_d5_an_exception_inside_a_pass_does_not_shift_the_data_of_others(
    dataset: str, listed: str, workers: int
) -> None:
    def callbacks(witness: Witness) -> Sequence[Callback]:
        others = [
            witness.visiting("same", "a", every(updates=1)),
            witness.visiting("other", "b", every(epochs=1), batch_size=2),
        ]
        broken = breaking(dataset, schedule=every(updates=1), on_error="warn")
        return [broken, *others] if listed == "before" else [*others, broken]

    seen = fit(Numbered(8), callbacks, until={"epochs": 2}, datasets=SETS, workers=workers)
    assert [visit.names for visit in seen.of("same")] == [A] * 4
    assert [visit.names for visit in seen.of("other")] == [B] * 2
    assert epochs_of(seen, 8) == [named(0, range(8))] * 2


@BOTH
def test_d5_an_exception_inside_a_pass_ends_the_run_after_the_tick_with_its_cause(
    workers: int,
) -> None:
    seen = Witness()
    with pytest.raises(HookError, match=r"'breaking', on_schedule, at update 1") as caught:
        fit(
            Numbered(8),
            lambda w: [
                breaking("a", schedule=every(updates=1)),
                w.visiting("other", "b", every(updates=1)),
            ],
            seen,
            datasets=SETS,
            workers=workers,
        )
    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert [(v.update, v.names) for v in seen.of("other")] == [(1, B)]


# ---------------------------------------------------------------- where a run ends


@pytest.mark.parametrize(
    ("limit", "workers"), [*((k, 0) for k in (1, 4, 5, 7, 8, 10, 11, 19)), (7, 2), (10, 2)]
)
def test_d6_a_limit_in_samples_is_counted_once_and_globally(limit: int, workers: int) -> None:
    seen = fit(Numbered(10), until={"samples": limit}, accumulate=2, workers=workers)
    reached = next(total for total in accumulate([4, 4, 2] * 3) if total >= limit)
    assert (seen.final.now.sample, len(seen.trained)) == (reached, reached)


@BOTH
def test_d7_an_end_inside_an_epoch_does_not_crash_and_saves(tmp_path: Path, workers: int) -> None:
    closing: list[tuple[str, int]] = []
    seen = fit(
        Numbered(16),
        lambda w: [
            w.visiting("last", "a", once_at_end),
            hooks.checkpoint(schedule=every(epochs=1) | once_at_end),
            *(
                Callback(name, after_training=lambda s: closing.append((s.event, s.now.update)))
                for name in ("one", "two")
            ),
        ],
        until={"updates": 6},
        datasets=SETS,
        run_dir=tmp_path,
        workers=workers,
    )
    assert closing == [("end", 6), ("end", 6)]
    assert (seen.final.now.epoch, seen.final.now.update) == (1, 6)
    assert [visit.names for visit in seen.of("last")] == [A]
    assert committed(tmp_path) == 6
    assert read_status(tmp_path / "1")["state"] == "done"
    assert journal(tmp_path)[-1]["tick"] == "end"


@BOTH
def test_d12_a_stop_on_the_epochs_last_update_does_not_skip_the_epochs_hooks(
    tmp_path: Path, workers: int
) -> None:
    closed: list[int] = []

    def stop(state: TrainState) -> Stop | None:
        return Stop("enough") if state.closes_epoch else None

    seen = fit(
        Numbered(8),
        lambda w: [
            Callback("stop", after_update=stop),
            Callback("closed", after_epoch=lambda s: closed.append(s.now.epoch)),
            w.visiting("evaluation", "a", every(epochs=1)),
            hooks.checkpoint(schedule=every(epochs=1)),
        ],
        until={"epochs": 5},
        datasets=SETS,
        run_dir=tmp_path,
        workers=workers,
    )
    assert (seen.final.now.update, seen.final.reason) == (2, "enough")
    assert closed == [1]
    assert [(v.update, v.names) for v in seen.of("evaluation")] == [(2, A)]
    (row,) = [r for r in journal(tmp_path) if r["tick"] == "update" and r["update"] == 2]
    assert "evaluation/loss" in row["metrics"]
    assert {"stop", "save"} <= {effect["kind"] for effect in row["effects"]}
    assert committed(tmp_path) == 2


# ---------------------------------------------------------------- what numbers mean


def evaluated(values: Any, process: Any, reduce: Any, **options: Any) -> TrainState:
    """A run of one update with a pass over the values by batches of two."""
    data = DataPass("val", process, reduce, batch_size=2)

    def log(state: TrainState) -> Log:
        return Log({f"val/{name}": value for name, value in state.results.items()})

    return noether.train(
        net(),
        samples(4),
        loss=squared_error,
        optimizer=sgd,
        until={"updates": 1},
        batch_size=4,
        callbacks=[Callback("evaluated", on_schedule=log, data=data, schedule=every(updates=1))],
        datasets={"val": values},
        defaults=False,
        **options,
    )


@BOTH
@pytest.mark.parametrize(
    "process",
    [
        lambda model, batch: {"value": batch.double()},
        lambda model, batch: {"value": batch.double().mean()},
        lambda model, batch: {"value": float(batch.double().mean())},
    ],
    ids=["per sample", "per batch", "plain number"],
)
def test_d14_a_mean_is_not_the_mean_of_the_batches_means(process: Any, workers: int) -> None:
    final = evaluated([0, 1, 4], process, "mean", workers=workers)
    assert final.metrics == {"val/value": 5 / 3}  # the batches' means have the mean 2.25


@BOTH
def test_d14_no_sample_is_padded_or_repeated(workers: int) -> None:
    def count(model: Any, batch: Any) -> dict[str, Any]:
        return {"count": torch.ones(len(batch)), "total": batch}

    final = evaluated([0, 1, 4], count, "sum", workers=workers)
    assert final.metrics == {"val/count": 3, "val/total": 5}


@BOTH
@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_d14_a_pass_computes_in_trainings_precision(
    precision: str, dtype: torch.dtype, workers: int
) -> None:
    def process(model: Any, batch: Any) -> dict[str, Any]:
        return {"same": float(model.predict(batch).dtype == dtype)}

    final = evaluated(Numbered(3), process, "min", precision=precision, workers=workers)
    assert final.metrics == {"val/same": 1}


@BOTH
@pytest.mark.parametrize(("n", "last"), [(8, 2), (10, 2), (9, 1)])
def test_d18_outputs_with_accumulation_are_those_of_the_last_micro_batch(
    n: int, last: int, workers: int
) -> None:
    seen, noted = Witness(), []

    def loss(model: Any, batch: Any) -> tuple[torch.Tensor, Any]:
        return seen.loss(model, batch), names_of(batch)

    def note(state: TrainState) -> None:
        noted.append((state.outputs, seen.micro_batches[-1]))

    fit(
        Numbered(n),
        lambda w: [Callback("note", after_update=note)],
        seen,
        loss=loss,
        accumulate=2,
        until={"epochs": 2},
        workers=workers,
    )
    assert [outputs for outputs, _ in noted] == [names for _, names in noted]
    assert len(noted[-1][0]) == last


# ---------------------------------------------------------------- keys


@BOTH
@pytest.mark.parametrize(
    ("later", "key"),
    [({"a": 1.0, "b": 1.0}, "b"), ({}, "a"), ({"c": 1.0}, "c")],
    ids=["added", "missing", "other"],
)
def test_d25_a_key_missing_or_added_in_a_later_batch_is_named_with_the_batch(
    later: dict[str, float], key: str, workers: int
) -> None:
    def process(model: Any, batch: Any) -> dict[str, float]:
        return {"a": 1.0} if int(batch[0]) < 4 else later

    with pytest.raises(HookError, match="'evaluated'") as caught:
        evaluated([0, 1, 2, 3, 4, 5], process, "mean", workers=workers)
    told = f"{caught.value}\n{caught.value.__cause__}"
    assert re.search(r"batch 2\b", told)
    assert re.search(rf"'{key}'", told)


# ---------------------------------------------------------------- combinations once refused


@pytest.mark.parametrize(
    ("updates", "workers"), [*((k, 0) for k in (1, 2, 3, 4, 5)), (2, 2), (4, 2)]
)
def test_d33_accumulation_with_a_limit_in_updates_works(updates: int, workers: int) -> None:
    seen = fit(Numbered(10), until={"updates": updates}, accumulate=2, workers=workers)
    assert seen.final.now.update == updates
    assert len(seen.trained) == sum(([4, 4, 2] * 2)[:updates])


@BOTH
def test_d33_a_resume_off_an_epochs_boundary_works(tmp_path: Path, workers: int) -> None:
    def cut() -> None:
        raise Preempted(75)

    whole = signalled(tmp_path / "whole", workers=workers)
    saving: dict[str, Any] = {"workers": workers, "resume": "auto"}
    with pytest.raises(Preempted):
        signalled(tmp_path / "runs", send=cut, where="before_update", save=True, **saving)
    assert committed(tmp_path / "runs") == 4
    rest = signalled(tmp_path / "runs", save=True, **saving)
    assert rest.trained == whole.trained[15:]
    assert_same_weights(rest, whole)


@BOTH
def test_d33_streaming_data_works(workers: int) -> None:
    seen = fit(
        Stream(10),
        lambda w: [w.visiting("stream", "stream", every(updates=2))],
        until={"epochs": 2},
        accumulate=2,
        datasets={"stream": Stream(5, tag=2)},
        workers=workers,
    )
    assert seen.final.now.update == 6
    assert seen.trained == named(0, range(10)) * 2
    assert [(v.update, v.names) for v in seen.visits] == [(2, B), (4, B), (6, B)]


@BOTH
def test_d33_a_pass_on_a_schedule_that_looks_at_metrics_works(workers: int) -> None:
    values = [0.0, 5.0, 7.0, 3.0, 3.0, 1.0]
    told = Callback(
        "told", after_update=lambda s: Log({"loss/x": values[s.now.update]}), writes=("loss/x",)
    )
    seen = fit(
        Numbered(8),
        lambda w: [
            told,
            w.visiting("better", "a", on_improvement("loss/x")),
            w.visiting("again", "b", on_improvement("better/loss", mode="min") | every(updates=4)),
        ],
        until={"updates": 5},
        datasets=SETS,
        workers=workers,
    )
    assert [(v.update, v.names) for v in seen.of("better")] == [(1, A), (3, A), (5, A)]
    assert {1, 4} <= {v.update for v in seen.of("again")} <= {1, 3, 4, 5}
    assert [v.names for v in seen.of("again")] == [B] * len(seen.of("again"))


def test_d33_all_of_it_at_once_works(tmp_path: Path) -> None:
    """Accumulation, a stream, a limit in updates in mid-epoch, a pass that looks at metrics."""
    model = net()
    seen = Witness()
    final = noether.train(
        model,
        Stream(11),
        loss=seen.loss,
        optimizer=sgd,
        until={"updates": 5},
        batch_size=4,
        accumulate=2,
        callbacks=chain(
            every(updates=1)(hooks.online_loss()),
            seen.visiting("driven", "a", on_improvement("loss/online/total/U1")),
            hooks.checkpoint(schedule=once_at_end),
        ),
        datasets=SETS,
        run_dir=tmp_path,
        workers=2,
        defaults=False,
    )
    assert (final.now.update, final.now.epoch, final.now.sample) == (5, 1, 19)
    assert seen.trained == [*named(0, range(11)), *named(0, range(8))]
    assert seen.of("driven")[0].update == 1
    assert [v.names for v in seen.of("driven")] == [A] * len(seen.of("driven"))
    assert committed(tmp_path) == 5
