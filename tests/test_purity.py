"""`strict=True` finds each thing that hooks may not do, and nothing in those that do none."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import noether
from noether import Callback, DataPass, HookError, Log, PurityError, Say, TrainState, every, hooks
from noether.callback import HOOKS
from tests.strategies import net, samples, sgd, squared_error


def train(*callbacks: Any, strict: bool = True, **options: Any) -> TrainState:
    given = {"loss": squared_error, "optimizer": sgd, "until": {"epochs": 2}, "batch_size": 4}
    given |= {"defaults": False, "callbacks": callbacks, "datasets": {"val": samples(6, seed=2)}}
    return noether.train(net(norm=True), samples(12), strict=strict, **{**given, **options})


def weight(state: TrainState) -> Tensor:
    return state.model.parameters["0.weight"]


def writes_parameter(state: TrainState) -> None:
    weight(state).mul_(1.0)


def writes_buffer(state: TrainState) -> None:
    state.model.buffers["1.running_mean"].zero_()


def writes_gradient(state: TrainState) -> None:
    state.model.gradients["0.bias"].clamp_(-1, 1)


def drops_gradient(state: TrainState) -> None:
    state.model.parameters["0.bias"].grad = None


def freezes(state: TrainState) -> None:
    weight(state).requires_grad_(False)


def writes_loss(state: TrainState) -> None:
    state.losses["total"].zero_()


def draws_torch(state: TrainState) -> Say:
    return Say(str(torch.rand(1)))


def draws_python(state: TrainState) -> Say:
    return Say(str(random.random()))


def draws_numpy(state: TrainState) -> Say:
    return Say(str(np.random.rand()))


def generates(state: TrainState) -> Iterator[Say]:
    yield Say("first")
    weight(state).mul_(1.0)


IMPURE = {
    writes_parameter: "changes parameter 0.weight",
    writes_buffer: "changes buffer 1.running_mean",
    writes_gradient: "changes the gradient of 0.bias",
    drops_gradient: "changes the gradient of 0.bias",
    freezes: "changes parameter 0.weight",
    writes_loss: "changes losses.total",
    draws_torch: "draws from the global random numbers of torch",
    draws_python: "draws from the global random numbers of python",
    draws_numpy: "draws from the global random numbers of numpy",
    generates: "changes parameter 0.weight",
}


@pytest.mark.parametrize("function", IMPURE)
def test_an_impure_hook_is_named_with_what_it_does(function: Any) -> None:
    impure = every(updates=2)(function)
    with pytest.raises(HookError, match=IMPURE[function]) as caught:
        train(impure)
    assert isinstance(caught.value.__cause__, PurityError)
    assert f"'{function.__name__}', on_schedule, at update 2 (epoch 0)" in str(caught.value)
    train(impure, strict=False)


WITHIN = ("before_training", "after_accumulation_step", "before_update", "after_update")


@pytest.mark.parametrize("hook", [h for h in HOOKS if h not in ("on_schedule", "at_evaluation")])
def test_every_hook_is_looked_at(hook: str) -> None:
    fields: dict[str, Any] = {hook: writes_parameter}
    broken = [Callback("breaks", after_update=writes_buffer)] if hook == "on_exception" else []
    with pytest.raises(HookError) as caught:
        train(*broken, Callback("impure", **fields))
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert f"'impure', {hook}" in told


def test_an_init_is_looked_at() -> None:
    with pytest.raises(HookError, match="'impure', init"):
        train(
            Callback("impure", init=writes_parameter, after_update=lambda state, memory: (0, None))
        )


def test_a_data_pass_is_looked_at() -> None:
    def process(model: Any, batch: Any) -> dict[str, Tensor]:
        model.parameters["0.bias"].add_(0.0)
        return {"x": batch[0]}

    impure = Callback("passing", on_schedule=lambda state: None, data=DataPass("val", process))
    with pytest.raises(HookError, match=r"'passing', on_schedule.*changes parameter 0\.bias"):
        train(every(epochs=1)(impure))


def test_a_memory_that_is_the_models_own_tensor_is_found() -> None:
    def remember(state: TrainState, last: Tensor) -> tuple[Tensor, None]:
        return weight(state).detach()[0], None

    kept = Callback("keeps", init=lambda state: weight(state).clone(), after_update=remember)
    with pytest.raises(HookError, match=r"its memory is parameter 0\.weight itself; keep a copy"):
        train(kept)


LOSS = "loss/val/total"


def test_a_metric_that_is_read_undeclared_is_named() -> None:
    def read(state: TrainState) -> Say:
        return Say(f"{state.metrics[LOSS]}")

    validation = every(epochs=1)(hooks.offline_loss(dataset="val"))
    undeclared = Callback("reader", on_schedule=read, schedule=every(epochs=1))
    with pytest.raises(HookError, match=f"'reader'.*it reads {LOSS} and does not declare that"):
        train(validation, undeclared)
    train(validation, Callback("reader", on_schedule=read, schedule=every(epochs=1), reads=[LOSS]))


def test_a_metric_that_is_logged_undeclared_is_named() -> None:
    def log(state: TrainState) -> list[Log]:
        return [Log({"a": 1, "b/{I}": 2})]

    with pytest.raises(HookError, match="it logs b/U2 and does not declare that"):
        train(Callback("logger", on_schedule=log, schedule=every(updates=2), writes=["a"]))
    train(Callback("logger", on_schedule=log, schedule=every(updates=2), writes=["a", "b/{I}"]))


def test_an_observers_error_ends_a_strict_run() -> None:
    def fail(state: TrainState) -> None:
        raise ValueError("broken")

    observer = Callback("observer", after_update=fail, on_error="warn")
    with pytest.raises(HookError, match=r"'observer'.*broken"):
        train(observer)
    train(observer, strict=False)


def test_a_strict_run_is_the_same_run_and_its_memories_resume(tmp_path: Path) -> None:
    pipeline = [
        every(epochs=1)(hooks.offline_loss(dataset="val")),
        hooks.best_checkpoint(metric=LOSS),
        hooks.early_stopping(metric=LOSS, patience=3),
        hooks.ema(decay=0.5),
        hooks.checkpoint(schedule=every(updates=1), keep_last=None),
    ]
    plain = train(*pipeline, strict=False, run_dir=tmp_path / "plain", defaults=True)
    strict = train(*pipeline, run_dir=tmp_path / "strict", defaults=True)
    again = train(
        *pipeline,
        run_dir=tmp_path / "again",
        resume=tmp_path / "strict" / "1" / "checkpoints" / "step-4",
        defaults=True,
    )
    for final in (strict, again):
        assert final.metrics[LOSS] == plain.metrics[LOSS]
        assert final.memories["early_stopping/" + LOSS] == plain.memories["early_stopping/" + LOSS]


def test_what_is_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(noether.ConfigurationError, match="strict is 1; expected True or False"):
        train(strict=1)  # type: ignore[arg-type]
