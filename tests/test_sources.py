"""Sets that are only iterated, loaders of the user's own, and workers that fail or get signals."""

import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import noether
from noether import (
    Callback,
    ConfigurationError,
    Preempted,
    TrainState,
    every,
    hooks,
    on_improvement,
    once_at_end,
)
from noether.checkpoint import newest
from noether.rundir import read_status
from tests.feeding import (
    Deadly,
    Numbered,
    Stream,
    Unreadable,
    Witness,
    assert_same,
    assert_same_weights,
    failure,
    fit,
    journal,
    named,
    signalled,
)
from tests.strategies import net, samples, sgd, squared_error

ROOT = Path(__file__).parent.parent
WORKERS = pytest.mark.parametrize("workers", [0, 2])
SOON = pytest.mark.timeout(60)
"""For what would hang if it went wrong."""


def committed(series: Path, run: str = "1") -> int:
    found = newest(series / run / "checkpoints")
    assert found is not None
    return found.manifest.update


def sizes(seen: Witness) -> list[int]:
    return [len(batch) for batch in seen.micro_batches]


# ---------------------------------------------------------------- training sets that are iterated


@WORKERS
@pytest.mark.parametrize(
    ("accumulate", "micro_batches"), [(1, [4, 4, 3]), (2, [2, 2, 2, 2, 2, 1]), (4, [1] * 11)]
)
def test_a_stream_is_iterated_anew_each_epoch_its_rest_a_smaller_update(
    accumulate: int, micro_batches: list[int], workers: int
) -> None:
    seen = fit(Stream(11), until={"epochs": 3}, accumulate=accumulate, workers=workers)
    assert seen.trained == named(0, range(11)) * 3
    assert sizes(seen) == micro_batches * 3
    assert seen.closed == [11, 22, 33]
    now = seen.final.now
    assert (now.epoch, now.update, now.sample) == (3, 9, 33)


@WORKERS
@pytest.mark.parametrize("n", [8, 11])
def test_a_streams_rest_can_be_dropped(n: int, workers: int) -> None:
    seen = fit(Stream(n), until={"epochs": 2}, drop_last=True, accumulate=2, workers=workers)
    assert seen.trained == named(0, range(8)) * 2
    assert seen.closed == [8, 16]
    assert (seen.final.now.epoch, seen.final.now.update) == (2, 4)


@WORKERS
@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("drop_last", [False, True], ids=["whole", "dropped"])
def test_a_stream_trains_as_the_same_samples_with_length_and_index(
    n: int, workers: int, *, drop_last: bool
) -> None:
    given: dict[str, Any] = {"until": {"epochs": 2}, "accumulate": 2, "drop_last": drop_last}
    one = fit(Stream(n), workers=workers, **given)
    other = fit(Numbered(n), shuffle=False, **given)
    assert_same(one, other)


@WORKERS
@pytest.mark.parametrize(
    ("until", "update"),
    [({"updates": 4}, 4), ({"samples": 12}, 4), ({"samples": 11}, 3), ({"epochs": 2}, 6)],
    ids=str,
)
def test_a_run_over_a_stream_ends_at_its_limit(
    until: dict[str, int], update: int, workers: int
) -> None:
    seen = fit(Stream(11), until=until, workers=workers)
    assert seen.final.now.update == update
    assert seen.final.now.sample == len(seen.trained) == sum(([4, 4, 3] * 2)[:update])


def test_the_length_of_a_stream_is_not_known() -> None:
    seen = fit(Stream(5), until={"epochs": 1})
    assert seen.final.dataset_lengths["train"] is None
    assert seen.final.total.update is None


def test_the_limit_of_a_run_over_a_stream_is_its_horizon_where_that_is_known() -> None:
    assert fit(Stream(5), until={"epochs": 1}).final.total.epoch == 1
    assert fit(Stream(5), until={"updates": 2}).final.total.update == 2


def test_a_share_of_a_run_of_unknown_length_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="length of the run"):
        fit(Stream(5), lambda w: [w.visiting("a", "a", every(fraction=0.5))], datasets={"a": [1]})


