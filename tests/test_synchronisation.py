"""On a tick where nothing is due, nobody waits for the device."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

import noether
from noether import Callback, TrainState, every, hooks
from noether.hooks.monitoring import losses
from tests.strategies import net, samples, sgd, squared_error

READING = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"}
"""What a tensor on a device is asked for at the price of a wait."""
ROOT = str(Path(noether.__file__).parent)


class Readings(TorchFunctionMode):
    """Counts who reads tensors: the nearest function of noether in the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.by: Counter[str] = Counter()

    def __torch_function__(  # type: ignore[no-untyped-def]
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ):
        if getattr(func, "__name__", "") in READING:
            self.by[_reader()] += 1
        return func(*args, **(kwargs or {}))


def _reader() -> str:
    frame: Any = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(ROOT):
        frame = frame.f_back
    return "elsewhere" if frame is None else frame.f_code.co_name


def readings(*callbacks: Any, updates: int = 24, **options: Any) -> list[Counter[str]]:
    """Who read tensors in each update, the tick after it included."""
    found: list[Counter[str]] = []
    with Readings() as mode:

        def note(state: TrainState) -> None:
            found.append(Counter(mode.by))
            mode.by.clear()

        # The first thing of a tick: what came before it belongs to the tick before.
        first = Callback("first", after_update=note, reads=(), writes=())
        noether.train(
            net(),
            samples(24),
            loss=squared_error,
            optimizer=sgd,
            until={"updates": updates},
            batch_size=4,
            callbacks=[first, *callbacks],
            log=every(updates=6),
            track=every(updates=6),
            datasets={"val": samples(6, seed=2)},
            **options,
        )
    return found[1:]  # the first holds what came before training


LATE = {"_all_finite", "windows"}
"""The verdict of the update before, which has arrived by then; numbers of samples, never on a
device."""


@pytest.fixture(autouse=True)
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor counts as one that can be read without waiting."""
    monkeypatch.setattr(losses, "at_hand", lambda value: False)


@pytest.mark.parametrize("on_disk", [True, False])
def test_with_all_defaults_only_due_ticks_read(on_disk: bool, tmp_path: Path) -> None:  # noqa: FBT001
    found = readings(run_dir=tmp_path if on_disk else None)
    quiet = [set(each) for update, each in enumerate(found, 1) if update % 6]
    # Update 1 logs the learning rate, which is a plain number.
    assert all(each <= LATE for each in quiet), quiet
    loud = [set(each) for update, each in enumerate(found, 1) if update % 6 == 0]
    assert all("numbers" in each for each in loud)


def test_scalars_of_a_tick_are_read_with_one_transfer() -> None:
    found = readings(defaults={"checkpoint": False})
    assert [each["numbers"] for update, each in enumerate(found, 1) if update % 6 == 0] == [1, 1, 1]


def test_dormant_built_ins_read_nothing() -> None:
    far = every(updates=1000)
    found = readings(
        far(hooks.offline_loss(dataset="val")),
        hooks.early_stopping(metric="loss/val/total", patience=2),
        hooks.ema(decay=0.9),
        hooks.lr_schedule(warmup=5),
        hooks.collect_garbage(),
        defaults=False,
        run_dir=None,
    )
    assert all(set(each) <= LATE for each in found), found


@pytest.mark.parametrize("read", [float, bool, torch.Tensor.item, torch.Tensor.tolist])
def test_a_hook_that_reads_is_seen(read: Any) -> None:
    def look(state: TrainState) -> None:
        read(state.losses["total"])

    quiet = readings(defaults=False)
    found = readings(Callback("look", after_update=look), defaults=False)
    assert [
        sum(one.values()) - sum(other.values()) for one, other in zip(found, quiet, strict=True)
    ] == [1] * 23
