"""Rows 12 to 16: a signal in any phase of a run, twice, to the whole group, in a thread."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from noether import Callback, DataPass, Log, Preempted, TrainState, every
from noether.rundir import read_status
from tests.faults.runs import (
    KILLED,
    SAMPLES,
    UPDATES,
    Call,
    Disk,
    Ended,
    Paced,
    adam,
    assert_each_sample_once,
    assert_same_state,
    checkpoints,
    in_child,
    judged,
    left_aside,
    newest_update,
    train,
    train_on,
)
from tests.feeding import Numbered, Sample

SAVED = 4
"""The update whose tick saves, when a save is meant."""


def kill(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@dataclass(slots=True)
class Trap:
    """Sends this process a signal once, when a phase of an update is passed; notes the updates."""

    phase: str
    update: int
    numbers: tuple[int, ...] = (signal.SIGTERM,)
    at: int = 0
    """The update under way, or the last one made."""
    seen: list[int] = field(default_factory=list)
    sent: bool = False

    def passing(self, phase: str, update: int) -> None:
        if not self.sent and (phase, update) == (self.phase, self.update):
            self.sent = True
            for number in self.numbers:
                kill(number)

    def saw(self, state: TrainState) -> None:
        self.at = state.now.update
        self.seen.append(self.at)
        self.passing("tick", self.at)

    def process(self, model: Any, batch: Any) -> dict[str, Any]:
        self.passing("evaluation", self.at)
        return {"x": batch[0].sum(1)}

    def callbacks(self) -> tuple[Callback, ...]:
        watching = Callback(
            "trap",
            before_training=lambda s: self.passing("opening", s.now.update),
            after_accumulation_step=lambda s: self.passing("accumulation", s.now.update + 1),
            before_update=lambda s: self.passing("gradients", s.now.update),
            after_update=self.saw,
            after_epoch=lambda s: self.passing("epoch end", s.now.update),
            after_training=lambda s: self.passing("closing", s.now.update),
        )
        evaluating = Callback(
            "evaluating",
            on_schedule=lambda s: Log({"x": s.results["x"].sum()}),
            schedule=every(updates=2),
            data=DataPass("val", self.process, batch_size=2),
            writes=("x",),
        )
        return watching, evaluating

    def loss(self, paced: Paced) -> Callable[[Any, Any], Any]:
        inner = judged(paced)

        def loss(model: Any, batch: Any) -> Any:
            if torch.is_grad_enabled():
                self.passing("forward", self.at + 1)
            found = inner(model, batch)
            if torch.is_grad_enabled():
                self.passing("before backward", self.at + 1)
            return found

        return loss


@dataclass(frozen=True)
class Trapped:
    """A training set that passes the trap when a sample is read."""

    trap: Trap
    content: Numbered

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, index: int) -> Sample:
        self.trap.passing("reading", self.trap.at + 1)
        return self.content[index]


def trapped(trap: Trap, series: Path, **options: Any) -> Ended:
    """The run, or its next session, with a trap in it."""
    paced = Paced()

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made = adam(parameters)
        made.register_step_pre_hook(lambda *_: trap.passing("step", trap.at + 1))
        made.register_step_post_hook(lambda *_: trap.passing("stepped", trap.at + 1))
        return made

    given: dict[str, Any] = {
        "loss": trap.loss(paced),
        "clock": lambda: paced.now,
        "train_set": Trapped(trap, Numbered(SAMPLES, drawing=True)),
        "optimizer": optimizer,
        **options,
    }
    return train(series, *trap.callbacks(), **given)


NEVER = ("never", 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return trapped(Trap(*NEVER), tmp_path_factory.mktemp("whole"))


def goes_on(series: Path, whole: Ended, **options: Any) -> None:
    ended = trapped(Trap(*NEVER), series, **options)
    assert_same_state(ended, whole)
    assert_each_sample_once(ended)
    assert [path.name for path in series.iterdir()] == ["1"]


def assert_preempted(series: Path, update: int, number: int = signal.SIGTERM) -> None:
    run = series / "1"
    status = read_status(run)
    assert (status["state"], status["update"]) == ("preempted", update)
    assert status["reason"] == signal.Signals(number).name
    assert newest_update(run) == update
    assert left_aside(run) == []


PHASES = [
    *(("opening", 0, 0), ("reading", 1, 1), ("forward", 1, 1)),
    *(("reading", 5, 5), ("forward", 5, 5), ("before backward", 5, 5)),
    *(("accumulation", 5, 5), ("gradients", 5, 5), ("step", 5, 5), ("stepped", 5, 5)),
    *(("tick", 5, 5), ("evaluation", 4, 4), ("epoch end", 6, 6), ("forward", 4, 4)),
]


@pytest.mark.parametrize(("phase", "at", "last"), PHASES)
def test_a_signal_in_any_phase_ends_the_run_after_its_update(
    tmp_path: Path, whole: Ended, phase: str, at: int, last: int
) -> None:
    # Row 12: nothing more than the update under way is made; it is committed, and goes on.
    trap = Trap(phase, at)
    with pytest.raises(Preempted) as caught:
        trapped(trap, tmp_path)
    assert caught.value.code == 75
    assert trap.sent
    assert trap.seen == list(range(1, last + 1))
    assert_preempted(tmp_path, last)
    goes_on(tmp_path, whole)


def test_a_signal_before_the_first_update_of_a_resumed_session_trains_nothing(
    tmp_path: Path, whole: Ended
) -> None:
    # Row 12, again and again.
    with pytest.raises(Preempted):
        trapped(Trap("tick", 5), tmp_path)
    for _ in range(2):
        trap = Trap("opening", 5)
        with pytest.raises(Preempted):
            trapped(trap, tmp_path)
        assert trap.seen == []
        assert_preempted(tmp_path, 5)
    goes_on(tmp_path, whole)


def test_a_signal_in_the_closing_tick_lets_the_run_be_done(tmp_path: Path, whole: Ended) -> None:
    # Row 12: there is nothing left to come back for.
    trap = Trap("closing", UPDATES)
    assert_same_state(trapped(trap, tmp_path), whole)
    assert trap.sent
    assert read_status(tmp_path / "1")["state"] == "done"


def saving_calls(series: Path, update: int) -> list[int]:
    """The numbers of the calls to the disk in the tick of an update: first, some, last."""
    told: list[Call] = []

    def note(call: Call) -> bool:
        told.append(call)
        return False

    with_disk(Disk(note), Trap(*NEVER), series)
    found = [call.number for call in told if call.update == update]
    return sorted({found[0], found[1], *found[:: len(found) // 6], found[-1]})


def with_disk(disk: Disk, trap: Trap, series: Path) -> Ended:
    paced = Paced()
    given = {
        "loss": trap.loss(paced),
        "clock": lambda: paced.now,
        "train_set": Trapped(trap, Numbered(SAMPLES, drawing=True)),
    }
    return train_on(disk, series, *trap.callbacks(), **given)


def signalling(update: int, number: int, signals: tuple[int, ...]) -> Disk:
    """A disk that works, and signals this process at one call of one tick."""

    def due(call: Call) -> bool:
        if (call.update, call.number) == (update, number):
            for each in signals:
                kill(each)
        return False

    return Disk(due)


def test_a_signal_in_a_save_lets_it_finish(tmp_path: Path, whole: Ended) -> None:
    # Row 12: first, middle and last call of a periodic save.
    for number in saving_calls(tmp_path / "calls", SAVED):
        series = tmp_path / str(number)
        with pytest.raises(Preempted):
            with_disk(signalling(SAVED, number, (signal.SIGTERM,)), Trap(*NEVER), series)
        assert_preempted(series, SAVED)
        goes_on(series, whole)


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,) * 2, (signal.SIGINT,) * 2])
def test_two_signals_in_a_save_let_it_finish(
    tmp_path: Path, whole: Ended, numbers: tuple[int, ...]
) -> None:
    # Row 14: the save that was asked for first is committed.
    for number in saving_calls(tmp_path / "calls", SAVED)[::2]:
        series = tmp_path / str(number)
        with pytest.raises((Preempted, KeyboardInterrupt)):
            with_disk(signalling(SAVED, number, numbers), Trap(*NEVER), series)
        assert_preempted(series, SAVED, numbers[0])
        goes_on(series, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_while_the_preemption_is_saved_lets_it_finish(
    tmp_path: Path, whole: Ended, number: int
) -> None:
    # Row 14. Update 5 saves nothing by itself: all its calls are of the preemption's save.
    ending = Preempted if number == signal.SIGTERM else KeyboardInterrupt
    for k in (1, 2, 60, 120):
        series = tmp_path / str(k)
        disk = signalling(5, k, (number,))
        with pytest.raises(ending):
            with_disk(disk, Trap("tick", 5, (number,)), series)
        assert disk.number > 120
        assert_preempted(series, 5, number)
        goes_on(series, whole)


@pytest.mark.parametrize("phase", ["forward", "accumulation"])
def test_a_second_interrupt_aborts_at_once_and_the_old_checkpoint_stands(
    tmp_path: Path, whole: Ended, phase: str
) -> None:
    # Row 14: the update under way is abandoned at its next micro-batch.
    trap = Trap(phase, 5, (signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trapped(trap, tmp_path)
    assert trap.seen == [1, 2, 3, 4]
    assert checkpoints(tmp_path / "1") == ["step-2", "step-4"]
    assert_preempted(tmp_path, 4, signal.SIGINT)
    goes_on(tmp_path, whole)


def group_killed(series: Path, at: int) -> None:
    """A run with two workers whose whole process group gets the signal after an update."""

    def everybody(state: TrainState) -> None:
        if state.now.update == at:
            assert len(multiprocessing.active_children()) == 2
            os.killpg(os.getpgid(0), signal.SIGTERM)

    train(series, Callback("everybody", after_update=everybody), workers=2)


@pytest.mark.parametrize("at", [1, 4, 5])
def test_a_signal_to_the_group_reaches_no_worker_and_the_save_happens(
    tmp_path: Path, at: int
) -> None:
    # Row 13.
    series = tmp_path / "series"
    assert in_child(partial(group_killed, series, at), leading=True) == 75
    assert_preempted(series, at)
    assert_same_state(train(series), train(tmp_path / "whole"))


def grace_over(series: Path, k: int) -> None:
    """SIGTERM in update 5, and SIGKILL, as it were, at a call of the save that it leads to."""

    def due(call: Call) -> bool:
        if (call.update, call.number) == (5, k):
            os._exit(KILLED)
        return False

    with_disk(Disk(due), Trap("tick", 5), series)


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_killed_at_any_call_of_the_preemption_save_it_is_never_worse_than_before(
    tmp_path: Path, whole: Ended
) -> None:
    # Row 15. That a save takes longer than the grace is warned of nowhere yet.
    found, k = [], 1
    while in_child(partial(grace_over, tmp_path / str(k), k)) == KILLED:
        found.append(newest_update(tmp_path / str(k) / "1"))
        goes_on(tmp_path / str(k), whole)
        k += 1
    assert found == sorted(found)
    assert set(found) == {4, 5}


# ---------------------------------------------------------------- threads and foreign handlers


@pytest.mark.deep
def test_a_run_in_a_thread_comes_to_the_same(tmp_path: Path, whole: Ended) -> None:
    # Row 16.
    ended: list[Ended] = []
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    thread = threading.Thread(target=lambda: ended.append(trapped(Trap(*NEVER), tmp_path)))
    thread.start()
    thread.join(60)
    assert_same_state(ended[0], whole)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.deep
@pytest.mark.parametrize("foreign", ["ignored", "function", "default"])
def test_a_foreign_handler_is_chained_and_put_back(
    tmp_path: Path, whole: Ended, foreign: str
) -> None:
    # Row 16: also when it lets the process live, the run ends resumable.
    called: list[int] = []
    handler: Any = {
        "ignored": signal.SIG_IGN,
        "function": lambda number, frame: called.append(number),
        "default": signal.SIG_DFL,
    }[foreign]
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Preempted):
            trapped(Trap("forward", 5), tmp_path)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == ([signal.SIGTERM] if foreign == "function" else [])
    goes_on(tmp_path, whole)
