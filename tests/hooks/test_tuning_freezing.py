"""Parameters that stand still for some of the run."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from noether import Callback, HookError, TrainState, at, every, hooks
from tests.group import Group
from tests.hooks.tuned import grouped, recorder, train
from tests.strategies import net


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
