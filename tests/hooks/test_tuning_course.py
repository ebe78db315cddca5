"""Rates and weight decay as the run goes, beside torch's own schedulers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as theirs

from noether import Callback, HookError, TrainState, every, hooks
from noether.hooks.tuning.shapes import step
from tests.hooks.tuned import UPDATES, grouped, of_torch, rates, recorder, train
from tests.strategies import Clock, sgd, squared_error

ORACLES: dict[str, tuple[dict[str, Any], Any]] = {
    "cosine": (
        {"shape": "cosine", "min_lr": 0.01},
        lambda o: theirs.CosineAnnealingLR(o, T_max=UPDATES, eta_min=0.01),
    ),
    "linear": (
        {"shape": "linear"},
        lambda o: theirs.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=UPDATES),
    ),
    "polynomial": (
        {"shape": "polynomial", "power": 2.0},
        lambda o: theirs.PolynomialLR(o, total_iters=UPDATES, power=2.0),
    ),
    "step": (
        {"shape": "step", "gamma": 0.5, "steps": 3},
        lambda o: theirs.StepLR(o, step_size=UPDATES // 3, gamma=0.5),
    ),
    "constant": ({"shape": "constant"}, lambda o: theirs.ConstantLR(o, factor=1.0)),
    "one's own": (
        {"shape": lambda share: 1 - share},
        lambda o: theirs.LinearLR(o, 1.0, 0.0, UPDATES),
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_a_rate_moves_as_torchs_scheduler_moves_it(name: str) -> None:
    options, make = ORACLES[name]
    assert rates(hooks.lr_schedule(**options)) == pytest.approx(of_torch(make), abs=1e-12)


def test_a_warmup_rises_to_the_base_and_is_followed_by_the_shape() -> None:
    found = rates(hooks.lr_schedule(shape="linear", warmup=4))
    rising = [0.1 * (k + 1) / 4 for k in range(4)]
    falling = [0.1 * (1 - k / 8) for k in range(8)]
    assert found == pytest.approx([*rising, *falling])


def test_by_epoch_the_rate_stays_within_an_epoch() -> None:
    found = rates(hooks.lr_schedule(shape="linear", by="epoch"), until={"epochs": 4})
    assert found == pytest.approx([0.1 * (1 - e / 4) for e in range(4) for _ in range(3)])


def test_only_the_groups_that_are_named_are_moved() -> None:
    model, groups = grouped()
    optimizer = torch.optim.SGD(groups, lr=0.1)
    first, one = recorder(group="first")
    last, other = recorder(group="last")
    moved = hooks.lr_schedule(shape="linear", groups=["last"])
    train(moved, one, other.named("other"), model=model, optimizer=optimizer)
    assert first == [0.1] * UPDATES
    assert last == pytest.approx([0.1 * (1 - k / UPDATES) for k in range(UPDATES)])


def test_weight_decay_may_rise() -> None:
    values, recording = recorder("weight_decay")
    decayed = lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.04)  # noqa: E731
    train(hooks.weight_decay_schedule(end=0.4), recording, optimizer=decayed)
    expected = [0.4 - 0.36 * (1 + math.cos(math.pi * k / UPDATES)) / 2 for k in range(UPDATES)]
    assert values == pytest.approx(expected)


def test_a_resumed_rate_goes_on_and_a_longer_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = hooks.lr_schedule(shape="linear", warmup=2)
    saving = hooks.checkpoint(schedule=every(updates=1), keep_last=None)
    whole = rates(schedule)
    values, recording = recorder()
    train(schedule, recording, saving, run_dir=tmp_path / "a")
    begun = tmp_path / "a" / "1" / "checkpoints" / "step-5"
    values.clear()
    train(schedule, recording, saving, run_dir=tmp_path / "b", resume=begun)
    assert values == whole[5:]
    assert "goes on" not in capsys.readouterr().out
    values.clear()
    longer = {"updates": UPDATES + 2}
    train(schedule, recording, saving, run_dir=tmp_path / "c", resume=begun, until=longer)
    assert values == [*whole[5:], 0.0, 0.0]
    said = "lr_schedule goes on for 12 updates as it began, of 14 now"
    assert said in capsys.readouterr().out


def test_the_journal_is_not_filled_with_rates(tmp_path: Path) -> None:
    train(hooks.lr_schedule(), run_dir=tmp_path)
    rows = (tmp_path / "1" / "journal.jsonl").read_text().splitlines()
    assert [json.loads(row)["tick"] for row in rows] == ["start", "end"]


def test_what_cannot_be_scheduled_is_told_at_the_start() -> None:
    with pytest.raises(HookError, match="needs a run of a known number of updates"):
        train(hooks.lr_schedule(), until={"seconds": 0.1})
    with pytest.raises(HookError, match=r"no group 'head' has a lr; those that do: \['default'\]"):
        train(hooks.lr_schedule(groups=["head"]))
    with pytest.raises(HookError, match=r"min_lr is 0\.2; expected no more than 0\.1, the rate"):
        train(hooks.lr_schedule(min_lr=0.2))
    with pytest.raises(HookError, match="warmup is 12 updates; the run has 12"):
        train(hooks.lr_schedule(warmup=UPDATES))
    with pytest.raises(HookError, match="no group has a weight_decay other than 0"):
        train(hooks.weight_decay_schedule(end=0.1))


@pytest.mark.parametrize("answer", [math.nan, math.inf, -0.5])
def test_a_shape_of_ones_own_may_not_give_what_is_no_rate(answer: float) -> None:
    with pytest.raises(HookError, match=r"shape gave .* which makes the lr of default"):
        train(hooks.lr_schedule(shape=lambda share: answer if share > 0.5 else 1.0))


def test_a_constant_rate_needs_no_horizon() -> None:
    found = rates(
        hooks.lr_schedule(shape="constant", warmup=5),
        until={"seconds": 20.0},
        clock=Clock(),
    )
    assert len(found) > 2
    assert found == pytest.approx([0.1 * min(k + 1, 5) / 5 for k in range(len(found))])


@given(steps=st.integers(1, 60), times=st.integers(1, 5))
def test_stairs_begin_where_they_should(steps: int, times: int) -> None:
    length = steps * times
    shape = step(0.5, steps)
    found = [shape(k / length) for k in range(length + 1)]
    assert found == [0.5 ** min(k // times, steps - 1) for k in range(length + 1)]


def test_updates_that_are_skipped_count() -> None:
    def loss(model: Any, batch: Any) -> torch.Tensor:
        seen.append(1)
        return squared_error(model, batch) * (math.nan if len(seen) in (3, 4) else 1.0)

    seen: list[int] = []
    found = rates(hooks.lr_schedule(shape="linear"), loss=loss, on_nonfinite="skip")
    assert found == pytest.approx([0.1 * (1 - k / UPDATES) for k in range(UPDATES)])


def test_groups_move_each_from_its_own_rate() -> None:
    model, groups = grouped()
    groups[1]["lr"] = 0.5
    first, one = recorder(group="first")
    last, other = recorder(group="last")
    moved = hooks.lr_schedule(shape="cosine", min_lr=0.02)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    train(moved, one, other.named("other"), model=model, optimizer=optimizer)
    shares = [(1 + math.cos(math.pi * k / UPDATES)) / 2 for k in range(UPDATES)]
    assert first == pytest.approx([0.02 + 0.08 * share for share in shares])
    assert last == pytest.approx([0.02 + 0.48 * share for share in shares])


def test_two_schedules_have_groups_of_their_own() -> None:
    model, groups = grouped()
    first, one = recorder(group="first")
    last, other = recorder(group="last")
    moved = [hooks.lr_schedule(shape="linear", groups=[name]) for name in ("first", "last")]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    train(*moved, one, other.named("other"), model=model, optimizer=optimizer)
    assert first == last == pytest.approx([0.1 * (1 - k / UPDATES) for k in range(UPDATES)])


def test_a_group_without_decay_is_given_none_but_by_name() -> None:
    model, groups = grouped()
    groups[0]["weight_decay"] = 0.1
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.0)
    found = [recorder("weight_decay", group) for group in ("first", "last")]
    callbacks = [recording.named(str(i)) for i, (_, recording) in enumerate(found)]
    schedule = hooks.weight_decay_schedule(end=0.5, shape="linear")
    train(schedule, *callbacks, model=model, optimizer=optimizer)
    assert found[0][0] == pytest.approx([0.1 + 0.4 * k / UPDATES for k in range(UPDATES)])
    assert found[1][0] == [0.0] * UPDATES
    for values, _ in found:
        values.clear()
    named = hooks.weight_decay_schedule(end=0.5, shape="linear", groups=["last"])
    model, groups = grouped()
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.0)
    train(named, *callbacks, model=model, optimizer=optimizer)
    assert found[0][0] == [0.0] * UPDATES
    assert found[1][0] == pytest.approx([0.5 * k / UPDATES for k in range(UPDATES)])


def test_a_scheduler_beside_it_is_overruled() -> None:
    found: list[float] = []

    def note(state: TrainState) -> None:
        found.append(state.hyper["default"]["lr"])

    train(
        hooks.lr_schedule(shape="linear"),
        Callback("used", before_update=note),
        lr_scheduler=lambda o: theirs.StepLR(o, step_size=1, gamma=0.5),
    )
    assert found == pytest.approx([0.1 * (1 - k / UPDATES) for k in range(UPDATES)])


@pytest.mark.parametrize(
    ("again", "optimizer", "said", "expected"),
    [
        # Other options count from then on; what the run began with stays.
        ({"shape": "linear"}, sgd, "", lambda u: 0.1 * (1 - u / UPDATES)),
        ({"by": "epoch"}, sgd, "", lambda u: 0.1 * (1 - (u // 3) / 4)),
        ({"groups": ["default"]}, sgd, "", lambda u: 0.1 * (1 - u / UPDATES)),
        (
            {"min_lr": 0.05},
            sgd,
            "lr of default is 0.0791667 and not 0.0583333, as it goes by 0.1, which it began with",
            lambda u: 0.1 - 0.05 * u / UPDATES,
        ),
        (
            {},
            lambda p: torch.optim.SGD(p, lr=0.7, momentum=0.9),
            "lr of default is 0.0583333 and not 0.7, as it goes by 0.1, which it began with",
            lambda u: 0.1 * (1 - u / UPDATES),
        ),
    ],
)
def test_what_is_otherwise_after_a_resume_is_told(
    again: dict[str, Any],
    optimizer: Any,
    said: str,
    expected: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    until = {"epochs": 4}
    saving = hooks.checkpoint(schedule=every(updates=1), keep_last=None)
    values, recording = recorder()
    begun: Any = {"shape": "linear"}
    name = "rates"
    first = hooks.lr_schedule(**begun).named(name)
    train(first, saving, run_dir=tmp_path / "a", until=until)
    capsys.readouterr()
    second = hooks.lr_schedule(**{**begun, **again}).named(name)
    step_5 = tmp_path / "a" / "1" / "checkpoints" / "step-5"
    options: Any = {"run_dir": tmp_path / "b", "resume": step_5, "until": until}
    train(second, recording, saving, optimizer=optimizer, **options)
    assert values == pytest.approx([expected(u) for u in range(5, UPDATES)])
    told = capsys.readouterr().out
    assert said in told
    assert bool(said or again == {"by": "epoch"}) == ("which it began with" in told)


@pytest.mark.parametrize(
    "options",
    [
        {"shape": "cosin"},
        {"warmup": -1},
        {"min_lr": -0.1},
        {"by": "step"},
        {"power": 0.0},
        {"gamma": 2.0},
        {"steps": 0},
        {"power": 2.0},
        {"shape": "linear", "gamma": 0.5},
        {"shape": "polynomial", "steps": 4},
        {"groups": []},
        {"groups": "head"},
    ],
)
def test_a_rate_refuses_what_it_cannot_follow(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lr_schedule"):
        hooks.lr_schedule(**options)
