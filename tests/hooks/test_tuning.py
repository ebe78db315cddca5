"""Rates, weight decay and freezing in real runs, beside torch's own schedulers."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as theirs

import noether
from noether import Callback, HookError, Log, TrainState, at, every, hooks
from tests.group import Group
from tests.strategies import net, samples, sgd, squared_error

UPDATES = 12


def recorder(key: str = "lr", group: str = "default") -> tuple[list[float], Callback]:
    """The values with which the updates were made."""
    values: list[float] = []

    def note(state: TrainState) -> None:
        values.append(state.hyper[group][key])

    return values, Callback("recorder", after_update=note)


def train(*callbacks: Any, **options: Any) -> TrainState:
    given = {"loss": squared_error, "optimizer": sgd, "until": {"updates": UPDATES}}
    given |= {"batch_size": 4, "defaults": False, "callbacks": callbacks}
    return noether.train(options.pop("model", None) or net(), samples(12), **{**given, **options})


def rates(schedule: Callback, **options: Any) -> list[float]:
    values, recording = recorder()
    train(schedule, recording, **options)
    return values


def of_torch(make: Any, updates: int = UPDATES) -> list[float]:
    optimizer = sgd(net().parameters())
    scheduler = make(optimizer)
    found = []
    for _ in range(updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def grouped() -> tuple[Any, list[dict[str, Any]]]:
    """A network and its two layers as parameter groups."""
    model: Any = net()
    named = {"first": model[0], "last": model[3]}
    return model, [{"params": part.parameters(), "name": n} for n, part in named.items()]


# ---------------------------------------------------------------- lr_schedule

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
    ],
)
def test_a_rate_refuses_what_it_cannot_follow(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lr_schedule"):
        hooks.lr_schedule(**options)


# ---------------------------------------------------------------- reduce_on_plateau

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
    [{"factor": 1.0}, {"patience": -1}, {"cooldown": -1}, {"min_lr": -1.0}, {"min_delta": -1.0}],
)
def test_a_plateau_refuses_what_it_cannot_follow(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="reduce_on_plateau"):
        hooks.reduce_on_plateau(metric="loss", **options)


# ---------------------------------------------------------------- freeze, unfreeze


def stages(tmp_path: Path, **options: Any) -> list[dict[str, torch.Tensor]]:
    """The weights after each update of a run whose first layer stands still in its first epochs."""
    seen: list[dict[str, torch.Tensor]] = []

    def note(state: TrainState) -> None:
        seen.append({n: p.detach().clone() for n, p in state.model.parameters.items()})

    train(
        hooks.freeze(patterns=["0.*"], schedule=at(updates=2)),
        at(epochs=2)(hooks.unfreeze(patterns=["0.*"])),
        Callback("note", after_update=note),
        hooks.checkpoint(schedule=every(updates=1), keep_last=None),
        run_dir=tmp_path,
        **options,
    )
    return seen


def still(seen: list[dict[str, torch.Tensor]], name: str) -> list[bool]:
    """Whether an update left a parameter as it was."""
    return [torch.equal(before[name], after[name]) for before, after in pairwise(seen)]


def test_what_is_frozen_stands_still_until_it_is_not_also_after_a_resume(tmp_path: Path) -> None:
    whole = stages(tmp_path / "a")
    # Updates 3 to 6, though the optimizer has momentum; the rest learns all along.
    assert still(whole, "0.weight") == [False, *[True] * 4, *[False] * 6]
    assert not any(still(whole, "3.weight"))
    begun = tmp_path / "a" / "1" / "checkpoints" / "step-4"
    again = stages(tmp_path / "b", resume=begun)
    assert all(
        torch.equal(one[name], other[name])
        for one, other in zip(again, whole[4:], strict=True)
        for name in one
    )


def test_a_group_is_frozen_by_its_name_and_wakes_with_a_rate_of_its_own() -> None:
    model, groups = grouped()
    found, recording = recorder(group="first")
    before = model[0].weight.detach().clone()
    train(
        hooks.freeze(patterns=["first"]),
        at(updates=4)(hooks.unfreeze(patterns=["first"], lr_scale=0.5)),
        recording,
        model=model,
        optimizer=torch.optim.SGD(groups, lr=0.1),
        until={"updates": 5},
    )
    assert found == [0.1] * 4 + [0.05]
    assert not torch.equal(before, model[0].weight)


def staged() -> list[torch.Tensor]:
    """The weights at the end of such a run, on every rank."""
    model = net(dropout=0.0)
    train(
        hooks.freeze(patterns=["0.*"], schedule=at(updates=2)),
        at(updates=6)(hooks.unfreeze(patterns=["0.*"])),
        model=model,
    )
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.timeout(200)
def test_two_ranks_freeze_and_wake_as_one_does(tmp_path: Path) -> None:
    expected = staged()
    group = Group(2, tmp_path / "log")
    try:
        for found in group.call(staged):
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other)
    finally:
        group.close()


def test_a_pattern_that_fits_nothing_is_an_error_with_the_nearest() -> None:
    with pytest.raises(LookupError, match=r"such a name. Did you mean 0\.weight\?"):
        train(hooks.freeze(patterns=["0.wieght"]))


@pytest.mark.parametrize("patterns", [[], "0.*", [""]])
def test_what_is_no_list_of_patterns_is_refused(patterns: Any) -> None:
    with pytest.raises(ValueError, match="patterns"):
        hooks.freeze(patterns=patterns)
    with pytest.raises(ValueError, match="patterns"):
        hooks.unfreeze(patterns=patterns)


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="lr_scale"):
        hooks.unfreeze(patterns=["a"], lr_scale=0.0)
