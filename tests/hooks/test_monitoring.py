import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import noether
from noether import Callback, HookError, Progress, Say, TrainState, every, hooks, once_at_start
from noether.journal import read
from tests.strategies import Clock, net, samples, sgd, squared_error


def train(callbacks: Any, *, model: Any = None, n: int = 10, **options: Any) -> TrainState:
    """A run of three updates an epoch: of 4, 4 and 2 samples."""
    given = {"loss": squared_error, "optimizer": sgd, "until": {"updates": 6}, "batch_size": 4}
    return noether.train(
        model or net(), samples(n), callbacks=callbacks, **{**given, "defaults": False, **options}
    )


def reported(run: Path, prefix: str) -> dict[tuple[str, int], dict[str, float]]:
    """Metrics by tick and update, those alone whose names begin with `prefix`."""
    rows = read(run / "1" / "journal.jsonl")
    found = {
        (row["tick"], row["update"]): {
            name: value for name, value in row["metrics"].items() if name.startswith(prefix)
        }
        for row in rows
    }
    return {tick: metrics for tick, metrics in found.items() if metrics}


# ---------------------------------------------------------------- online_loss


def named_loss(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    inputs, targets = batch
    outputs = model(inputs)
    return {"mse": (outputs - targets).pow(2).mean(), "size": outputs.abs().mean()}


def witness(seen: list[tuple[int, Mapping[str, float]]]) -> Callback:
    """Notes each micro-batch's losses by the update that they belong to."""

    def note(state: TrainState) -> None:
        losses = {name: float(loss) for name, loss in state.losses.items()}
        seen.append((state.now.update + 1, losses))

    return Callback("witness", after_accumulation_step=note)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("period", [1, 2, 4])
def test_online_loss_is_the_mean_over_all_samples_since_the_last_firing(
    tmp_path: Path, period: int, accumulate: int
) -> None:
    seen: list[tuple[int, Mapping[str, float]]] = []
    callbacks = [witness(seen), every(updates=period)(hooks.online_loss())]
    train(callbacks, loss=named_loss, accumulate=accumulate, run_dir=tmp_path)

    micro = 4 // accumulate
    weighed, left = [], 0
    for position, (update, losses) in enumerate(seen):
        first = position == 0 or seen[position - 1][0] != update
        left = {3: 2}.get((update - 1) % 3 + 1, 4) if first else left - micro
        weighed.append((update, min(micro, left), losses))
    assert sum(size for _, size, _ in weighed) == 20

    expected = {}
    for fired in range(period, 7, period):
        window = [(n, losses) for u, n, losses in weighed if fired - period < u <= fired]
        count = sum(n for n, _ in window)
        expected["update", fired] = {
            f"loss/online/{name}/U{period}": sum(n * losses[name] for n, losses in window) / count
            for name in ("mse", "size", "total")
        }
    found = reported(tmp_path, "loss/online/")
    assert found.keys() == expected.keys()
    for tick, metrics in expected.items():
        assert found[tick] == pytest.approx(metrics, rel=1e-5)


def test_online_loss_remembers_a_half_filled_window_and_no_more() -> None:
    final = train([every(updates=4)(hooks.online_loss())])
    memory = final.memories["online_loss"]
    assert memory.samples == 4 + 2  # updates 5 and 6
    assert {name: type(value) for name, value in memory.sums.items()} == {"total": float}


def test_online_loss_adds_up_on_a_device_what_it_adds_up_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = [every(updates=2)(hooks.online_loss()), every(epochs=9)(hooks.online_loss()).named("b")]
    here = train(pair)
    monkeypatch.setattr("noether.hooks.monitoring.losses.at_hand", lambda value: False)
    there = train(pair)
    assert there.metrics == pytest.approx(here.metrics)
    (one,), (other,) = (final.memories["b"].sums.values() for final in (here, there))
    assert isinstance(other, torch.Tensor)
    assert other.ndim == 0
    assert other.item() == pytest.approx(one)


def test_a_skipped_update_is_counted_apart_and_left_out_of_the_mean(tmp_path: Path) -> None:
    seen: list[tuple[int, Mapping[str, float]]] = []
    updates = iter(range(1, 7))

    def poisoned(model: Any, batch: Any) -> torch.Tensor:
        loss = squared_error(model, batch)
        return loss * math.nan if next(updates) == 2 else loss

    callbacks = [witness(seen), every(updates=3)(hooks.online_loss())]
    options: dict[str, Any] = {"loss": poisoned, "on_nonfinite": "skip", "until": {"updates": 3}}
    train(callbacks, run_dir=tmp_path, **options)
    losses = {update: values["total"] for update, values in seen}
    metrics = reported(tmp_path, "loss/online/")["update", 3]
    assert metrics["loss/online/total/U3"] == pytest.approx((4 * losses[1] + 2 * losses[3]) / 6)
    assert [value for name, value in metrics.items() if "skip" in name] == [1]


def test_online_loss_says_nothing_when_nothing_was_trained_since_it_last_did(
    tmp_path: Path,
) -> None:
    train([hooks.online_loss()], until={"updates": 2}, run_dir=tmp_path)
    assert set(reported(tmp_path, "loss/online/")) == {("update", 1), ("update", 2)}


def test_online_losses_of_two_intervals_write_two_keys() -> None:
    pair = [
        every(updates=2)(hooks.online_loss()),
        every(epochs=1)(hooks.online_loss()).named("other"),
    ]
    assert train(pair).metrics.keys() == {"loss/online/total/U2", "loss/online/total/E1"}


def test_a_loss_that_calls_itself_total_is_refused() -> None:
    with pytest.raises(TypeError, match="total"):
        train([hooks.online_loss()], loss=lambda model, batch: {"total": model(batch[0]).mean()})


# ---------------------------------------------------------------- learning_rate


def groups(parameters: Any) -> torch.optim.Optimizer:
    weights, *rest = list(parameters)
    return torch.optim.SGD(
        [
            {"params": [weights], "lr": 0.25, "name": "first", "weight_decay": 0.5},
            {"params": rest, "name": "rest", "momentum": 0.75},
        ],
        lr=0.125,
    )


def test_rates_are_logged_by_the_groups_names() -> None:
    final = train([hooks.learning_rate(momentum=True)], optimizer=groups)
    assert final.metrics == {
        "optim/lr/model/first": 0.25,
        "optim/lr/model/rest": 0.125,
        "optim/wd/model/first": 0.5,
        "optim/wd/model/rest": 0.0,
        "optim/momentum/model/first": 0.0,
        "optim/momentum/model/rest": 0.75,
    }


def test_an_unnamed_group_has_no_name_in_the_key_and_options_choose_what_is_logged() -> None:
    assert train([hooks.learning_rate(weight_decay=False)]).metrics == {"optim/lr/model": 0.1}


def test_a_rate_that_a_callback_set_is_logged_from_the_next_update_on(tmp_path: Path) -> None:
    setter = every(updates=2)(lambda state: noether.Set("lr", 0.5 ** int(state.now.update)))
    rates = hooks.learning_rate(weight_decay=False)
    train([setter.named("setter"), rates], until={"updates": 5}, run_dir=tmp_path)
    found = reported(tmp_path, "optim/lr/")
    updates = [found["update", u]["optim/lr/model"] for u in range(1, 6)]
    assert updates == [0.1, 0.1, 0.25, 0.25, 0.0625]


def test_the_default_learning_rate_is_logged_at_update_1_and_on_the_interval(
    tmp_path: Path,
) -> None:
    train([], defaults=True, track=every(updates=3), until={"updates": 7}, run_dir=tmp_path)
    ticks = [update for tick, update in reported(tmp_path, "optim/lr/") if tick == "update"]
    assert ticks == [1, 3, 6]


# ---------------------------------------------------------------- param_count


def nested() -> torch.nn.Module:
    model = torch.nn.ModuleDict(
        {
            "encoder": torch.nn.ModuleDict(
                {"first": torch.nn.Linear(3, 4), "second": torch.nn.Linear(4, 4)}
            ),
            "head": torch.nn.Linear(4, 2),
        }
    )
    for parameter in model["encoder"]["first"].parameters():  # type: ignore[index]
        parameter.requires_grad = False
    return model


def through(model: Any, batch: Any) -> torch.Tensor:
    inputs, targets = batch
    hidden = model["encoder"]["second"](model["encoder"]["first"](inputs))
    return torch.nn.functional.mse_loss(model["head"](hidden), targets)


def sizes(name: str, all_of: int, frozen: int) -> dict[str, int]:
    return {
        f"param_count/{name}": all_of,
        f"param_count/{name}/trainable": all_of - frozen,
        f"param_count/{name}/frozen": frozen,
    }


FIRST, SECOND, HEAD = 3 * 4 + 4, 4 * 4 + 4, 4 * 2 + 2
TOTALS = sizes("total", FIRST + SECOND + HEAD, FIRST)
CHILDREN = sizes("encoder", FIRST + SECOND, FIRST) | sizes("head", HEAD, 0)
GRANDCHILDREN = sizes("encoder.first", FIRST, FIRST) | sizes("encoder.second", SECOND, 0)


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, TOTALS | CHILDREN), (2, TOTALS | CHILDREN | GRANDCHILDREN)]
)
def test_parameters_are_counted_by_child_trainable_and_frozen(
    tmp_path: Path, depth: int, expected: dict[str, int]
) -> None:
    count = hooks.param_count(depth=depth)
    final = train([count], model=nested(), loss=through, until={"updates": 1}, run_dir=tmp_path)
    assert final.metrics == expected
    assert set(reported(tmp_path, "param_count/")) == {("start", 0)}


