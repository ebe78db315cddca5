"""Rows 1 to 7, 24, 39 and 44 in any order: sessions, deaths, signals, damage, pruning, copies.

After each step the loader gives the newest valid checkpoint, and training on from it comes to
what the unbroken run does, bit for bit.
"""

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from noether import Callback, Preempted, TrainState
from noether.checkpoint import newest
from tests.faults.runs import (
    KILLED,
    Ended,
    assert_each_sample_once,
    assert_same_state,
    broken,
    in_child,
    left_aside,
    rows,
    storage,
    train,
)

HORIZON = 9
Content = dict[str, bytes]


@dataclass(slots=True)
class Ground:
    """The end of the unbroken run, made when it is first asked for."""

    ended: Ended | None = None


GROUND = Ground()


@contextmanager
def unbroken() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        GROUND.ended = train(Path(folder), until={"updates": HORIZON})
        yield
        GROUND.ended = None


def whole() -> Ended:
    assert GROUND.ended is not None
    return GROUND.ended


def improved() -> set[int]:
    """The updates whose tick saves a new best."""
    return {
        row["update"]
        for row in rows(whole().run)
        for effect in row["effects"]
        if effect["by"].startswith("best") and effect["kind"] == "save"
    }


def content(step: Path) -> Content:
    """The bytes of all files of a checkpoint."""
    return {path.name: path.read_bytes() for path in step.iterdir()}


