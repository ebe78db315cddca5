"""What hooks ask for within an update is served with its tick; what cannot train is refused."""

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import (
    ConfigurationError,
    HookError,
    Log,
    Save,
    Say,
    TrainState,
    every,
    hook,
    hooks,
    when,
)
from noether.checkpoint import newest
from noether.console import Console
from noether.journal import read
from noether.rundir import read_status
from tests.strategies import net, samples, sgd, squared_error


def train(callbacks: Any = (), model: Any = None, **options: Any) -> TrainState:
    given: dict[str, Any] = {
        "loss": squared_error,
        "optimizer": sgd,
        "until": {"updates": 6},
        "batch_size": 4,
        "defaults": False,
        **options,
    }
    return noether.train(model or net(norm=True), samples(12), callbacks=callbacks, **given)


@pytest.mark.parametrize("point", ["before_update", "after_accumulation_step", "tick"])
def test_a_save_from_within_an_update_is_committed_with_its_tick(
    point: Any, tmp_path: Path
) -> None:
    whole = net(norm=True)
    train(model=whole)

    def save_at_three(state: TrainState) -> Save | None:
        return Save("mid") if state.before.update == 2 else None

    saving = hook(save_at_three, point=point)
    train([saving], run_dir=tmp_path, until={"updates": 4})
    found = newest(tmp_path / "1" / "checkpoints")
    assert found is not None
    assert found.manifest.update == 3
    resumed = net(norm=True)
    train([saving], resumed, run_dir=tmp_path, resume=found.directory)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert {row["tick"] for row in read(tmp_path / "1" / "journal.jsonl")} == {
        *("start", "update", "end")
    }


def test_a_metric_from_before_the_step_is_fresh_in_its_tick() -> None:
    seen: list[tuple[int, float]] = []

    def report(state: TrainState) -> Log:
        return Log({"gradient": state.now.update})

    gradient = hook(report, point="before_update", writes=["gradient"])

    def note(state: TrainState) -> None:
        seen.append((state.now.update, state.metrics["gradient"]))

    train([when("gradient")(hook(note, reads=["gradient"])), every(updates=2)(gradient)])
    assert seen == [(2, 2), (4, 4), (6, 6)]


def test_a_generator_hook_runs_without_gradients() -> None:
    enabled: list[bool] = []

    def generate(state: TrainState) -> Iterator[Say]:
        enabled.append(torch.is_grad_enabled())
        yield Say("here")

    train([generate], until={"updates": 1})
    assert enabled == [False, False]  # opening tick and update; the closing tick repeats none


def test_a_last_save_that_failed_is_tried_again_before_the_run_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(state: TrainState) -> None:
        # The folder vanishes and a file takes its place, as with a full or broken disk.
        folder = tmp_path / "1" / "checkpoints"
        if state.now.update == 6 and folder.is_dir():
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()
            folder.touch()

    with pytest.raises((noether.CheckpointError, OSError)):
        train([every(updates=6)(hook(spoil)), hooks.checkpoint()], run_dir=tmp_path)
    assert read_status(tmp_path / "1")["state"] == "failed"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": sgd(torch.nn.Linear(1, 1).parameters())}, "none of the model's parameters"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'"),
        ({"loss": None}, "loss is None"),
        ({"model": torch.nn.ReLU()}, "no parameters"),
        ({"seed": 2**70}, "seed"),
    ],
)
def test_what_cannot_train_is_refused_before_it_tries(options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        train(**options)


def test_a_loss_that_is_not_one_number_is_named_with_its_shape() -> None:
    def per_output(model: Any, batch: Any) -> torch.Tensor:
        squares: torch.Tensor = (model(batch[0]) - batch[1]) ** 2
        return squares.mean(0)

    with pytest.raises(TypeError, match=r"shape \(2,\)"):
        train(loss=per_output)


def test_a_factory_that_was_not_called_is_told_apart() -> None:
    with pytest.raises(TypeError, match=r"write checkpoint\(\.\.\.\)"):
        train([hooks.checkpoint])


def test_a_schedule_that_raises_names_its_callback() -> None:
    def broken(tick: Any) -> bool:
        raise ValueError("no answer")

    with pytest.raises(HookError, match=r"'note', schedule, at update 0.*no answer"):
        train([noether.where(broken)(hook(lambda state: None)).named("note")])


def test_a_hook_that_exits_is_no_preemption(tmp_path: Path) -> None:
    def leave(state: TrainState) -> None:
        raise SystemExit(7)

    with pytest.raises(SystemExit):
        train([leave], run_dir=tmp_path)
    assert read_status(tmp_path / "1")["state"] == "failed"


def test_lines_for_a_reader_that_left_are_dropped() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    gone = os.fdopen(writer, "w", buffering=1)
    console = Console(gone, io.StringIO())
    console.say("into the void")
    console.say("again")
    with console.out:
        assert console.out.name == os.devnull
    with suppress(BrokenPipeError):
        gone.close()
