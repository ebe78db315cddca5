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
from noether.hooks.tuning.shapes import step
from tests.group import Group
from tests.strategies import Clock, net, samples, sgd, squared_error

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


LATE = at(updates=9)


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (hooks.freeze(patterns=["0.wieght"]), r"'0\.wieght' is no .* Did you mean 0\.weight\?"),
        (hooks.freeze(patterns=["0.*", "4.*"], schedule=LATE), r"'4\.\*' is no parameter's name"),
        (LATE(hooks.unfreeze(patterns=["0.*", "xyz"])), r"'xyz' is no .* The first .* 0\.weight\."),
        (LATE(hooks.unfreeze(patterns=["0.*"], lr_scale=0.5)), r"none of .* is a group; groups: "),
    ],
)
def test_a_pattern_that_fits_nothing_is_told_at_the_start(callback: Callback, said: str) -> None:
    with pytest.raises(HookError, match=rf"before_training, at update 0.*{said}"):
        train(callback)


def test_a_rate_is_scaled_once_however_often_it_wakes(tmp_path: Path) -> None:
    model, groups = grouped()
    found, recording = recorder(group="first")
    optimizer = torch.optim.SGD(groups, lr=0.1)
    waking = every(updates=2)(hooks.unfreeze(patterns=["first"], lr_scale=0.5))
    train(waking, recording, model=model, optimizer=optimizer, until={"updates": 6})
    assert found == [0.1] * 2 + [0.05] * 4


def test_layers_wake_one_after_the_other_under_names_of_their_own() -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def note(state: TrainState) -> None:
        seen.append({n: p.detach().clone() for n, p in state.model.parameters.items()})

    train(
        hooks.freeze(patterns=["0.*", "3.weight"]),
        at(updates=4)(hooks.unfreeze(patterns=["3.weight"])),
        at(updates=8)(hooks.unfreeze(patterns=["0.*"])),
        Callback("note", before_training=note, after_update=note),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    )
    assert still(seen, "3.bias") == [False] * 12
    assert still(seen, "3.weight") == [True] * 4 + [False] * 8
    assert still(seen, "0.weight") == [True] * 8 + [False] * 4


@pytest.mark.parametrize("patterns", [[], "0.*", [""]])
def test_what_is_no_list_of_patterns_is_refused(patterns: Any) -> None:
    with pytest.raises(ValueError, match="patterns"):
        hooks.freeze(patterns=patterns)
    with pytest.raises(ValueError, match="patterns"):
        hooks.unfreeze(patterns=patterns)


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="lr_scale"):
        hooks.unfreeze(patterns=["a"], lr_scale=0.0)
