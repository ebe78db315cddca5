import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import Phase, find, given, settings

from noether import TrainState
from noether.state import Event
from noether.testing import snapshots

States = tuple[TrainState, ...]
FEW = settings(max_examples=30)


@FEW
@given(states=snapshots())
def test_snapshots_are_the_ticks_of_a_run(states: States) -> None:
    assert [states[0].event, states[-1].event] == ["start", "end"]
    assert {state.event for state in states} <= {"start", "update", "end"}
    assert states[-1].reason
    for state in states:
        assert set(state.model.buffers)
        assert set(state.model.parameters)
        assert state.hyper
        assert 0 <= state.rank < state.world_size


ORDER: Mapping[Event, tuple[Event, ...]] = {
    "start": ("accumulation_step", "start", "end"),
    "accumulation_step": ("accumulation_step", "before_update", "update"),
    "before_update": ("update",),
    "update": ("accumulation_step", "start", "end"),
}


@FEW
@given(states=snapshots(within=True))
def test_within_an_update_come_its_micro_batches_and_its_gradients(states: States) -> None:
    for state, following in itertools.pairwise(states):
        assert following.event in ORDER[state.event]
        if following.event == "update" and following.performed:
            assert state.event == "before_update"
            assert state.now.update == following.now.update
            assert state.model.gradients
        if state.event == "accumulation_step":
            assert state.now == state.before


@FEW
@given(states=snapshots(within=True))
def test_no_snapshot_shares_its_weights_with_another_update(states: States) -> None:
    held: dict[int, int] = {}
    for state in states:
        for parameter in state.model.parameters.values():
            reached = state.before.update if state.event in INSIDE else state.now.update
            assert held.setdefault(parameter.data_ptr(), reached) == reached


INSIDE = ("accumulation_step", "before_update")


@FEW
@given(states=snapshots())
def test_what_is_not_performed_had_a_loss_that_was_not_finite(states: States) -> None:
    for state in states:
        if not state.performed:
            assert not math.isfinite(state.losses["total"])


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # what is found is long
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("skipped", [False, True])
def test_there_are_updates_that_were_not_performed_and_several_groups_and_ranks(
    skipped: bool,  # noqa: FBT001
    groups: int,
    rank: int,
) -> None:
    def looked_for(states: States) -> bool:
        found = not all(state.performed for state in states)
        return (found, len(states[0].hyper), states[0].rank) == (skipped, groups, rank)

    # Raises an error where there is none among these many.
    generating = settings(max_examples=2000, database=None, phases=[Phase.generate])
    find(snapshots(), looked_for, settings=generating)


def half(model: Any, batch: Any) -> torch.Tensor:
    return torch.as_tensor(model(batch).mean() / 2)


@settings(max_examples=5)
@given(states=snapshots(model=torch.nn.Linear(5, 1, bias=False), loss=half))
def test_weights_are_those_of_a_model_of_ones_own(states: States) -> None:
    batch = torch.ones(2, 5)
    for state in states:
        weight = state.model.parameters["weight"]
        assert weight.shape == (1, 5)
        output = state.model.predict(batch)
        assert torch.allclose(output, batch @ weight.T)
        assert torch.allclose(state.model.loss(batch)["total"], output.mean() / 2)
        norm = state.model.grad_norm
        assert (norm is None) == (state.event == "start")