@WORKERS
def test_a_share_of_updates_over_a_stream_is_known(workers: int) -> None:
    seen = fit(
        Stream(5),
        lambda w: [w.visiting("a", "a", every(fraction=0.5))],
        until={"updates": 6},
        datasets={"a": Stream(3, tag=1)},
        workers=workers,
    )
    assert [(v.update, v.names) for v in seen.visits] == [(k, named(1, range(3))) for k in (3, 6)]


@WORKERS
def test_schedules_by_epochs_fire_where_the_stream_ends(workers: int) -> None:
    seen = fit(
        Stream(9),
        lambda w: [
            w.visiting("epochs", "a", every(epochs=1)),
            w.visiting("samples", "a", every(samples=5)),
            w.visiting("driven", "a", on_improvement("epochs/loss", mode="min")),
        ],
        until={"epochs": 2},
        datasets={"a": Stream(7, tag=1)},
        workers=workers,
    )
    assert [v.update for v in seen.of("epochs")] == [3, 6]
    assert [v.update for v in seen.of("samples")] == [2, 4, 5]
    assert 3 in [v.update for v in seen.of("driven")]
    assert {tuple(v.names) for v in seen.visits} == {tuple(named(1, range(7)))}


class Changing:
    """A stream that is another one each time it is iterated."""

    def __init__(self) -> None:
        self.begun = 0

    def __iter__(self) -> Iterator[Any]:
        self.begun += 1
        return iter(Stream(6, tag=self.begun))


def test_each_epoch_asks_a_stream_for_an_iterator_of_its_own() -> None:
    seen = fit(Changing(), until={"epochs": 3})
    assert seen.trained == [name for tag in (1, 2, 3) for name in named(tag, range(6))]


def test_epochs_of_a_stream_may_differ_in_length() -> None:
    lengths = [7, 2, 5]

    class Uneven:
        def __iter__(self) -> Iterator[Any]:
            return iter(Stream(lengths.pop(0)))

    seen = fit(Uneven(), until={"epochs": 3})
    assert seen.closed == [7, 9, 14]
    assert sizes(seen) == [4, 3, 2, 4, 1]


# ---------------------------------------------------------------- empty and exhausted


@SOON
@WORKERS
def test_an_empty_stream_ends_the_run_with_an_error(workers: int) -> None:
    told = failure(lambda: fit(Stream(0), until={"epochs": 2}, workers=workers))
    assert re.search(r"(?i)empty|no (sample|batch|update)", told)


@SOON
@WORKERS
def test_a_stream_smaller_than_a_batch_whose_rest_is_dropped_is_an_error(workers: int) -> None:
    failure(lambda: fit(Stream(3), until={"updates": 2}, drop_last=True, workers=workers))


@SOON
def test_an_iterator_that_cannot_be_iterated_again_is_an_error_not_an_endless_run() -> None:
    failure(lambda: fit((x for x in Stream(6)), until={"epochs": 3}))


@WORKERS
def test_an_empty_stream_to_evaluate_gives_nothing(workers: int) -> None:
    seen = fit(
        Numbered(8),
        lambda w: [w.visiting("empty", "empty", every(updates=1))],
        datasets={"empty": Stream(0, tag=1)},
        workers=workers,
    )
    assert [(v.update, v.batches, v.results) for v in seen.visits] == [(1, (), {}), (2, (), {})]


# ---------------------------------------------------------------- the user's own loaders


def loader(n: int, size: int, *, tag: int = 0, **options: Any) -> DataLoader[Any]:
    data: Any = Numbered(n, tag)
    return DataLoader(data, batch_size=size, **options)


