import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import noether
from noether import Callback, Log, NonFiniteError, TrainState, every, hooks
from tests.strategies import net, samples, sgd, squared_error

EACH = every(updates=1)


def train(*callbacks: Callback, model: Any = None, **options: Any) -> TrainState:
    given: dict[str, Any] = {"loss": squared_error, "optimizer": sgd, "until": {"updates": 6}}
    given |= {"batch_size": 4, "defaults": False, "callbacks": list(callbacks), **options}
    return noether.train(model or net(), samples(12), **given)


def spoilt(model: torch.nn.Module, name: str, value: float, update: int) -> Any:
    """A loss function that puts a value into a tensor of the model before an update."""
    calls: list[int] = []

    def loss(inner: Any, batch: Any) -> Tensor:
        calls.append(1)
        if len(calls) == update:
            with torch.no_grad():
                model.state_dict()[name].view(-1)[-1] = value
        return squared_error(inner, batch)

    return loss


class Wrong(torch.autograd.Function):
    """Gives its input, and a NaN among the gradients."""

    @staticmethod
    def forward(context: Any, given: Tensor) -> Tensor:
        return given.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        wrong = gradients[0].clone()
        wrong.view(-1)[0] = math.inf
        return wrong


def wrong_gradient(model: Any, batch: Any) -> Tensor:
    """A finite loss; the gradient of one bias has an infinite number."""
    bias: Any = Wrong.apply(model[3].bias)  # type: ignore[no-untyped-call]
    penalty: Tensor = squared_error(model, batch) + bias.sum()
    return penalty


# A parameter that the loss doesn't use keeps what was put there, and spoils nothing else.
class Beside(torch.nn.Module):
    """The network, with a parameter and buffers that it doesn't use."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.spare = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("held", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("none", torch.zeros(0))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.net(inputs)
        return outputs


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "told"), [("spare", "parameter spare"), ("held", "buffer held")])
def test_a_weight_that_is_not_finite_ends_the_run_by_its_name(
    name: str, told: str, value: float
) -> None:
    model = Beside()
    guard = hooks.nonfinite_guard(schedule=EACH)
    final = train(guard, model=model, loss=spoilt(model, name, value, update=3))
    assert (final.now.update, final.reason) == (3, f"{told} is not finite at update 3")


def test_the_largest_numbers_are_finite() -> None:
    model = Beside()
    model.spare.data.fill_(torch.finfo(torch.float32).max)
    model.get_buffer("held").fill_(torch.finfo(torch.float64).max)
    assert train(hooks.nonfinite_guard(schedule=EACH), model=model).now.update == 6


def test_it_looks_when_its_schedule_fires(capsys: pytest.CaptureFixture[str]) -> None:
    model = Beside()
    guard = hooks.nonfinite_guard(schedule=every(updates=4))
    assert train(guard, model=model, loss=spoilt(model, "spare", math.nan, 1)).now.update == 4
    model = Beside()
    final = train(hooks.nonfinite_guard(), model=model, loss=spoilt(model, "spare", math.nan, 1))
    assert (final.now.update, final.reason) == (6, "reached 6 updates")
    assert "parameter spare is not finite at update 6" in capsys.readouterr().out


def test_what_is_not_wanted_is_not_looked_at() -> None:
    model = Beside()
    guard = hooks.nonfinite_guard(weights=False, schedule=EACH)
    assert train(guard, model=model, loss=spoilt(model, "spare", math.nan, 1)).now.update == 6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "the gradient of 3.bias is not finite at update 1"),
        ({"gradients": False}, "parameter 3.bias is not finite at update 1"),
    ],
)
def test_where_the_core_raises_it_tells_what_was_wrong(
    options: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NonFiniteError):
        train(hooks.nonfinite_guard(schedule=EACH, **options), loss=wrong_gradient)
    assert told in capsys.readouterr().out


def test_a_loss_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    def loss(model: Any, batch: Any) -> dict[str, Tensor]:
        error = squared_error(model, batch)
        return {"fine": error, "wrong": error * math.inf}

    with pytest.raises(NonFiniteError):
        train(hooks.nonfinite_guard(schedule=EACH), loss=loss)
    assert "loss total is not finite at update 1" in capsys.readouterr().out


def test_an_update_that_was_skipped_is_no_reason_to_stop() -> None:
    calls: list[int] = []

    def loss(model: Any, batch: Any) -> Tensor:
        calls.append(1)
        return squared_error(model, batch) * (math.nan if len(calls) == 2 else 1)

    guard = hooks.nonfinite_guard(schedule=EACH)
    assert train(guard, loss=loss, on_nonfinite="skip").now.update == 6


def reporter(values: list[float | None]) -> Callback:
    def report(state: TrainState) -> Log | None:
        value = values[state.now.update - 1]
        return None if value is None else Log({"score": value, "other": 1.0})

    return Callback("reporter", after_update=report, reads=(), writes=("score", "other"))


def test_metrics_are_looked_at_where_that_is_wanted_whenever_they_were_reported() -> None:
    values = [1.0, None, math.inf, None, 2.0, 2.0]
    assert train(hooks.nonfinite_guard(schedule=EACH), reporter(values)).now.update == 6
    guard = hooks.nonfinite_guard(metrics=True, schedule=every(updates=2))
    final = train(guard, reporter(values))
    assert (final.now.update, final.reason) == (4, "metric score is not finite at update 4")


def test_its_error_ends_the_run() -> None:
    assert hooks.nonfinite_guard().critical


def test_it_changes_nothing(tmp_path: Path) -> None:
    plain, guarded = net(norm=True), net(norm=True)
    train(model=plain)
    made = hooks.nonfinite_guard(metrics=True, schedule=EACH)
    train(made, reporter([1.0] * 6), model=guarded, strict=True)
    pairs = zip(plain.parameters(), guarded.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_to_look_at_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nonfinite_guard: all options are false"):
        hooks.nonfinite_guard(losses=False, gradients=False, weights=False)
