"""Rows 24, 27 to 31: a run stopped anywhere and resumed comes to what the unbroken one does."""

import signal
from collections.abc import Callable
from itertools import combinations_with_replacement
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
    Schedule,
    TrainState,
    after,
    always,
    at,
    between,
    chain,
    cooldown,
    each_session,
    every,
    first,
    hooks,
    never,
    on_improvement,
    on_plateau,
    once_at_end,
    once_at_start,
    skip,
    until,
    when,
)
from noether.checkpoint.manifest import candidates
from tests.faults.runs import (
    PER_EPOCH,
    SAMPLES,
    UPDATES,
    Ended,
    assert_each_sample_once,
    assert_same_state,
    broken,
    checkpoints,
    newest_update,
    rows,
    stored,
    train,
)
from tests.feeding import Numbered


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return train(tmp_path_factory.mktemp("whole"), save=1)


# ---------------------------------------------------------------- where it was stopped


@pytest.mark.parametrize("cuts", list(combinations_with_replacement([1, 4, 9], 2)), ids=str)
def test_stopped_twice_anywhere_each_sample_comes_once(
    tmp_path: Path, whole: Ended, cuts: tuple[int, int]
) -> None:
    # Row 24: in mid-epoch, before its last update, at its boundary, twice in one epoch, and
    # twice before the same update.
    for cut in cuts:
        broken(tmp_path, cut, save=1)
        assert newest_of(tmp_path) == cut - 1
    ended = train(tmp_path, save=1)
    assert_same_state(ended, whole)
    assert_each_sample_once(ended)
    assert len(ended.served) == PER_EPOCH * SAMPLES


def newest_of(series: Path) -> int:
    return newest_update(series / "1") if checkpoints(series / "1") else 0


@pytest.mark.parametrize("n", [1, 5])
def test_sets_of_any_size_are_resumed_at_any_update(tmp_path: Path, n: int) -> None:
    # Row 24: smaller than a batch, one full batch, one sample over it.
    data: dict[str, Any] = {"train_set": Numbered(n, drawing=True), "save": 1}
    data["until"] = {"updates": 5}
    straight = train(tmp_path / "whole", **data)
    for cut in (2, 3, 5):
        broken(tmp_path / str(cut), cut, **data)
        ended = train(tmp_path / str(cut), **data)
        assert_same_state(ended, straight)
        assert_each_sample_once(ended, n)


@pytest.mark.parametrize("number", [0, signal.SIGTERM])
@pytest.mark.parametrize("update", [1, 3])
def test_stopped_inside_a_window_it_is_replayed_whole(
    tmp_path: Path, update: int, number: int
) -> None:
    # Row 27: after each of three micro-batches. An error loses the window, a signal waits for it;
    # a checkpoint is of a whole update either way.
    options: dict[str, Any] = {"accumulate": 4, "save": 1}
    straight = train(tmp_path / "whole", **options)
    for nth in (1, 2, 3):
        stop = Stopping(update, nth, number)
        with pytest.raises((HookError, Preempted)):
            train(tmp_path / str(nth), stop.callback(), **options)
        assert newest_of(tmp_path / str(nth)) == (update if number else update - 1)
        ended = train(tmp_path / str(nth), **options)
        assert_same_state(ended, straight)
        assert_each_sample_once(ended)


class Stopping:
    """Ends a run at a micro-batch of an update, by an error or a signal."""

    def __init__(self, update: int, nth: int, number: int) -> None:
        self.left, self.update, self.number = nth, update, number

    def strike(self, state: TrainState) -> None:
        if state.now.update != self.update - 1:
            return
        self.left -= 1
        if self.left == 0 and self.number:
            signal.raise_signal(self.number)
        elif self.left == 0:
            raise ValueError("in the window")

    def callback(self) -> Callback:
        return Callback("stopping", after_accumulation_step=self.strike)


# ---------------------------------------------------------------- firings

TOLD = "loss/told"
VALUES = [0.5, 0.4, 0.45, 0.3, 0.35, 0.6, 0.3, float("nan"), 0.32]


def told() -> Callback:
    """A value in each update."""
    return Callback(
        "told",
        after_update=lambda state: Log({TOLD: VALUES[state.now.update - 1]}),
        reads=(),
        writes=(TOLD,),
    )


