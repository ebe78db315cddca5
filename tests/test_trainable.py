"""`Set("trainable/...")`: what is trained and what is not, on one rank and on several."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import Callback, Set, TrainState, at, every, hooks, once_at_start
from tests.group import Group, groups
from tests.strategies import net, samples, sgd, squared_error

pytestmark = pytest.mark.timeout(200)
Weights = dict[str, torch.Tensor]
UPDATES = 8


@pytest.fixture(scope="module", name="ranked")
def _ranked() -> Iterator[Mapping[int, Group]]:
    with groups(2) as made:
        yield made


def asking(schedule: Any, *targets: tuple[str, bool]) -> Callback:
    """Asks for these when the schedule fires."""
    asked = [Set(f"trainable/{pattern}", value) for pattern, value in targets]
    said = "+".join(f"{pattern}={value}" for pattern, value in targets)
    return Callback(said, on_schedule=lambda state: asked, schedule=schedule, writes=())


def train(*callbacks: Callback, **options: Any) -> list[Weights]:
    """The weights before training and after each update."""
    model = options.pop("model", None) or net(dropout=0.0).double()
    data = samples(12)
    pairs = list(zip(data.inputs.double(), data.targets.double(), strict=True))
    seen: list[Weights] = []

    def note(state: TrainState) -> None:
        whole = {n: getattr(p, "full_tensor", p.detach)() for n, p in held(state).items()}
        seen.append({n: p.detach().clone() for n, p in whole.items()})

    given = {"loss": squared_error, "optimizer": sgd, "until": {"updates": UPDATES}}
    noting = Callback("note", before_training=note, after_update=note, writes=())
    callbacks = (noting, *callbacks)
    given |= {"batch_size": 4, "defaults": False, "callbacks": callbacks}
    noether.train(model, pairs, **{**given, **options})
    return seen


def held(state: TrainState) -> Mapping[str, Any]:
    found: Mapping[str, Any] = state.model.parameters
    return found


def still(seen: list[Weights], name: str) -> list[int]:
    """The updates that left a parameter as it was."""
    return [u for u, (a, b) in enumerate(pairwise(seen), 1) if torch.equal(a[name], b[name])]


STAGES: dict[str, tuple[Callback, ...]] = {
    "later": (asking(at(updates=2), ("0.*", False)), asking(at(updates=5), ("0.*", True))),
    "from the start": (asking(once_at_start, ("0.*", False)),),
    "all but one": (asking(once_at_start, ("*", False), ("3.*", True)),),
    "begun frozen": (asking(once_at_start, ("3.*", True)),),
}
ALWAYS = [*range(1, UPDATES + 1)]
STILL = dict.fromkeys(STAGES, ALWAYS) | {"later": [3, 4, 5]}


def staged(stage: str, **options: Any) -> list[Weights]:
    model = net(dropout=0.0).double()
    model.requires_grad_(stage != "begun frozen")
    more = [hooks.checkpoint(schedule=every(updates=1), keep_last=None)] if options else []
    return train(*STAGES[stage], *more, model=model, **options)


def on_ranks(stage: str, parallel: str, folder: str, resume: str) -> list[Weights]:
    return staged(stage, parallel=parallel, run_dir=folder, resume=resume)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_train_what_one_does_also_after_a_resume(
    ranked: Mapping[int, Group], stage: str, parallel: str, tmp_path: Path
) -> None:
    alone = staged(stage)
    assert still(alone, "0.weight") == STILL[stage]
    assert still(alone, "3.weight") == []
    whole = ranked[2].call(on_ranks, stage, parallel, str(tmp_path / "a"), "never")
    begun = str(tmp_path / "a" / "1" / "checkpoints" / "step-3")
    rest = ranked[2].call(on_ranks, stage, parallel, str(tmp_path / "b"), begun)
    for seen, again in zip(whole, rest, strict=True):
        assert still(seen, "0.weight") == STILL[stage]
        assert len(again) == len(alone) - 3
        for one, other in zip(seen, alone, strict=True):
            torch.testing.assert_close(one, other)
        for one, other in zip(again, alone[3:], strict=True):
            torch.testing.assert_close(one, other)


# ---------------------------------------------------------------- on one rank


def grouped(make: Any) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A network whose two layers are groups of an optimizer."""
    model: Any = net(dropout=0.0).double()
    named = [{"params": model[i].parameters(), "name": n} for i, n in ((0, "first"), (3, "last"))]
    return model, make(named)


OPTIMIZERS: dict[str, Any] = {
    "momentum and decay": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5),
    "adamw, one by one": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("pattern", ["first", "0.*", "0.weight"])
def test_neither_momentum_nor_decay_moves_what_is_frozen(name: str, pattern: str) -> None:
    model, optimizer = grouped(OPTIMIZERS[name])
    stages = asking(at(updates=3), (pattern, False)), asking(at(updates=6), (pattern, True))
    seen = train(*stages, model=model, optimizer=optimizer)
    assert still(seen, "0.weight") == [4, 5, 6]
    assert still(seen, "0.bias") == ([] if pattern == "0.weight" else [4, 5, 6])
    assert still(seen, "3.weight") == []


def test_what_is_frozen_has_no_gradient_and_no_part_in_the_norm() -> None:
    model, optimizer = grouped(OPTIMIZERS["adamw"])
    seen: list[tuple[set[str], float, float]] = []

    def look(state: TrainState) -> None:
        norm = torch.nn.utils.get_total_norm(list(state.model.gradients.values()))
        told: Any = state.model.grad_norm
        seen.append((set(state.model.gradients), float(norm), float(told)))

    looking = Callback("look", before_update=look, writes=())
    frozen = asking(at(updates=2), ("first", False))
    train(looking, frozen, model=model, optimizer=optimizer)
    last = {"3.weight", "3.bias"}
    assert [names for names, _, _ in seen] == [{"0.weight", "0.bias"} | last] * 2 + [last] * 6
    assert [told for _, _, told in seen] == pytest.approx([norm for _, norm, _ in seen])


def test_a_parameter_of_two_names_goes_by_either() -> None:
    class Tied(torch.nn.Module):  # a user's model
        def __init__(self) -> None:
            super().__init__()
            self.body, self.inner, self.outer = net(dropout=0.0), *2 * (torch.nn.Linear(2, 2),)

        def forward(self, x: torch.Tensor) -> Any:
            return self.outer(self.inner(self.body(x)))

    seen = train(asking(once_at_start, ("outer.*", False)), model=Tied().double())
    assert still(seen, "inner.weight") == ALWAYS
    assert still(seen, "body.0.weight") == []


def test_what_the_optimizer_does_not_hold_cannot_be_trained() -> None:
    model: Any = net(dropout=0.0).double()
    optimizer = torch.optim.SGD(model[3].parameters(), lr=0.1)
    with pytest.raises(LookupError, match=r"trainable/0\.\*.*the optimizer holds none of these"):
        train(asking(once_at_start, ("0.*", True)), model=model, optimizer=optimizer)


def test_of_what_a_pattern_fits_the_optimizers_own_is_trained() -> None:
    model: Any = net(dropout=0.0).double()
    optimizer = torch.optim.SGD(model[3].parameters(), lr=0.1)
    stages = asking(at(updates=2), ("0.*", False)), asking(at(updates=4), ("*", True))
    train(*stages, model=model, optimizer=optimizer)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