@dataclass(slots=True)
class Model:
    """What has to be there."""

    committed: list[int] = field(default_factory=list)
    """Updates in the order of their commits."""
    written: dict[str, Content] = field(default_factory=dict)
    """What each checkpoint held when it was committed, by name."""
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Which directory each name was, so that one that was made anew is told apart."""


class Machine(RuleBasedStateMachine):
    """A series with one run in it, and what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.places = itertools.count(1)
        self.series = Path(self.folder.name) / "0"
        self.model = Model()
        self.keep: int | None = 2
        self.save = 1

    # ------------------------------------------------------------ what there is

    @property
    def steps(self) -> Path:
        return self.series / "1" / "checkpoints"

    def valid(self) -> dict[str, int]:
        """The update of each checkpoint that is as it was written, by its name."""
        found = {}
        for name, held in self.model.written.items():
            step = self.steps / name
            if step.is_dir() and content(step) == held:
                found[name] = int(name.split("-")[1])
        return found

    def last(self) -> int | None:
        return max(self.valid().values(), default=None)

    def begun(self) -> int:
        """The update that the next session begins at."""
        return self.last() or 0

    def there(self) -> dict[str, tuple[int, int]]:
        """Which directories are complete checkpoints."""
        steps = self.steps.glob("step-*") if self.steps.is_dir() else ()
        whole = (step for step in steps if (step / "manifest.json").is_file())
        marks = ((step.name, step.stat()) for step in whole if ".tmp-" not in step.name)
        return {name: (mark.st_ino, mark.st_mtime_ns) for name, mark in marks}

    def look(self) -> None:
        """Take note of the checkpoints that a session has committed."""
        there = self.there()
        for name, mark in there.items():
            if self.model.seen.get(name) != mark:
                self.model.committed.append(int(name.split("-")[1]))
                self.model.written[name] = content(self.steps / name)
        self.model.seen = there

    def options(self) -> dict[str, Any]:
        return {"until": {"updates": HORIZON}, "keep": self.keep, "save": self.save}

    def elsewhere(self) -> Path:
        return Path(self.folder.name) / str(next(self.places))

    def before_the_end(self) -> bool:
        return self.begun() < HORIZON - 1

    def reach(self, updates: int) -> int:
        """The update that a session of so many updates gets to, short of the end."""
        return min(self.begun() + updates, HORIZON - 1)

    # ------------------------------------------------------------ what is done

    @precondition(before_the_end)
    @rule(updates=st.integers(0, 4))
    def train_and_fail(self, updates: int) -> None:
        """A session that ends in an error within the update after these."""
        earlier, begun, reached = self.last(), self.begun(), self.reach(updates)
        broken(self.series, reached + 1, **self.options())
        self.look()
        trained = range(begun + 1, reached + 1)
        saved = [k for k in trained if k % self.save == 0 or k in improved()]
        assert self.last() == max(saved, default=earlier)

    @precondition(before_the_end)
    @rule(updates=st.integers(0, 4), number=st.sampled_from([signal.SIGTERM, signal.SIGINT]))
    def train_until_a_signal(self, updates: int, number: int) -> None:
        reached = self.reach(updates)

        def send(state: TrainState) -> None:
            if state.now.update == reached:
                signal.raise_signal(number)

        sending = Callback("sending", before_training=send, after_update=send)
        with suppress(Preempted, KeyboardInterrupt):
            train(self.series, sending, **self.options())
            raise AssertionError("it was not ended")
        self.look()
        assert self.last() == reached

    @precondition(before_the_end)
    @rule(updates=st.integers(1, 3), k=st.integers(1, 600))
    def die_at_a_call(self, updates: int, k: int) -> None:
        """A session that is killed at its kth call to the disk, if it makes so many."""
        begun, reached = self.begun(), self.reach(updates)
        code = in_child(partial(self.session_that_dies, reached, k))
        assert code in (0, KILLED)
        note(f"ended with {code}")
        self.look()
        assert begun <= self.begun() <= reached

    def session_that_dies(self, reached: int, k: int) -> None:
        calls = itertools.count(1)

        def act(name: str, args: tuple[Any, ...]) -> None:
            if next(calls) == k:
                os._exit(KILLED)

        with storage(act):
            broken(self.series, reached + 1, **self.options())

    @precondition(lambda self: len(self.valid()) > 1)
    @rule(data=st.data(), file=st.sampled_from(["weights.pt", "state.pt", "manifest.json"]))
    def corrupt(self, data: st.DataObject, file: str) -> None:
        """Damage one of several valid checkpoints."""
        name = data.draw(st.sampled_from(sorted(self.valid())))
        path = self.steps / name / file
        held = path.read_bytes()
        place = data.draw(st.integers(0, len(held) - 1))
        if file == "manifest.json" or data.draw(st.booleans()):
            path.write_bytes(held[:place])
        else:
            path.write_bytes(held[:place] + bytes([held[place] ^ 1]) + held[place + 1 :])

    @rule(keep=st.sampled_from([1, 2, 3, None]), save=st.integers(1, 3))
    def keep_others(self, keep: int | None, save: int) -> None:
        """From now on other checkpoints are saved and kept."""
        self.keep, self.save = keep, save

    @precondition(lambda self: self.series.is_dir())
    @rule(way=st.sampled_from(["copy", "move", "without hidden files"]))
    def go_elsewhere(self, way: str) -> None:
        """Go on with a copy of the directory."""
        target = self.elsewhere()
        if way == "move":
            self.series.rename(target)
        else:
            hidden = shutil.ignore_patterns(".*") if way != "copy" else None
            shutil.copytree(self.series, target, ignore=hidden)
        self.series = target
        self.model.seen = self.there()

    @precondition(lambda self: self.steps.is_dir())
    @rule(name=st.sampled_from(["step-99", "step-3.part", "notes"]))
    def leave_something(self, name: str) -> None:
        """Put what is no checkpoint beside them."""
        (self.steps / name).mkdir(exist_ok=True)

    # ------------------------------------------------------------ what must hold

    @invariant()
    def the_newest_valid_one_is_given(self) -> None:
        if not self.series.is_dir():
            return
        expected = self.last()
        assert (expected is not None) == bool(self.model.committed), "no valid checkpoint is left"
        found = newest(self.steps)
        assert (None if found is None else found.manifest.update) == expected
        if found is not None:
            assert (self.steps / "LATEST").read_text().strip() == found.directory.name

    @invariant()
    def training_on_comes_to_the_unbroken_end(self) -> None:
        target = self.elsewhere()
        if self.series.is_dir():
            shutil.copytree(self.series, target)
        ended = train(target, until={"updates": HORIZON}, save=HORIZON)
        assert_same_state(ended, whole(), without="checkpoint")
        assert_each_sample_once(ended)
        assert not [name for name in left_aside(ended.run / "checkpoints") if "probe" not in name]
        shutil.rmtree(target)

    def teardown(self) -> None:
        self.folder.cleanup()


def walked(examples: int, steps: int) -> None:
    checked: Callable[..., Any] = run_state_machine_as_test
    with unbroken():
        checked(
            Machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink),  # to explain takes minutes
            ),
        )


@pytest.mark.timeout(600)
def test_after_any_few_steps_the_newest_valid_checkpoint_goes_on() -> None:
    walked(6, 7)


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_after_any_many_steps_the_newest_valid_checkpoint_goes_on() -> None:
    walked(50, 20)
