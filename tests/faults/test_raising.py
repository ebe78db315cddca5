"""Rows 34, 35, 36, 53, 54 and 55: hooks and updates that raise, and evaluations that must not
matter.
"""

import random
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from noether import (
    Callback,
    CheckpointError,
    DataPass,
    HookError,
    Log,
    TrainState,
    every,
    hooks,
    where,
)
from noether.rundir import read_status
from noether.testing.traces import trace
from tests.faults.runs import (
    Ended,
    Paced,
    adam,
    assert_same_state,
    broken,
    in_child,
    judged,
    newest_update,
    stored,
    train,
)
from tests.feeding import Numbered
from tests.strategies import net

FIELDS = (
    *("before_training", "after_accumulation_step", "before_update", "after_update"),
    *("after_epoch", "on_schedule", "after_training"),
)
TIMES = dict(zip(FIELDS, (1, 18, 9, 9, 3, 10, 1), strict=True))
"""How often each field runs: 18 micro-batches, 9 updates, 3 epochs, 9 updates and the opening."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return train(tmp_path_factory.mktemp("whole"))


def throwing(error: BaseException, field: str, at: int | None = None, **more: Any) -> Callback:
    """Raises in one field: at the first passage of an update, or always."""
    left = [at]

    def throw(state: TrainState) -> None:
        if at is None:
            raise error
        if left and state.now.update >= at:
            left.pop()
            raise error

    fields: dict[str, Any] = {field: throw, **more}
    return Callback("throwing", reads=(), writes=(), **fields)


# ---------------------------------------------------------------- observers


@pytest.mark.parametrize("once", [True, False], ids=["once", "always"])
@pytest.mark.parametrize("field", FIELDS)
def test_an_observer_that_raises_changes_nothing_else(
    tmp_path: Path, whole: Ended, field: str, capsys: pytest.CaptureFixture[str], *, once: bool
) -> None:
    # Row 34: told once with its traceback, counted, named at the end; all others run in order.
    bad = throwing(ValueError("shaky"), field, 0 if once else None, on_error="warn")
    ended = train(tmp_path, bad)
    output = capsys.readouterr()
    assert output.err.count("Traceback") == output.err.count("ValueError: shaky") == 1
    assert "test_raising.py" in output.err
    times = 1 if once else TIMES[field]
    assert f"callback 'throwing' failed {times} times" in output.out
    assert read_status(ended.run)["failed"] == {"throwing": times}
    assert_same_state(ended, whole, without="throwing")


@pytest.mark.parametrize("part", ["schedule", "process", "init"])
def test_an_observer_that_raises_elsewhere_changes_nothing_else(
    tmp_path: Path, whole: Ended, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Row 34: in its predicate, in its pass, in its first memory.
    def throw(*_: Any) -> Any:
        raise ValueError("shaky")

    def nothing(*_: Any) -> None:
        return None

    callbacks = {
        "schedule": Callback(
            "throwing", on_schedule=nothing, schedule=where(throw), on_error="warn"
        ),
        "process": Callback(
            "throwing",
            on_schedule=nothing,
            schedule=every(updates=2),
            data=DataPass("val", throw),
            on_error="warn",
        ),
        "init": Callback(
            "throwing", init=throw, after_update=lambda s, m: (m, None), on_error="warn"
        ),
    }
    ended = train(tmp_path, callbacks[part])
    assert capsys.readouterr().err.count("ValueError: shaky") == 1
    assert read_status(ended.run)["failed"]["throwing"] >= 1
    assert_same_state(ended, whole, without="throwing")


# ---------------------------------------------------------------- critical hooks


@pytest.mark.parametrize("cleanup", [True, False], ids=["cleanup fails", "cleanup works"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_critical_hook_that_raises_ends_the_run_with_its_error_and_every_closing_hook_once(
    tmp_path: Path, whole: Ended, field: str, *, cleanup: bool
) -> None:
    # Row 35: the first error is the cause, what the cleanup raises is noted on it, and the run
    # goes on from what was committed.
    seen: list[str] = []

    def closing(hook: str) -> Callable[[TrainState], None]:
        def close(state: TrainState) -> None:
            seen.append(hook)
            if cleanup:
                raise OSError(f"cleanup in {hook}")

        return close

    first = ValueError("the cause")
    bad = throwing(first, field, 0 if field == "before_training" else 5, critical=True)
    witness = Callback(
        "witness", after_training=closing("after_training"), on_exception=closing("on_exception")
    )
    with pytest.raises(HookError, match=f"'throwing', {field}") as caught:
        train(tmp_path, bad, witness)
    assert caught.value.__cause__ is first
    assert sorted(seen) == ["after_training", "on_exception"]
    notes = "\n".join(getattr(caught.value, "__notes__", ()))
    assert ("cleanup in on_exception" in notes) == ("cleanup in after_training" in notes) == cleanup
    status = read_status(tmp_path / "1")
    assert status["state"] == "failed"
    assert "the cause" in status["reason"]
    ended = train(tmp_path)
    closed = field == "after_training"
    assert_same_state(ended, whole, without="throwing", closed_before=closed)


PASSING = [KeyboardInterrupt(), SystemExit(9), MemoryError("full")]


@pytest.mark.deep
@pytest.mark.parametrize("error", PASSING, ids=repr)
@pytest.mark.parametrize("field", FIELDS)
def test_what_ends_a_process_ends_the_run_wherever_it_is_raised(
    tmp_path: Path, whole: Ended, field: str, error: BaseException
) -> None:
    # Row 36: it is not swallowed, also from an observer; the closing hooks run once.
    seen: list[str] = []
    note = Callback("note", after_training=lambda state: seen.append("after_training"))
    kind = {"critical": True} if isinstance(error, MemoryError) else {"on_error": "warn"}
    bad = throwing(error, field, 0 if field == "before_training" else 5, **kind)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        train(tmp_path, bad, note)
    assert error in (caught.value, caught.value.__cause__)
    assert seen == ["after_training"]
    assert read_status(tmp_path / "1")["state"] == "failed"
    ended = train(tmp_path)
    closed = field == "after_training"
    assert_same_state(ended, whole, without="throwing", closed_before=closed)


# ---------------------------------------------------------------- evaluations


def drawing(interval: int) -> Callback:
    """A pass that draws from every generator, wants gradients, and puts the model to work."""

    def process(model: Any, batch: Any) -> dict[str, Any]:
        drawn = torch.rand(()) + random.random() + float(numpy.random.rand())
        with torch.enable_grad():
            outputs = model.predict(batch[0]).sum(1).detach() + drawn
        return {"x": outputs}

    return Callback(
        "drawing",
        on_schedule=lambda state: Log({"x": state.results["x"].sum()}),
        schedule=every(updates=interval),
        data=DataPass("val", process, batch_size=2),
        writes=("x",),
    )


@pytest.mark.deep
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("evaluations", [(1,), (2,), (4,), (9,)], ids=str)
def test_evaluations_change_no_training(
    tmp_path: Path, evaluations: tuple[int, ...], workers: int
) -> None:
    # Row 53: weights, running statistics, optimizer, generators are those without any of them.
    def run(name: str, *more: Callback) -> dict[str, Any]:
        ended = train(
            tmp_path / name,
            callbacks=[
                *more,
                Callback("served", init=lambda s: (), after_update=lambda s, m: (m, None)),
                hooks.checkpoint(),
            ],
            model=net(norm=True),
            train_set=Numbered(12, drawing=True),
            datasets={"val": Numbered(5, tag=1, drawing=True)},
            workers=workers,
        )
        held = stored(ended.run / "checkpoints" / "step-9")
        state = held["state.pt"]
        kept = ("optimizer", "scheduler", "random", "offset", "progress")
        return {"weights": held["weights.pt"], **{name: state[name] for name in kept}}

    without = run("without")
    assert trace(run("with", *map(drawing, evaluations))) == trace(without)


# ---------------------------------------------------------------- again and again


@pytest.mark.deep
def test_a_run_that_fails_at_the_same_update_each_time_gives_up_and_says_so(
    tmp_path: Path,
) -> None:
    # Row 54.
    told = []
    for _ in range(30):
        try:
            broken(tmp_path, 5)
        except (CheckpointError, AssertionError) as error:
            told.append(str(error))
    status = read_status(tmp_path / "1")
    assert any("attempt" in key for key in status)
    assert any("progress" in text for text in told)


# ---------------------------------------------------------------- memory


def full_step(update: int) -> dict[str, Any]:
    """The optimizer's step finds no memory, once."""
    steps: list[int] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made = adam(parameters)

        def fill(*_: Any) -> None:
            steps.append(1)
            if len(steps) == update:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        made.register_step_pre_hook(fill)
        return made

    return {"optimizer": optimizer}