MARKS: list[Schedule] = [
    *(every(updates=n) for n in (1, 2, 3, 9, 10)),
    *(every(samples=n) for n in (1, 4, 5, 7, 11, 33, 100)),
    *(every(epochs=n) for n in (1, 2, 3, 4)),
    *(every(seconds=n) for n in (0.5, 0.75, 2)),
    *(every(fraction=f) for f in (1 / 3, 1 / 2, 0.1, 1)),
    *(every(updates=3, start=2), every(samples=5, start=3), every(epochs=1, start=2)),
    *(at(updates=3), at(updates=[1, 9]), at(samples=12), at(epochs=[1, 3]), at(seconds=2)),
]
WINDOWS: list[Schedule] = [
    *(after(updates=4), until(updates=4), between(updates=(3, 6)), after(epochs=1)),
    *(until(samples=13), between(seconds=(1, 3))),
]
MEMORIES: list[Schedule] = [
    *(first(2, every(updates=2)), first(1, every(samples=5)), skip(2, every(updates=2))),
    *(cooldown(every(updates=1), updates=4), cooldown(every(samples=3), samples=9)),
    *(cooldown(always, epochs=1), first(3, when(TOLD))),
    *(on_improvement(TOLD, mode="min"), on_plateau(TOLD, patience=2, mode="min")),
]
OTHERS: list[Schedule] = [
    *(always, never, once_at_start, once_at_end, when(TOLD), when(TOLD, "<", 0.42)),
    *(every(updates=4) | once_at_end, every(updates=2) & after(epochs=1), ~every(updates=2)),
]
SCHEDULES = [*MARKS, *WINDOWS, *MEMORIES, *OTHERS]


def watching() -> tuple[Callback, ...]:
    """A callback for each schedule, which remembers the updates at which it fired."""

    def fire(state: TrainState, seen: tuple[Any, ...]) -> tuple[tuple[Any, ...], None]:
        return (*seen, (state.event, state.now.update)), None

    watchers = (
        Callback(
            f"{number} {schedule}",
            init=lambda state: (),
            on_schedule=fire,
            schedule=schedule,
            reads=(),
            writes=(),
        )
        for number, schedule in enumerate(SCHEDULES)
    )
    return told(), *watchers


def test_what_fires_around_a_resume_is_what_fires_without(tmp_path: Path) -> None:
    # Row 28: fired(1..n) == fired(1..k) + resumed(k+1..n), for each k: none doubled, none missed.
    straight = train(tmp_path / "whole", *watching(), save=1)
    fired = {name: seen for name, seen in straight.final.memories.items() if name[0].isdigit()}
    assert len(fired) == len(SCHEDULES)
    silent = {name for name, seen in fired.items() if not seen}
    expected = {every(updates=10), every(samples=100), every(epochs=4), never}
    assert silent == {f"{SCHEDULES.index(one)} {one}" for one in expected}
    for cut in range(1, UPDATES):
        series = tmp_path / str(cut)
        broken(series, cut + 1, *watching(), save=1)
        assert_same_state(train(series, *watching(), save=1), straight)


@pytest.mark.parametrize("update", [3, UPDATES])
def test_what_fires_is_not_repeated_after_an_error_in_the_tick_that_fired(
    tmp_path: Path, update: int
) -> None:
    # Row 28: the tick is kept by its emergency checkpoint; of the last one the closing is left.
    straight = train(tmp_path / "whole", *watching(), save=1)

    def fail(state: TrainState) -> None:
        if state.now.update == update:
            raise ValueError("in the tick")

    failing = Callback("failing", after_update=fail)
    with pytest.raises(HookError, match="in the tick"):
        train(tmp_path / "cut", failing, *watching(), save=1)
    assert_same_state(train(tmp_path / "cut", *watching(), save=1), straight)


def test_each_session_fires_once_in_each(tmp_path: Path) -> None:
    # Row 28: the one term that tells sessions apart.
    seen: list[tuple[int, int]] = []
    note = Callback(
        "note",
        on_schedule=lambda state: seen.append((state.now.session, state.now.update)),
        schedule=each_session,
    )
    broken(tmp_path, 3, note, save=1)
    broken(tmp_path, 6, note, save=1)
    train(tmp_path, note, save=1)
    assert seen == [(1, 0), (2, 2), (3, 5)]


# ---------------------------------------------------------------- rates

RATES: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, UPDATES),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=UPDATES + 1),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda k: 1 / (1 + k)),
    "warm-up": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=3),
            torch.optim.lr_scheduler.ExponentialLR(o, 0.8),
        ],
        [3],
    ),
    "restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2),
}


def noting_rates() -> Callback:
    """Remembers the rate that each update was made with."""

    def note(state: TrainState, rates: tuple[float, ...]) -> tuple[tuple[float, ...], None]:
        return (*rates, state.hyper["default"]["lr"]), None

    return Callback("rates", init=lambda state: (), before_update=note)


@pytest.mark.parametrize(
    ("name", "interval"),
    [*((name, "update") for name in RATES), ("step", "epoch"), ("warm-up", "epoch")],
)
def test_rates_after_a_resume_are_those_of_the_unbroken_run(
    tmp_path: Path, name: str, interval: str
) -> None:
    # Row 29.
    options: dict[str, Any] = {"lr_scheduler": RATES[name], "lr_interval": interval, "save": 1}
    straight = train(tmp_path / "whole", noting_rates(), **options)
    assert len(set(straight.final.memories["rates"])) > 1
    for cut in (4, 8):
        broken(tmp_path / str(cut), cut, noting_rates(), **options)
        assert_same_state(train(tmp_path / str(cut), noting_rates(), **options), straight)


