"""Row 32: what is no number is acted upon before the step, is never best, and takes nothing away.

Row 33, one rank of several, is tested with the ranks.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from noether import Callback, Log, NonFiniteError, TrainState, chain, every, hooks
from noether.checkpoint.manifest import candidates
from noether.rundir import read_status
from tests.faults.runs import (
    Ended,
    Paced,
    adam,
    assert_same_state,
    broken,
    checkpoints,
    judged,
    newest_update,
    stored,
    train,
)
from tests.strategies import net

POISONS = [math.nan, math.inf, -math.inf]
PER_UPDATE = 2
"""Micro-batches of an update."""


def poisoned_loss(update: int, value: float) -> dict[str, Any]:
    """The loss of one micro-batch is no number, once."""
    paced, calls = Paced(), [0]
    inner = judged(paced)

    def loss(model: Any, batch: Any) -> Any:
        found, names = inner(model, batch)
        calls[0] += torch.is_grad_enabled()
        return found + (value if calls[0] == PER_UPDATE * update else 0.0), names

    return {"loss": loss, "clock": lambda: paced.now}


def poisoned_gradient(update: int, value: float) -> dict[str, Any]:
    """One number in the gradient of one parameter is none, once, while the loss is finite."""
    model, calls = net(), [0]

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == PER_UPDATE * update:
            gradient = gradient.clone()
            gradient[0, 0] = value
        return gradient

    model.get_parameter("3.weight").register_hook(poison)  # type: ignore[no-untyped-call]
    return {"model": model}


def finite(tree: Any) -> bool:
    if isinstance(tree, torch.Tensor):
        return bool(torch.isfinite(tree).all()) if tree.is_floating_point() else True
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return all(finite(part) for part in parts)


WAYS = [poisoned_loss, poisoned_gradient]


@pytest.mark.parametrize("value", POISONS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("save", [1, 2])
def test_a_poisoned_update_ends_the_run_and_the_good_checkpoints_stay(
    tmp_path: Path, way: Callable[[int, float], dict[str, Any]], value: float, save: int
) -> None:
    with pytest.raises(NonFiniteError, match="not finite"):
        train(tmp_path, save=save, **way(5, value))
    run = tmp_path / "1"
    assert checkpoints(run) == (["step-3", "step-4"] if save == 1 else ["step-2", "step-4"])
    assert all(finite(stored(run / "checkpoints" / name)) for name in checkpoints(run))
    status = read_status(run)
    assert (status["state"], status["update"]) == ("failed", 4)
    assert "NonFiniteError" in status["reason"]
    whole = train(tmp_path / "whole", save=save)
    assert_same_state(train(tmp_path, save=save), whole)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("way", WAYS)
def test_a_poisoned_update_that_is_skipped_moves_nothing_also_around_a_resume(
    tmp_path: Path, way: Callable[[int, float], dict[str, Any]], value: float
) -> None:
    def run(name: str, update: int) -> Ended:
        given = {"on_nonfinite": "skip", "save": 1, "keep": None}
        return train(tmp_path / name, **given, **way(update, value))

    straight = run("whole", 4)
    held = {k: stored(straight.run / "checkpoints" / f"step-{k}") for k in (3, 4, 5)}
    weights = {k: held[k]["weights.pt"]["0.weight"] for k in held}
    assert torch.equal(weights[3], weights[4])
    assert not torch.equal(weights[4], weights[5])
    assert held[4]["state.pt"]["skipped"] == 1
    assert all(finite(tree) for tree in held.values())
    for cut in (4, 5, 6):
        # The poison counts from the session's beginning, at update `cut - 1`.
        options = way(4, value) if cut > 4 else way(99, value)
        options |= {"on_nonfinite": "skip", "save": 1, "keep": None}
        broken(tmp_path / str(cut), cut if cut > 4 else 3, **options)
        assert_same_state(run(str(cut), 2 if cut == 4 else 99), straight)


def test_weights_that_the_step_makes_infinite_are_not_committed(tmp_path: Path) -> None:
    # Loss and gradients are finite all the while.
    steps: list[int] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made = adam(parameters)

        def overflow(*_: Any) -> None:
            steps.append(1)
            if len(steps) == 4:
                made.param_groups[0]["params"][0].data[0, 0] = math.inf

        made.register_step_post_hook(overflow)
        return made

    with pytest.raises(NonFiniteError, match="not finite at update 4"):
        train(tmp_path, optimizer=optimizer)
    assert checkpoints(tmp_path / "1") == ["step-2"]
    assert newest_update(tmp_path / "1") == 2


# ---------------------------------------------------------------- metrics

METRIC = "score/told"
NAN, INF = math.nan, math.inf


def telling(values: list[float], mode: Any, keep: int) -> tuple[Callback, ...]:
    def tell(state: TrainState) -> Log:
        return Log({METRIC: values[state.now.update - 1]})

    return chain(
        Callback("served", init=lambda s: (), after_update=lambda s, m: (m, None), reads=()),
        Callback("told", after_update=tell, reads=(), writes=(METRIC,)),
        hooks.best_checkpoint(metric=METRIC, mode=mode, keep_best=keep),
        hooks.checkpoint(schedule=every(updates=1), keep_last=1),
    )


def best(run: Path) -> list[tuple[int, float | None]]:
    """The updates and values of the checkpoints that are kept as best."""
    return sorted(
        (manifest.update, claim.value)
        for manifest in candidates(run / "checkpoints").manifests
        for claim in manifest.claims
        if claim.keep_best is not None
    )


@pytest.mark.parametrize(
    ("values", "mode", "kept"),
    [
        ([0.5, NAN, 0.4, NAN], "min", [(3, 0.4)]),
        ([0.5, NAN, 0.4, NAN], "max", [(1, 0.5)]),
        ([NAN, 0.5, 0.6, NAN], "min", [(2, 0.5)]),
        ([NAN, NAN, NAN, NAN], "min", []),
        ([NAN, NAN, NAN, NAN], "max", []),
        ([0.5, -INF, INF, 0.6], "min", [(1, 0.5)]),
        ([0.5, -INF, INF, 0.6], "max", [(4, 0.6)]),
        ([INF, 0.5, -INF, NAN], "max", [(2, 0.5)]),
    ],
    ids=str,
)
def test_what_is_no_number_is_never_the_best(
    tmp_path: Path, values: list[float], mode: str, kept: list[tuple[int, float]]
) -> None:
    # Among others, first of all, and all of them; the best is not rotated out by it either.
    options: dict[str, Any] = {"callbacks": telling(values, mode, 1), "until": {"updates": 4}}
    ended = train(tmp_path / "whole", **options)
    assert best(ended.run) == kept
    assert newest_update(ended.run) == 4
    broken(tmp_path / "cut", 3, **options)
    assert best(train(tmp_path / "cut", **options).run) == kept