def full_snapshot(update: int) -> dict[str, Any]:
    """There is no memory for a copy of the weights, from a save on."""
    model, saves = net(), list[int]()

    def fill(*_: Any) -> None:
        saves.append(1)
        if len(saves) > update // 2 - 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.register_state_dict_pre_hook(fill)  # type: ignore[no-untyped-call]
    return {"model": model}


@pytest.mark.deep
@pytest.mark.parametrize("where_to", [full_step, full_snapshot])
def test_out_of_memory_leaves_the_last_checkpoint_and_is_named(
    tmp_path: Path, whole: Ended, where_to: Callable[[int], dict[str, Any]]
) -> None:
    # Row 55.
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        train(tmp_path, **where_to(6))
    assert newest_update(tmp_path / "1") == 4
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("failed", 4)
    assert "OutOfMemoryError: CUDA out of memory" in status["reason"]
    assert_same_state(train(tmp_path), whole)


def hungry(series: Path) -> None:
    """A run whose loss asks for more than the process may have."""
    paced, calls = Paced(), list[int]()
    inner = judged(paced)

    def loss(model: Any, batch: Any) -> Any:
        calls.extend([1] * torch.is_grad_enabled())
        if len(calls) == 11:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
            torch.ones(2**28)
        return inner(model, batch)

    train(series, loss=loss, clock=lambda: paced.now)


@pytest.mark.deep
def test_memory_that_the_kernel_refuses_leaves_the_last_checkpoint_and_is_named(
    tmp_path: Path, whole: Ended, capfd: pytest.CaptureFixture[str]
) -> None:
    # Row 55.
    assert in_child(partial(hungry, tmp_path)) == 1
    assert "can't allocate memory" in capfd.readouterr().err
    assert newest_update(tmp_path / "1") == 4
    status = read_status(tmp_path / "1")
    assert status["state"] == "failed"
    assert "can't allocate memory" in status["reason"]
    assert_same_state(train(tmp_path), whole)