def test_a_shared_parameter_is_counted_once_and_one_of_the_model_itself_in_the_total() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(5))
            self.one = torch.nn.Linear(3, 3, bias=False)
            self.two = torch.nn.Linear(3, 3, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> Any:
            return (self.two(self.one(x)) * self.scale[0])[:, :2]

    metrics = train([hooks.param_count()], model=Scaled(), until={"updates": 1}).metrics
    assert metrics["param_count/total"] == 5 + 9
    assert metrics["param_count/one"] == 9
    assert not [name for name in metrics if "None" in name]


def test_the_count_is_once_at_start_and_its_depth_is_positive() -> None:
    assert hooks.param_count().schedule == once_at_start
    with pytest.raises(ValueError, match="depth"):
        hooks.param_count(depth=0)


# ---------------------------------------------------------------- progress


def line(state: TrainState, mark: Progress | None) -> tuple[Progress, str]:
    hook: Any = hooks.progress().on_schedule
    memory, effect = hook(state, mark)
    assert isinstance(effect, Say)
    return memory, effect.text


def at_point(now: Progress, total: Progress | None = None) -> TrainState:
    return TrainState("update", now, now, total=total or Progress(None, None, None, None))


counts = st.integers(0, 10_000)


@given(one=counts, more=st.integers(1, 500), ms=st.integers(1, 10_000), left=counts)
def test_the_pace_is_time_over_updates_since_the_last_line(
    one: int, more: int, ms: int, left: int
) -> None:
    mark = Progress(1, one, one * 4, 50.0)
    now = Progress(2, one + more, (one + more) * 4, 50.0 + more * ms / 1000)
    total = Progress(None, now.update + left, None, None)
    memory, text = line(at_point(now, total), mark)
    assert memory == now
    (pace,) = [part for part in text.split("  ") if part.endswith(" ms/update")]
    assert float(pace.split()[0]) == pytest.approx(ms, rel=0.01)
    assert f"update {now.update}" in text
    assert f"sample {now.sample}" in text


@pytest.mark.parametrize(
    "mark",
    [
        None,
        Progress(0, 40, 160, 10.0, session=1),
        Progress(0, 50, 200, 12.0, session=2),
    ],
)
def test_no_pace_is_said_at_first_after_a_resume_or_twice_at_one_update(
    mark: Progress | None,
) -> None:
    now = Progress(0, 50, 200, 12.0, session=2)
    text = line(at_point(now, Progress(None, 100, None, None)), mark)[1]
    assert "ms/update" not in text
    assert "50%" in text


def test_without_a_horizon_neither_a_share_nor_an_end_is_told() -> None:
    text = line(at_point(Progress(0, 50, 200, 12.0)), Progress(0, 40, 160, 10.0))[1]
    assert "%" not in text
    assert "left" not in text
    assert "200 ms/update" in text


def test_progress_speaks_on_its_schedule_and_logs_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = hooks.progress(schedule=every(updates=2) | every(seconds=0.25))
    final = train([said], until={"updates": 4}, clock=Clock())
    lines = [text for text in capsys.readouterr().out.splitlines() if "update" in text]
    assert [text.split()[0] for text in lines] == ["25%", "50%", "75%", "100%"]
    assert final.metrics == {}


def test_observers_only_warn() -> None:
    made = (hooks.progress(), hooks.online_loss(), hooks.learning_rate(), hooks.param_count())
    assert {(c.on_error, c.critical) for c in made} == {("warn", False)}


def test_a_failing_user_hook_still_ends_the_run_beside_observers() -> None:
    def fail(state: TrainState) -> None:
        raise ArithmeticError

    with pytest.raises(HookError, match="'fail'"):
        train([hooks.progress(), every(updates=1)(fail)])


def test_progress_shows_what_is_and_not_what_was_at_best() -> None:
    metrics = {"accuracy/val": 0.5, "loss/val/total": 2.0}
    best = {"accuracy/val/at_best/loss/val/total": 0.75, "loss/val/total/at_best/accuracy/val": 1.0}
    state = replace(at_point(Progress(1, 10, 40)), metrics={**metrics, **best})
    assert line(state, None)[1].endswith("accuracy/val 0.5  loss/val/total 2")


def test_progress_shows_the_longest_online_loss_and_no_other_totals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline = [
        hooks.param_count(),
        every(updates=1)(hooks.online_loss()),
        every(updates=10)(hooks.online_loss()).named("long"),
        hooks.progress(schedule=every(updates=10)),
    ]
    train(pipeline, until={"updates": 10})
    line = next(line for line in capsys.readouterr().out.splitlines() if "100%" in line)
    assert "loss/online/total/U10" in line
    assert "loss/online/total/U1 " not in line
    assert "param_count" not in line