def test_a_changed_horizon_is_told_and_does_not_stretch_the_rates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Row 29: the schedule of rates is the checkpoint's, whatever the longer run would have made.
    def cosine(length: int) -> dict[str, Any]:
        make = torch.optim.lr_scheduler.CosineAnnealingLR
        return {"lr_scheduler": lambda o: make(o, length), "until": {"updates": length}, "save": 1}

    straight = train(tmp_path / "whole", noting_rates(), **cosine(9)).final.memories["rates"]
    broken(tmp_path / "longer", 5, noting_rates(), **cosine(9))
    capsys.readouterr()
    longer = train(tmp_path / "longer", noting_rates(), **cosine(12)).final.memories["rates"]
    assert longer[:9] == straight
    assert len(longer) == 12
    assert "until.updates: 9 -> 12" in capsys.readouterr().out


# ---------------------------------------------------------------- what is remembered


def claimed(run: Path) -> dict[str, list[tuple[int, float | None]]]:
    """The updates and values of the kept checkpoints, by tag."""
    found: dict[str, list[tuple[int, float | None]]] = {}
    for manifest in reversed(candidates(run / "checkpoints").manifests):
        for claim in manifest.claims:
            found.setdefault(claim.tag, []).append((manifest.update, claim.value))
    return found


def telling() -> tuple[Callback, ...]:
    """A value in each update, its two best kept, and a stop when it is no better for long."""
    return chain(
        told(),
        hooks.best_checkpoint(metric=TOLD, keep_best=2),
        hooks.early_stopping(metric=TOLD, patience=4, check_finite=False),
        hooks.ema(decay=0.5),
        every(updates=4)(hooks.online_loss()),
        hooks.checkpoint(schedule=every(updates=1) | once_at_end, keep_last=1),
        Callback("served", init=lambda state: (), after_update=lambda state, kept: (kept, None)),
    )


def test_the_best_and_the_patience_are_those_of_the_unbroken_run(tmp_path: Path) -> None:
    # Row 30, stopped after each update: the best is never replaced by a worse one, and the count
    # of values that are no better goes on.
    straight = train(tmp_path / "whole", callbacks=telling())
    assert straight.final.now.update == 8
    assert "has not improved for 4 values" in str(straight.final.reason)
    assert claimed(straight.run)["best_model.loss.told"] == [(4, 0.3), (7, 0.3)]
    for cut in (2, 3, 5, 6, 8):
        series = tmp_path / str(cut)
        broken(series, cut, callbacks=telling())
        ended = train(series, callbacks=telling())
        assert_same_state(ended, straight)
        assert claimed(ended.run) == claimed(straight.run)


def test_another_runs_files_are_untouched_by_the_best_and_the_pruning(tmp_path: Path) -> None:
    # Row 30: a run that is done lies beside the one that is broken off and resumed.
    train(tmp_path, callbacks=telling(), resume="never")
    files = {path: path.read_bytes() for path in (tmp_path / "1").rglob("*") if path.is_file()}
    broken(tmp_path, 5, callbacks=telling(), resume="never")
    ended = train(tmp_path, callbacks=telling())
    assert ended.run.name == "2"
    now = {path: path.read_bytes() for path in (tmp_path / "1").rglob("*") if path.is_file()}
    assert now == files


# ---------------------------------------------------------------- averages


def averaging(signals: list[int]) -> tuple[Callback, ...]:
    """A pass with the averaged weights in each update, which may be signalled in its middle."""

    def process(model: Any, batch: Any) -> dict[str, Any]:
        if signals:
            signal.raise_signal(signals.pop())
        return {"mean": model.predict(batch).double().mean(1)}

    average = Callback(
        "average",
        on_schedule=lambda state: Log({"average": state.results["mean"].sum()}),
        schedule=every(updates=1),
        data=DataPass("val", process, batch_size=2, weights="ema"),
        writes=("average",),
    )
    return (average,)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_save_in_a_tick_that_evaluates_averages_holds_the_live_weights(
    tmp_path: Path, number: int
) -> None:
    # Row 31: the live weights and their average are stored apart; a resume trains the live ones.
    straight = train(tmp_path / "whole", *averaging([]), save=1, keep=None)
    series = tmp_path / "series"
    with pytest.raises((noether.Preempted, KeyboardInterrupt)):
        train(series, *averaging([number]), save=1, keep=None)
    assert newest_update(series / "1") == 1
    held = stored(series / "1" / "checkpoints" / "step-1")
    live = held["weights.pt"]["0.weight"]
    average = tensors(held["state.pt"]["memories"]["ema"])
    assert live.shape in [found.shape for found in average]
    assert not any(torch.equal(live, found) for found in average if found.shape == live.shape)
    same = stored(straight.run / "checkpoints" / "step-1")["weights.pt"]["0.weight"]
    assert torch.equal(live, same)
    ended = train(series, *averaging([]), save=1, keep=None)
    assert_same_state(ended, straight)
    assert rows(ended.run) == rows(straight.run)


def tensors(tree: Any) -> list[torch.Tensor]:
    """All tensors of a tree."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [tensor for part in parts for tensor in tensors(part)]
