"""What the callbacks cost is what their hooks took, whoever else ran beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import noether
from noether import Callback, TrainState, every, hooks, turn
from tests.group import Group
from tests.hooks.test_monitoring_times import logged, train
from tests.strategies import net, samples, sgd, squared_error


class Hours:
    """A clock that only moves when a hook says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float) -> Callable[..., None]:
        def hook(state: TrainState) -> None:
            self.now += seconds

        return hook


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    made = Hours()
    monkeypatch.setattr(turn, "perf_counter", made)
    return made


def slow(hours: Hours) -> list[Callback]:
    return [
        Callback("always", after_update=hours.taking(1.0)),
        Callback("within", on_schedule=hours.taking(8.0), point="before_update"),
        Callback("rare", on_schedule=hours.taking(64.0), schedule=every(updates=2)),
        Callback("idle", on_schedule=hours.taking(512.0), schedule=every(updates=100)),
    ]


def test_each_callback_took_what_its_hooks_took_since_the_last_firing(
    hours: Hours, tmp_path: Path
) -> None:
    train([*slow(hours), hooks.hook_times(schedule=every(updates=3))], run_dir=tmp_path)
    told = {update: metrics for tick, update, metrics in logged(tmp_path) if tick == "update"}
    first = {"always": 3.0, "within": 24.0, "rare": 64.0, "idle": 0.0, "hook_times": 0.0}
    assert told[3] == {f"time/hook/{name}": seconds for name, seconds in first.items()}
    assert told[6] == {**told[3], "time/hook/rare": 128.0}


def test_after_a_resume_it_counts_what_this_session_took(hours: Hours, tmp_path: Path) -> None:
    saves = hooks.checkpoint(schedule=every(updates=3), keep_last=None)
    callbacks = [*slow(hours), hooks.hook_times(schedule=every(updates=4)), saves]
    train(callbacks, run_dir=tmp_path / "whole")
    begun = tmp_path / "whole" / "1" / "checkpoints" / "step-3"
    train(callbacks, run_dir=tmp_path / "resumed", resume=begun)
    rows = logged(tmp_path / "resumed")
    (metrics,) = [found for tick, update, found in rows if (tick, update) == ("update", 4)]
    assert metrics["time/hook/always"] == 1.0
    assert metrics["time/hook/rare"] == 64.0


def test_a_pass_is_time_of_the_callback_that_it_is_made_for(hours: Hours) -> None:
    def process(model: Any, batch: Any) -> dict[str, Any]:
        hours.now += 5.0
        return {"n": len(batch[0])}

    passing = hooks.evaluate(dataset="val", process=process, finish=lambda found: {"many": 1.0})
    costs = hooks.hook_times(schedule=every(updates=3))
    final = train(
        [every(updates=3)(passing), costs], datasets={"val": samples(4)}, until={"updates": 3}
    )
    assert final.metrics[f"time/hook/{passing.name}"] == 5.0


def waited(seconds: float) -> float:
    """On a rank whose hooks take this times its number, what all are told."""
    hours = Hours()
    vars(turn)["perf_counter"] = hours
    rank = dist.get_rank()
    final = noether.train(
        net(),
        samples(8),
        loss=squared_error,
        optimizer=sgd,
        until={"updates": 2},
        batch_size=4,
        callbacks=[
            Callback("always", after_update=hours.taking(seconds * rank)),
            hooks.hook_times(schedule=every(updates=2)),
        ],
        defaults=False,
    )
    return final.metrics["time/hook/always"]


def test_of_two_ranks_the_slower_counts(tmp_path: Path) -> None:
    group = Group(2, tmp_path / "log")
    group.log.touch()
    try:
        assert group.call(waited, 3.0) == [6.0, 6.0]
    finally:
        group.close()