@pytest.mark.parametrize("own_workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_batch_of_a_users_loader_is_a_micro_batch(accumulate: int, own_workers: int) -> None:
    data = loader(11, 3, num_workers=own_workers)
    seen = fit(data, until={"epochs": 2}, accumulate=accumulate)
    assert seen.trained == named(0, range(11)) * 2
    assert sizes(seen) == [3, 3, 3, 2] * 2
    now = seen.final.now
    assert (now.epoch, now.update, now.sample) == (2, 8 // accumulate, 22)


@pytest.mark.parametrize("n", [6, 7, 9, 11])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_users_loader_trains_as_the_set_does_with_its_left_over_windows(
    n: int, accumulate: int
) -> None:
    # No dropout: what the loader itself draws from the global generator is the user's.
    one = fit(loader(n, 2), model=net(dropout=0), until={"epochs": 2}, accumulate=accumulate)
    other = fit(
        Numbered(n),
        batch_size=2 * accumulate,
        accumulate=accumulate,
        shuffle=False,
        model=net(dropout=0),
        until={"epochs": 2},
    )
    assert_same(one, other)


def test_a_users_loaders_left_over_window_can_be_dropped() -> None:
    seen = fit(loader(9, 3), until={"epochs": 2}, accumulate=2, drop_last=True)
    assert seen.trained == named(0, range(6)) * 2
    assert (seen.final.now.epoch, seen.final.now.update) == (2, 2)


def test_a_users_shuffling_loader_serves_each_sample_once_in_its_own_order() -> None:
    seen = fit(loader(12, 4, shuffle=True), until={"epochs": 2})
    assert [sorted(seen.trained[k : k + 12]) for k in (0, 12)] == [named(0, range(12))] * 2


def test_a_users_sampler_and_collate_are_kept() -> None:
    def doubled(values: list[Any]) -> Any:
        inputs, targets, names = torch.utils.data.default_collate(values)
        return inputs, targets, torch.cat([names[:, :1], names[:, 1:] + 100], dim=1)

    data = loader(6, 2, sampler=[5, 3, 1], collate_fn=doubled)
    assert fit(data).trained == named(0, [105, 103, 101])


@pytest.mark.parametrize("own_workers", [0, 2])
@WORKERS
def test_a_users_loader_can_be_evaluated(workers: int, own_workers: int) -> None:
    seen = fit(
        Numbered(8),
        lambda w: [w.visiting("own", "own", every(updates=1))],
        until={"epochs": 2},
        datasets={"own": loader(7, 3, tag=1, num_workers=own_workers)},
        workers=workers,
    )
    names = named(1, range(7))
    batches = (tuple(names[:3]), tuple(names[3:6]), tuple(names[6:]))
    assert [(v.update, v.batches) for v in seen.visits] == [(k, batches) for k in (1, 2, 3, 4)]
    assert seen.visits[0].results["names"] == [list(name) for name in names]


def test_a_limit_holds_for_loaders_and_streams() -> None:
    seen = fit(
        Numbered(4),
        lambda w: [
            w.visiting("loader", "loader", every(updates=1), limit=2),
            w.visiting("stream", "stream", every(updates=1), limit=2, batch_size=3),
        ],
        datasets={"loader": loader(7, 2, tag=1), "stream": Stream(10**9, tag=2)},
    )
    assert [v.names for v in seen.visits] == [named(1, range(4)), named(2, range(6))]


# ---------------------------------------------------------------- evaluation sets, workers


def everything(witness: Witness) -> Sequence[Callback]:
    """Passes over every kind of set, foreseen and not."""
    return [
        witness.visiting("map", "map", every(updates=1)),
        witness.visiting("stream", "stream", every(updates=2), batch_size=3),
        witness.visiting("loader", "loader", every(epochs=1)),
        witness.visiting("driven", "stream", on_improvement("map/loss", mode="max")),
    ]


def sets() -> dict[str, Any]:
    return {
        "map": Numbered(5, tag=1, drawing=True),
        "stream": Stream(8, tag=2),
        "loader": loader(5, 2, tag=3),
    }


SOURCES: dict[str, Callable[[], Any]] = {
    "map": lambda: Numbered(11, drawing=True),
    "stream": lambda: Stream(11),
    "loader": lambda: loader(11, 2),
}
SOURCE = pytest.mark.parametrize("source", SOURCES)


@SOURCE
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_whatever_the_sources(
    tmp_path: Path, source: str, workers: int
) -> None:
    found = [
        fit(
            SOURCES[source](),
            everything,
            until={"epochs": 2},
            accumulate=2,
            datasets=sets(),
            run_dir=tmp_path / str(count),
            workers=count,
        )
        for count in (0, workers)
    ]
    assert_same(*found)
    assert journal(tmp_path / str(workers)) == journal(tmp_path / "0")
    assert {(v.by, *v.names) for v in found[0].visits} == {
        ("map", *named(1, range(5))),
        ("stream", *named(2, range(8))),
        ("loader", *named(3, range(5))),
        ("driven", *named(2, range(8))),
    }


@SOURCE
@WORKERS
def test_counters_count_every_batch_once(source: str, workers: int) -> None:
    def count(batch: Any) -> int:
        return int(batch[2][:, 1].sum()) + 1

    seen = fit(
        SOURCES[source](),
        lambda w: [w.visiting("often", "map", every(tokens=60))],
        until={"epochs": 2},
        accumulate=2,
        counters={"tokens": count},
        datasets=sets(),
        workers=workers,
    )
    assert seen.final.now.counters == {"tokens": 2 * 55 + len(seen.micro_batches)}
    assert seen.visits


# ---------------------------------------------------------------- resumed in mid-epoch


def sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


@SOON
@SOURCE
@WORKERS
@pytest.mark.parametrize("where", ["after_accumulation_step", "after_update"])
def test_a_signalled_run_goes_on_in_mid_epoch_as_the_unbroken_one(
    tmp_path: Path, source: str, where: str, workers: int
) -> None:
    make = SOURCES[source]
    whole = signalled(tmp_path / "whole", train_set=make())
    with pytest.raises(Preempted):
        signalled(tmp_path / "runs", send=sigterm, where=where, train_set=make(), workers=workers)
    assert committed(tmp_path / "runs") == 5
    rest = signalled(tmp_path / "runs", train_set=make(), workers=workers, resume="must")
    assert rest.trained == whole.trained[19:]
    assert_same_weights(rest, whole)
    assert rest.final.now.update == whole.final.now.update == 9
    assert rest.final.metrics == whole.final.metrics


@SOURCE
@pytest.mark.parametrize(("update", "workers"), [(2, 0), (4, 0), (6, 0), (8, 0), (4, 2)])
def test_a_run_from_a_checkpoint_in_mid_epoch_goes_on_as_the_unbroken_one(
    tmp_path: Path, source: str, update: int, workers: int
) -> None:
    make = SOURCES[source]
    whole = signalled(tmp_path, train_set=make(), until={"updates": 9})
    short = signalled(
        tmp_path, train_set=make(), save=True, until={"updates": update}, workers=workers
    )
    found = newest(tmp_path / "2" / "checkpoints")
    assert found is not None
    rest = signalled(
        tmp_path,
        train_set=make(),
        until={"updates": 9},
        workers=workers,
        resume=found.directory,
        save=True,
    )
    assert short.trained + rest.trained == whole.trained
    assert_same_weights(rest, whole)


def test_counters_of_a_stream_go_on_after_a_resume(tmp_path: Path) -> None:
    given: dict[str, Any] = {"counters": {"tokens": lambda batch: len(batch[2])}}
    with pytest.raises(Preempted):
        signalled(
            tmp_path, send=sigterm, where="after_update", train_set=Stream(11), workers=2, **given
        )
    rest = signalled(tmp_path, train_set=Stream(11), resume="auto", **given)
    assert rest.final.now.counters == {"tokens": 33}


# ---------------------------------------------------------------- what cannot be read


def trained_until(data: Any, workers: int, **options: Any) -> tuple[Witness, str]:
    """What a run came to that ends with an error, and the whole text of it."""
    seen = Witness()
    told = failure(lambda: fit(data, witness=seen, shuffle=False, workers=workers, **options))
    return seen, told


@SOON
@WORKERS
def test_a_stream_that_raises_in_the_middle_ends_the_run_there(
    tmp_path: Path, workers: int
) -> None:
    seen, told = trained_until(Stream(20, breaks=9), workers, run_dir=tmp_path)
    assert "OSError" in told
    assert "the stream broke off" in told
    assert seen.updates == [1, 2]
    assert seen.trained == named(0, range(8))
    assert read_status(tmp_path / "1")["state"] == "failed"


@SOON
@WORKERS
@pytest.mark.parametrize("strange", [False, True], ids=["plain", "strange"])
def test_a_sample_that_cannot_be_read_ends_the_run_and_is_named(
    tmp_path: Path, workers: int, *, strange: bool
) -> None:
    data = Unreadable(12, at=7, strange=strange)
    seen, told = trained_until(data, workers, run_dir=tmp_path)
    assert ("strange 1 and 2" if strange else "no such file") in told
    assert re.search(r"sample 7\b", told)
    assert seen.updates == [1]
    assert read_status(tmp_path / "1")["state"] == "failed"


@SOON
@WORKERS
def test_an_error_of_a_data_set_is_of_its_own_type(workers: int) -> None:
    with pytest.raises(OSError, match="no such file"):
        fit(Unreadable(12, at=7), workers=workers)


@SOON
@WORKERS
def test_hooks_that_close_a_run_run_after_an_error_in_the_data(workers: int) -> None:
    closed: list[str] = []
    closing = Callback(
        "closing",
        after_training=lambda s: closed.append("after_training"),
        on_exception=lambda s: closed.append("on_exception"),
    )
    failure(lambda: fit(Unreadable(12, at=7), lambda w: [closing], workers=workers))
    assert "on_exception" in closed
    assert len(set(closed)) == len(closed)


@SOON
@WORKERS
@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (Unreadable(6, at=5, tag=1), ("no such file", "sample 5")),
        (Stream(6, tag=1, breaks=5), ("the stream broke off",)),
    ],
    ids=["map", "stream"],
)
def test_a_pass_that_cannot_be_read_is_an_error_of_its_callback_alone(
    data: Any, parts: tuple[str, ...], workers: int
) -> None:
    seen = Witness()

    def callbacks(witness: Witness) -> Sequence[Callback]:
        return [
            witness.visiting("bad", "bad", every(updates=1), batch_size=2),
            witness.visiting("good", "good", every(updates=1), batch_size=2),
        ]

    told = failure(
        lambda: fit(
            Numbered(8),
            callbacks,
            seen,
            datasets={"bad": data, "good": Numbered(3, tag=2)},
            workers=workers,
        )
    )
    assert "'bad', on_schedule, at update 1" in told
    assert all(part in told for part in parts)
    assert seen.of("bad") == []
    assert [(v.update, v.names) for v in seen.of("good")] == [(1, named(2, range(3)))]


