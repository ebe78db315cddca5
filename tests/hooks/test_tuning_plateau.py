"""Rates that go down where a metric stands still, beside torch's own."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as theirs

from noether import Callback, HookError, Log, TrainState, every, hooks
from tests.hooks.tuned import UPDATES, grouped, recorder, train
from tests.strategies import net, sgd

values_of_metrics = st.lists(
    st.integers(-4, 4).map(float) | st.sampled_from([math.nan, math.inf]), min_size=1, max_size=15
)


@settings(max_examples=30)
@given(
    values=values_of_metrics,
    patience=st.integers(0, 3),
    cooldown=st.integers(0, 3),
    mode=st.sampled_from(["min", "max"]),
    delta=st.sampled_from([0.0, 1.0]),
)
def test_a_plateau_is_torchs(
    values: list[float], patience: int, cooldown: int, mode: Any, delta: float
) -> None:
    options: Any = {"patience": patience, "cooldown": cooldown, "min_lr": 0.002}
    optimizer = sgd(net().parameters())
    scheduler = theirs.ReduceLROnPlateau(
        optimizer, mode, 0.5, threshold=delta, threshold_mode="abs", eps=0.0, **options
    )
    expected = []
    for value in values:
        # To torch an infinite value may be the best; to us none that is not finite is.
        worst = math.inf if mode == "min" else -math.inf
        scheduler.step(value if math.isfinite(value) else worst)
        expected.append(optimizer.param_groups[0]["lr"])

    def report(state: TrainState) -> Log:
        return Log({"score": values[state.now.update - 1]})

    reduce = hooks.reduce_on_plateau(
        metric="score", mode=mode, factor=0.5, min_delta=delta, **options
    )
    found, recording = recorder()
    reporting = Callback("reporter", after_update=report, writes=("score",))
    train(reporting, reduce, recording, until={"updates": len(values)})
    assert [*found[1:], expected[-1]] == pytest.approx(expected)


def test_a_value_that_is_not_fresh_is_not_counted() -> None:
    def report(state: TrainState) -> Log | None:
        return Log({"score": 1.0}) if state.now.update == 1 else None

    reduce = hooks.reduce_on_plateau(
        metric="score", mode="min", patience=0, schedule=every(updates=1)
    )
    found, recording = recorder()
    train(Callback("reporter", after_update=report, writes=("score",)), reduce, recording)
    assert found == [0.1] * UPDATES


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 1.0},
        {"factor": 0.0},
        {"patience": -1},
        {"cooldown": -1},
        {"min_lr": -1.0},
        {"min_delta": -1.0},
        {"groups": []},
        {"groups": "head"},
    ],
)
def test_a_plateau_refuses_what_it_cannot_follow(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="reduce_on_plateau"):
        hooks.reduce_on_plateau(metric="loss", **options)


def test_a_plateau_lowers_the_groups_that_are_named_and_none_to_above() -> None:
    model, groups = grouped()
    groups[1]["lr"] = 0.01
    optimizer = torch.optim.SGD(groups, lr=0.1)
    found = [recorder(group=group) for group in ("first", "last")]
    callbacks = [recording.named(str(i)) for i, (_, recording) in enumerate(found)]
    reporting = Callback("reporter", after_update=lambda s: Log({"score": 1.0}), writes=("score",))
    options: Any = {"metric": "score", "mode": "min", "patience": 0, "factor": 0.5}
    until = {"updates": 4}
    reduce = hooks.reduce_on_plateau(**options, min_lr=0.02)
    train(reporting, reduce, *callbacks, model=model, optimizer=optimizer, until=until)
    assert found[0][0] == [0.1, 0.1, 0.05, 0.025]
    assert found[1][0] == [0.01] * 4  # below min_lr already, and not lifted to it
    for values, _ in found:
        values.clear()
    reduce = hooks.reduce_on_plateau(**options, groups=["last"])
    train(reporting, reduce, *callbacks, model=model, optimizer=optimizer, until=until)
    assert found[0][0] == [0.02] * 4
    assert found[1][0] == [0.01, 0.01, 0.005, 0.0025]


def test_a_plateau_of_a_group_that_is_not_there_is_told_at_the_start() -> None:
    reporting = Callback("reporter", after_update=lambda s: Log({"score": 1.0}), writes=("score",))
    reduce = hooks.reduce_on_plateau(metric="score", mode="min", groups=["head"])
    with pytest.raises(HookError, match=r"before_training, at update 0.*no group 'head'"):
        train(reporting, reduce)


def test_a_plateau_goes_on_after_a_resume(tmp_path: Path) -> None:
    values = [3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 1.0, 1.5, 1.5, 1.5, 1.5, 1.5]
    optimizer = sgd(net().parameters())
    scheduler = theirs.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=1, cooldown=1, threshold=0, threshold_mode="abs"
    )
    expected = []
    for value in values:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(value)

    def report(state: TrainState) -> Log:
        return Log({"score": values[state.now.update - 1]})

    reporting = Callback("reporter", after_update=report, writes=("score",))
    saving = hooks.checkpoint(schedule=every(updates=1), keep_last=None)
    options: Any = {"factor": 0.5, "patience": 1, "cooldown": 1}
    reduce = hooks.reduce_on_plateau(metric="score", mode="min", **options)
    found, recording = recorder()
    train(reporting, reduce, recording, saving, run_dir=tmp_path / "a")
    assert found == pytest.approx(expected)
    assert len(set(found)) > 2
    for update in (3, 4, 5):
        found.clear()
        begun = tmp_path / "a" / "1" / "checkpoints" / f"step-{update}"
        run = tmp_path / f"from-{update}"
        train(reporting, reduce, recording, saving, run_dir=run, resume=begun)
        assert found == pytest.approx(expected[update:])