@SOON
@WORKERS
def test_an_observers_pass_that_cannot_be_read_leaves_the_run_exact(workers: int) -> None:
    def callbacks(witness: Witness) -> Sequence[Callback]:
        bad = witness.visiting("bad", "bad", every(updates=1), batch_size=2)
        fields = {name: getattr(bad, name) for name in ("on_schedule", "schedule", "data")}
        return [
            Callback("bad", on_error="warn", **fields),
            witness.visiting("good", "good", every(updates=1)),
        ]

    seen = fit(
        Numbered(8),
        callbacks,
        until={"epochs": 2},
        datasets={"bad": Unreadable(6, at=3, tag=1), "good": Numbered(3, tag=2)},
        workers=workers,
    )
    assert [v.names for v in seen.of("good")] == [named(2, range(3))] * 4
    assert [sorted(seen.trained[k : k + 8]) for k in (0, 8)] == [named(0, range(8))] * 2


# ---------------------------------------------------------------- workers that are gone


@contextmanager
def uncollected() -> Iterator[None]:
    """Torch's error comes by a signal, and is lost where a collector's hook meets it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@SOON
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed_is_an_error_and_no_endless_wait(
    tmp_path: Path, workers: int
) -> None:
    with uncollected():
        told = failure(lambda: fit(Deadly(16, at=9), run_dir=tmp_path, workers=workers))
    assert re.search(r"(?i)worker", told)
    assert "read in the training process" not in told
    assert read_status(tmp_path / "1")["state"] == "failed"


@SOON
@pytest.mark.parametrize("foreseen", [True, False])
def test_a_worker_killed_in_a_pass_is_an_error_and_no_endless_wait(*, foreseen: bool) -> None:
    def callbacks(witness: Witness) -> Sequence[Callback]:
        schedule = every(updates=1) if foreseen else on_improvement("good/loss", mode="min")
        good = witness.visiting("good", "good", every(updates=1))
        return [good, witness.visiting("deadly", "deadly", schedule)]

    data = {"good": Numbered(3, tag=1), "deadly": Deadly(6, at=5, tag=2)}
    with uncollected():
        told = failure(lambda: fit(Numbered(8), callbacks, datasets=data, workers=2))
    assert re.search(r"(?i)worker", told)
    assert "read in the training process" not in told


@SOON
@pytest.mark.parametrize("how", ["done", "failed", "stopped short"])
def test_no_worker_is_left_however_a_run_ends(how: str) -> None:
    data: Any = Unreadable(16, at=9) if how == "failed" else Numbered(16)
    before = set(multiprocessing.active_children())
    with suppress(OSError):
        fit(
            data,
            everything,
            until={"updates": 1} if how == "stopped short" else {"epochs": 2},
            datasets=sets(),
            workers=2,
        )
        assert how != "failed"
    gc.collect()
    assert set(multiprocessing.active_children()) <= before


# ---------------------------------------------------------------- signals to the whole group

CODE = """\
import sys
from tests.feeding import signal_group
signal_group(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
"""


def group_signalled(series: Path, number: int, where: str, workers: int) -> tuple[int, str]:
    """Exit code and errors of a process whose group gets a signal in the fifth update."""
    child = subprocess.Popen(
        [sys.executable, "-c", CODE, str(series), str(int(number)), where, str(workers)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    try:
        _, errors = child.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    return child.returncode, errors


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("number", "where", "codes"),
    [
        (signal.SIGTERM, "after_accumulation_step", [75]),
        (signal.SIGINT, "process", [130, -signal.SIGINT]),
    ],
)
def test_a_signal_to_the_whole_group_ends_the_run_with_a_checkpoint(
    tmp_path: Path, number: int, where: str, codes: list[int]
) -> None:
    code, errors = group_signalled(tmp_path, number, where, workers=2)
    assert code in codes, errors
    assert committed(tmp_path) == 5
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("preempted", 5)
    assert status["reason"] == signal.Signals(number).name
    rest = signalled(tmp_path, resume="must")
    whole = signalled(tmp_path / "whole")
    assert rest.trained == whole.trained[19:]
    assert_same_weights(rest, whole)


# ---------------------------------------------------------------- what the built-ins make of it


@WORKERS
def test_the_built_in_evaluation_takes_any_source(workers: int) -> None:
    found = {}
    pairs: Any = [samples(7, seed=2)[k] for k in range(7)]
    sources = {"map": pairs, "stream": Pairs(pairs), "loader": DataLoader(pairs, batch_size=2)}
    for name, source in sources.items():
        final: TrainState = noether.train(
            net(),
            Pairs([samples(6)[k] for k in range(6)]),
            loss=squared_error,
            optimizer=sgd,
            until={"epochs": 2},
            batch_size=4,
            accumulate=2,
            callbacks=[every(epochs=1)(hooks.offline_loss(dataset="val"))],
            datasets={"val": source},
            workers=workers,
            defaults=False,
        )
        found[name] = final.metrics["loss/val/total"]
    assert found["map"] == found["stream"] == found["loader"]


class Pairs:
    """Samples that are only iterated."""

    def __init__(self, pairs: list[Any]) -> None:
        self.pairs = pairs

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pairs)


@WORKERS
def test_a_checkpoint_at_the_end_of_a_stream_is_of_its_last_update(
    tmp_path: Path, workers: int
) -> None:
    fit(
        Stream(10),
        lambda w: [hooks.checkpoint(schedule=once_at_end)],
        until={"epochs": 2},
        run_dir=tmp_path,
        workers=workers,
    )
    assert committed(tmp_path) == 6
    assert read_status(tmp_path / "1")["state"] == "done"
