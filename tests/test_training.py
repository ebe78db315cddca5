import math
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import (
    Callback,
    CheckpointError,
    ConfigurationError,
    DataPass,
    HookError,
    Load,
    Log,
    NonFiniteError,
    Save,
    Say,
    Set,
    Stop,
    TrainState,
    at,
    every,
    hooks,
    once_at_end,
)
from noether.checkpoint import newest
from noether.journal import read
from noether.rundir import read_status
from tests.strategies import Clock, Samples, net, samples, sgd, squared_error


def train(model: Any = None, data: Any = None, **options: Any) -> TrainState:
    """A small run without default callbacks."""
    given = {
        "loss": squared_error,
        "optimizer": sgd,
        "until": {"updates": 5},
        "batch_size": 4,
        "defaults": False,
        **options,
    }
    return noether.train(model or net(), samples(12) if data is None else data, **given)


class Recorder:
    """Notes what a callback sees; one list for all hooks."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.states: list[TrainState] = []

    def note(self, hook: str) -> Callable[[TrainState], None]:
        def noted(state: TrainState) -> None:
            self.seen.append((hook, state.now.update))
            self.states.append(state)

        return noted

    def callback(self, *hooks: str, name: str = "recorder", **more: Any) -> Callback:
        fields: dict[str, Any] = {hook: self.note(hook) for hook in hooks}
        return Callback(name, **fields, **more)


def raising(
    error: BaseException, *hooks: str, at_update: int | None = None, **more: Any
) -> Callback:
    def fail(state: TrainState) -> None:
        if at_update is None or state.now.update == at_update:
            raise error

    fields: dict[str, Any] = {"name": "raising", **dict.fromkeys(hooks, fail), **more}
    return Callback(**fields)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ---------------------------------------------------------------- the loop itself


def by_hand(
    model: torch.nn.Module,
    data: Samples,
    order: list[int],
    *,
    n: int,
    batch: int,
    updates: int,
    bf16: bool = False,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    rates: Any = None,
    interval: str = "update",
) -> None:
    """The loop that a person would write, over the samples in `order`."""
    torch.manual_seed(3)
    optimizer = sgd(model.parameters())
    scheduler = None if rates is None else rates(optimizer)
    model.train()
    position = 0
    for _ in range(updates):
        left = n - position % n
        indices = order[position : position + min(batch, left)]
        position += len(indices)
        inputs = torch.stack([data.inputs[i] for i in indices])
        targets = torch.stack([data.targets[i] for i in indices])
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = squared_error(model, (inputs, targets))
        loss.backward()  # type: ignore[no-untyped-call]
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        if clip_value is not None:
            torch.nn.utils.clip_grad_value_(model.parameters(), clip_value)
        optimizer.step()
        if scheduler is not None and (interval == "update" or position % n == 0):
            scheduler.step()


def stepping(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


@pytest.mark.parametrize(
    ("options", "hand"),
    [
        ({}, {}),
        ({"clip_norm": 0.1}, {"clip_norm": 0.1}),
        ({"clip_value": 0.05}, {"clip_value": 0.05}),
        ({"clip_norm": 0.3, "clip_value": 0.05}, {"clip_norm": 0.3, "clip_value": 0.05}),
        ({"precision": "bf16"}, {"bf16": True}),
        ({"lr_scheduler": stepping}, {"rates": stepping}),
        (
            {"lr_scheduler": stepping, "lr_interval": "epoch"},
            {"rates": stepping, "interval": "epoch"},
        ),
    ],
    ids=lambda value: "-".join(value) or "plain",
)
@pytest.mark.parametrize("norm", [False, True], ids=["tanh", "batchnorm"])
def test_training_equals_a_hand_written_loop_bit_for_bit(
    options: dict[str, Any], hand: dict[str, Any], *, norm: bool
) -> None:
    data, ours, theirs = samples(14), net(norm=norm), net(norm=norm)
    final = train(ours, data, until={"updates": 10}, seed=3, **options)
    assert len(data.served) == final.now.sample == 14 + 14 + 8
    by_hand(theirs, data, data.served, n=14, batch=4, updates=10, **hand)
    assert_same(weights(ours), weights(theirs))
    assert not torch.equal(ours.state_dict()["0.weight"], net().state_dict()["0.weight"])


def test_an_epoch_serves_each_sample_once_and_each_epoch_in_another_order() -> None:
    data = samples(10)
    train(data=data, until={"epochs": 3})
    epochs = [data.served[i : i + 10] for i in (0, 10, 20)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len(set(map(tuple, epochs))) == 3


def test_the_order_depends_on_the_seed_alone() -> None:
    served = []
    for seed, batch, accumulate in ((0, 4, 1), (0, 6, 3), (1, 4, 1)):
        data = samples(10)
        train(data=data, until={"epochs": 2}, seed=seed, batch_size=batch, accumulate=accumulate)
        served.append(data.served)
    assert served[0] == served[1] != served[2]


def test_without_shuffling_samples_come_in_order() -> None:
    data = samples(5)
    train(data=data, until={"epochs": 2}, shuffle=False)
    assert data.served == [*range(5)] * 2


def test_a_dropped_rest_is_not_trained_on() -> None:
    data = samples(11)
    final = train(data=data, until={"epochs": 2}, drop_last=True)
    assert (final.now.update, final.now.sample, len(data.served)) == (4, 16, 16)


@pytest.mark.parametrize("n", [12, 13, 14, 11])
def test_the_gradient_is_the_mean_over_the_samples_however_they_accumulate(n: int) -> None:
    results = []
    for accumulate in (1, 2, 3, 6):
        model = net(dropout=0.0).double()
        data = samples(n)
        data.inputs, data.targets = data.inputs.double(), data.targets.double()
        losses: list[float] = []

        def note(state: TrainState, losses: list[float] = losses) -> None:
            losses.append(float(state.losses["total"]))

        train(
            model,
            data,
            batch_size=6,
            accumulate=accumulate,
            until={"epochs": 2},
            callbacks=[Callback("note", after_update=note)],
        )
        results.append((model.state_dict(), losses))
    for state, losses in results[1:]:
        assert losses == pytest.approx(results[0][1], abs=1e-9)
        for name, value in state.items():
            torch.testing.assert_close(value, results[0][0][name], rtol=0, atol=1e-9)


def test_accumulation_steps_see_train_mode_and_counts_that_have_not_moved() -> None:
    recorder, model, modes = Recorder(), net(), []
    watch = Callback("mode", after_accumulation_step=lambda state: modes.append(model.training))
    train(
        model,
        samples(10),
        batch_size=4,
        accumulate=2,
        until={"epochs": 1},
        callbacks=[recorder.callback("after_accumulation_step", "before_update"), watch],
    )
    step, before = "after_accumulation_step", "before_update"
    assert recorder.seen == [
        *((step, 0), (step, 0), (before, 1), (step, 1), (step, 1), (before, 2)),
        *((step, 2), (before, 3)),
    ]
    assert modes == [True] * 5


def test_the_norm_is_measured_before_clipping_and_gradients_are_clipped_after() -> None:
    norms: list[tuple[float, float]] = []

    def note(state: TrainState) -> None:
        clipped = torch.nn.utils.get_total_norm(state.model.gradients.values())
        model: Any = state.model
        norms.append((float(model.grad_norm), float(clipped)))

    train(clip_norm=0.01, callbacks=[Callback("note", before_update=note)])
    assert len(norms) == 5
    assert all(before > 0.02 and after == pytest.approx(0.01, rel=1e-3) for before, after in norms)


def test_named_losses_add_up_to_the_total_and_outputs_are_passed_on() -> None:
    def two(model: Any, batch: Any) -> Any:
        loss = squared_error(model, batch)
        return {"a": loss, "b": 2 * loss}, {"size": len(batch[0])}

    recorder = Recorder()
    train(loss=two, callbacks=[recorder.callback("after_update")])
    for state in recorder.states:
        assert state.losses["total"] == state.losses["a"] + state.losses["b"]
        assert state.outputs == {"size": 4}


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("until", "epoch", "update", "sample"),
    [
        ({"updates": 6}, 1, 6, 22),
        ({"updates": 1}, 0, 1, 4),
        ({"epochs": 2}, 2, 8, 28),
        ({"samples": 15}, 1, 5, 18),
        ({"samples": 14}, 1, 4, 14),
        ({"samples": 1}, 0, 1, 4),
        ({"epochs": 3, "updates": 5}, 1, 5, 18),
        ({"epochs": 1, "updates": 5, "samples": 100}, 1, 4, 14),
        ({"updates": 0}, 0, 0, 0),
        ({"epochs": 0}, 0, 0, 0),
        ({"samples": 0}, 0, 0, 0),
        ({"seconds": 0}, 0, 0, 0),
        ({"epochs": 2, "samples": 0}, 0, 0, 0),
    ],
)
def test_the_first_limit_ends_the_run(
    until: dict[str, float], epoch: int, update: int, sample: int
) -> None:
    data, recorder = samples(14), Recorder()
    final = train(
        data=data,
        until=until,
        callbacks=[recorder.callback("before_training", "after_update", "after_training")],
    )
    assert (final.now.epoch, final.now.update, final.now.sample) == (epoch, update, sample)
    assert len(data.served) == sample
    assert recorder.seen == [
        ("before_training", 0),
        *(("after_update", k) for k in range(1, update + 1)),
        ("after_training", update),
    ]
    assert (final.event, final.before) == ("end", final.now)
    if "seconds" not in until:
        assert recorder.states[0].total.update == update
        assert recorder.states[0].total.sample == sample


def test_a_limit_of_seconds_counts_the_injected_clock() -> None:
    seconds: list[float] = []
    note = Callback("note", after_update=lambda state: seconds.append(state.now.seconds))
    final = train(until={"seconds": 4}, clock=Clock(), callbacks=[note])
    assert seconds == sorted(seconds)
    assert seconds[-1] == final.now.seconds >= 4
    assert all(second < 4 for second in seconds[:-1])


def test_a_clock_that_jumps_back_takes_no_training_time_away() -> None:
    class Falling:
        now = 1e6

        def __call__(self) -> float:
            self.now -= 1.0
            return self.now

    assert train(clock=Falling()).now.seconds == 0.0


def test_counts_move_by_what_was_trained_on() -> None:
    recorder = Recorder()
    train(data=samples(6), until={"epochs": 2}, callbacks=[recorder.callback("after_update")])
    counts = [(s.now.epoch, s.now.update, s.now.sample) for s in recorder.states]
    assert counts == [(0, 1, 4), (1, 2, 6), (1, 3, 10), (2, 4, 12)]
    befores = [s.before for s in recorder.states]
    assert befores[1:] == [s.now for s in recorder.states[:-1]]
    assert [s.closes_epoch for s in recorder.states] == [False, True, False, True]


@pytest.mark.timeout(4)
@pytest.mark.parametrize(
    ("n", "options"),
    [(0, {}), (3, {"drop_last": True})],
    ids=["empty", "all of it dropped"],
)
def test_a_training_set_that_serves_nothing_is_refused(n: int, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        train(data=samples(n), **options)


# ---------------------------------------------------------------- what is not finite


def poisoned(values: dict[int, float]) -> Any:
    """A loss whose value is replaced at the given calls, counted from 1."""
    calls = [0]

    def loss(model: Any, batch: Any) -> torch.Tensor:
        calls[0] += 1
        return squared_error(model, batch) * values.get(calls[0], 1.0)

    return loss


def blown(gradient: torch.Tensor) -> torch.Tensor:
    gradient = gradient.clone()
    gradient.view(-1)[0] = math.inf
    return gradient


def infinite_gradient(call: int) -> Any:
    calls = [0]

    def loss(model: Any, batch: Any) -> torch.Tensor:
        calls[0] += 1
        inputs, targets = batch
        outputs = model(inputs)
        if calls[0] == call:
            outputs.register_hook(blown)
        return torch.nn.functional.mse_loss(outputs, targets)

    return loss


@pytest.mark.parametrize(
    "loss", [poisoned({3: math.nan}), poisoned({3: math.inf}), infinite_gradient(3)]
)
def test_skipping_leaves_the_weights_and_counts_the_update(loss: Any) -> None:
    states: list[tuple[bool, dict[str, torch.Tensor]]] = []
    model, rates = net(dropout=0.0), []

    def note(state: TrainState) -> None:
        states.append((state.performed, weights(model)))
        rates.append(state.now.update)

    recorder = Recorder()
    final = train(
        model,
        loss=loss,
        on_nonfinite="skip",
        callbacks=[Callback("note", after_update=note), recorder.callback("before_update")],
    )
    assert [performed for performed, _ in states] == [True, True, False, True, True]
    assert_same(states[2][1], states[1][1])
    assert not torch.equal(states[3][1]["0.weight"], states[2][1]["0.weight"])
    assert (final.now.update, final.now.sample, rates) == (5, 20, [1, 2, 3, 4, 5])
    assert recorder.seen == [("before_update", k) for k in (1, 2, 4, 5)]
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_one_poisoned_micro_batch_skips_its_whole_update() -> None:
    recorder = Recorder()
    train(
        loss=poisoned({4: math.nan}),
        accumulate=2,
        on_nonfinite="skip",
        callbacks=[recorder.callback("after_update")],
    )
    assert [s.performed for s in recorder.states] == [True, False, True, True, True]


def test_skips_in_a_row_have_a_limit_and_a_good_update_starts_over() -> None:
    apart = {2: math.nan, 3: math.nan, 5: math.nan, 6: math.nan}
    assert train(loss=poisoned(apart), until={"updates": 8}, on_nonfinite={"skip": 2}).now.update
    row = dict.fromkeys((3, 4, 5), math.nan)
    recorder = Recorder()
    with pytest.raises(NonFiniteError, match="3 updates in a row"):
        train(
            loss=poisoned(row),
            until={"updates": 8},
            on_nonfinite={"skip": 2},
            callbacks=[recorder.callback("after_update", "after_training")],
        )
    assert recorder.seen == [("after_update", k) for k in range(1, 5)] + [("after_training", 4)]


def test_skipped_updates_do_not_move_the_rate() -> None:
    hyper: list[float] = []
    note = Callback("note", after_update=lambda s: hyper.append(s.hyper["default"]["lr"]))
    train(
        loss=poisoned({2: math.nan, 3: math.nan}),
        on_nonfinite="skip",
        lr_scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
        callbacks=[note],
    )
    assert hyper == pytest.approx([0.05, 0.05, 0.05, 0.025, 0.0125])


@pytest.mark.parametrize(
    "loss", [poisoned({3: math.nan}), poisoned({3: math.inf}), infinite_gradient(3)]
)
def test_raising_names_the_update_and_runs_the_closing_hooks_once(loss: Any) -> None:
    recorder = Recorder()
    with pytest.raises(NonFiniteError, match=r"update 3\b"):
        train(
            loss=loss,
            callbacks=[recorder.callback("after_update", "after_training", "on_exception")],
        )
    assert recorder.seen[:2] == [("after_update", 1), ("after_update", 2)]
    assert sorted(hook for hook, _ in recorder.seen[-2:]) == ["after_training", "on_exception"]
    assert [hook for hook, _ in recorder.seen].count("after_update") <= 3


@pytest.mark.parametrize("last", [3, 5], ids=["mid-run", "last update"])
def test_weights_that_are_not_finite_are_never_committed(tmp_path: Path, last: int) -> None:
    with pytest.raises(NonFiniteError):
        train(
            loss=poisoned({last: math.nan}),
            run_dir=tmp_path,
            callbacks=[hooks.checkpoint(schedule=every(updates=1) | once_at_end, keep_last=None)],
        )
    found = newest(tmp_path / "1" / "checkpoints")
    assert found is not None
    assert found.manifest.progress["update"] == last - 1
    assert len(list((tmp_path / "1" / "checkpoints").glob("step-*"))) == last - 1
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("failed", last - 1)
    assert "NonFiniteError" in status["reason"]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp16"}, ["fp16", "not built"]),
        ({"compile": True}, ["compile", "not built"]),
        ({"workers": -1}, ["workers", "-1"]),
        ({"strict": 1}, ["strict", "expected True or False"]),
        ({"until": {}}, ["until"]),
        ({"until": {"epoch": 1}}, ["epoch", "epochs"]),
        ({"until": {"updates": -1}}, ["updates", "-1"]),
        ({"until": {"updates": 1.5}}, ["updates", "1.5"]),
        ({"until": {"seconds": math.nan}}, ["seconds", "nan"]),
        ({"until": {"updates": True}}, ["updates", "True"]),
        ({"batch_size": 0}, ["batch_size"]),
        ({"batch_size": 5, "accumulate": 2}, ["batch_size 5", "accumulate 2"]),
        ({"accumulate": 0}, ["accumulate"]),
        ({"clip_norm": 0.0}, ["clip_norm"]),
        ({"clip_value": -1}, ["clip_value"]),
        ({"lr_interval": "updates"}, ["lr_interval", "update"]),
        ({"on_nonfinite": "explode"}, ["on_nonfinite", "explode"]),
        ({"on_nonfinite": {"skip": "many"}}, ["on_nonfinite", "many"]),
        ({"on_nonfinite": {"skip": -1}}, ["on_nonfinite", "-1"]),
        ({"seed": 1.5}, ["seed"]),
        ({"resume": "auto"}, ["resume", "run_dir"]),
        ({"callbacks": [hooks.checkpoint()]}, ["checkpoint", "run_dir"]),
        ({"callbacks": [every(updates=2)(hooks.checkpoint())]}, ["checkpoint", "run_dir"]),
        (
            {"callbacks": [hooks.best_checkpoint(metric="m", mode="max")]},
            ["best_checkpoint", "run_dir"],
        ),
        ({"callbacks": [hooks.offline_loss(dataset="vla")], "datasets": {"val": [1]}}, ["vla"]),
        ({"defaults": {"progres": False}}, ["progres", "progress"]),
    ],
    ids=str,
)
def test_a_bad_argument_is_refused_before_training(
    options: dict[str, Any], words: list[str]
) -> None:
    data = samples(12)
    with pytest.raises(ConfigurationError) as caught:
        train(data=data, **options)
    assert all(word in str(caught.value) for word in words)
    assert data.served == []


Plateau = torch.optim.lr_scheduler.ReduceLROnPlateau


@pytest.mark.parametrize("made", [Plateau, lambda o: Plateau(o)], ids=["class", "function"])
def test_a_plateau_scheduler_is_refused_in_favour_of_a_callback(made: Any) -> None:
    with pytest.raises(ConfigurationError, match="ReduceLROnPlateau"):
        train(lr_scheduler=made)


def test_a_scheduler_class_makes_a_scheduler_as_an_optimizer_class_makes_an_optimizer() -> None:
    hyper: list[float] = []
    note = Callback("note", after_update=lambda s: hyper.append(s.hyper["default"]["lr"]))
    train(
        optimizer=torch.optim.SGD,
        lr_scheduler=torch.optim.lr_scheduler.ConstantLR,
        callbacks=[note],
    )
    assert hyper[0] == pytest.approx(1e-3 / 3)
    assert hyper[-1] == pytest.approx(1e-3)


def test_all_bad_arguments_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        train(
            until={"updates": -1, "year": 1},
            batch_size=0,
            precision="fp8",
            workers=-1,
            clip_norm=0,
            on_nonfinite="explode",
            run_dir=tmp_path / "series",
        )
    told = [str(problem) for problem in caught.value.problems]
    expected = ("updates", "year", "batch_size", "precision", "workers", "clip_norm")
    for word in (*expected, "on_nonfinite"):
        assert any(word in line for line in told), word
    assert not (tmp_path / "series").exists()


def test_two_callbacks_of_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    twice = [Callback("one", after_update=lambda s: None), Callback("one")]
    with pytest.raises(ConfigurationError, match="one"):
        train(callbacks=twice, run_dir=tmp_path / "series")
    assert not (tmp_path / "series").exists()


# ---------------------------------------------------------------- the order inside a tick


def test_a_tick_folds_counts_then_updates_then_epochs_then_schedules() -> None:
    recorder = Recorder()
    both = recorder.callback(
        "after_update", "after_epoch", "on_schedule", name="a", schedule=at(updates=2)
    )
    other = recorder.callback(
        "after_update", "after_epoch", "on_schedule", name="b", schedule=at(updates=2)
    )
    train(data=samples(8), until={"updates": 2}, callbacks=[both, other])
    assert [hook for hook, update in recorder.seen if update == 2] == [
        *["after_update"] * 2,
        *["after_epoch"] * 2,
        *["on_schedule"] * 2,
    ]


def test_a_reader_runs_after_its_writer_and_ties_keep_their_order() -> None:
    seen: list[float] = []
    reader = Callback(
        "reader",
        on_schedule=lambda s: seen.append(s.metrics["x"]),
        schedule=every(updates=1),
        reads=("x",),
    )
    writer = Callback(
        "writer",
        on_schedule=lambda s: Log({"x": s.now.update * 1.0}),
        schedule=every(updates=2),
        writes=("x",),
    )
    train(callbacks=[reader, writer])
    assert seen == [2.0, 2.0, 4.0, 4.0]


def test_a_checkpoint_is_the_last_thing_of_a_tick(tmp_path: Path) -> None:
    # Declared first, it holds all the same what the others log, remember and set in its tick.
    counter = Callback(
        "counter",
        init=lambda state: 0,
        on_schedule=lambda s, n: (n + 1, [Log({"n": n + 1}), Set("lr", 0.5), Stop("enough")]),
        schedule=at(updates=2),
        writes=("n",),
    )
    train(
        callbacks=[hooks.checkpoint(schedule=at(updates=2)), counter],
        run_dir=tmp_path,
    )
    found = newest(tmp_path / "1" / "checkpoints")
    assert found is not None
    assert found.manifest.progress["update"] == 2
    state = torch.load(found.directory / "state.pt", weights_only=True)
    assert "0.5" in repr(state["optimizer"])
    assert state["metrics"] == {"n": 1.0}
    assert state["memories"]["counter"] == 1


@pytest.mark.parametrize("early", [True, False])
def test_a_stop_on_an_epochs_last_update_does_all_of_the_epoch(
    tmp_path: Path, *, early: bool
) -> None:
    recorder = Recorder()
    stop = Callback("stop", after_update=lambda s: Stop("one epoch") if s.now.update == 3 else None)
    others = [
        recorder.callback("after_epoch", "on_schedule", "after_training", schedule=every(epochs=1)),
        every(epochs=1)(hooks.offline_loss(dataset="val")),
        hooks.checkpoint(),
    ]
    final = train(
        callbacks=[stop, *others] if early else [*others, stop],
        datasets={"val": samples(3)},
        until={"epochs": 4},
        run_dir=tmp_path,
    )
    assert (final.now.epoch, final.now.update, final.reason) == (1, 3, "one epoch")
    assert recorder.seen == [("after_epoch", 3), ("on_schedule", 3), ("after_training", 3)]
    rows = list(read(tmp_path / "1" / "journal.jsonl"))
    (row,) = [row for row in rows if row["tick"] == "update"]
    assert "loss/val/total" in row["metrics"]
    assert {"stop", "save", "log"} <= {effect["kind"] for effect in row["effects"]}
    assert newest(tmp_path / "1" / "checkpoints").manifest.progress["epoch"] == 1  # type: ignore[union-attr]


def test_stops_of_one_tick_add_up_and_a_stop_in_the_opening_tick_trains_nothing() -> None:
    stops = [
        Callback(name, after_update=lambda s, n=name: Stop(f"because of {n}")) for name in "ab"
    ]
    assert train(callbacks=stops).reason == "because of a; because of b"
    data, recorder = samples(12), Recorder()
    final = train(
        data=data,
        callbacks=[
            Callback("now", before_training=lambda s: Stop("no need")),
            recorder.callback("after_training"),
        ],
    )
    assert (data.served, final.reason, recorder.seen) == ([], "no need", [("after_training", 0)])


def test_the_closing_tick_does_not_repeat_what_fired_at_the_same_counts() -> None:
    for updates, expected in ((5, [5]), (6, [5, 6]), (4, [4])):
        recorder = Recorder()
        schedule = every(updates=5) | once_at_end
        train(
            until={"updates": updates},
            callbacks=[recorder.callback("on_schedule", schedule=schedule)],
        )
        assert [update for _, update in recorder.seen] == expected


def test_set_reaches_the_very_next_update() -> None:
    rates: list[float] = []
    callbacks = [
        Callback("set", on_schedule=lambda s: Set("lr", 0.25), schedule=at(updates=2)),
        Callback("note", before_update=lambda s: rates.append(s.hyper["default"]["lr"])),
    ]
    train(callbacks=callbacks)
    assert rates == [0.1, 0.1, 0.25, 0.25, 0.25]


def test_metrics_of_opening_and_closing_tick_have_rows_of_their_own(tmp_path: Path) -> None:
    callbacks = [
        Callback("open", before_training=lambda s: Log({"opening": 1})),
        Callback("each", after_update=lambda s: Log({"each": s.now.update})),
        Callback("close", after_training=lambda s: Log({"closing": 2})),
    ]
    final = train(callbacks=callbacks, until={"updates": 2}, run_dir=tmp_path)
    rows = [(r["tick"], r["update"], r["metrics"]) for r in read(tmp_path / "1/journal.jsonl")]
    assert rows == [
        ("start", 0, {"opening": 1}),
        ("update", 1, {"each": 1}),
        ("update", 2, {"each": 2}),
        ("end", 2, {"closing": 2}),
    ]
    assert final.metrics == {"opening": 1, "each": 2, "closing": 2}


def test_an_evaluation_changes_nothing_of_the_training() -> None:
    plain, evaluated = net(norm=True), net(norm=True)
    train(plain, until={"updates": 9})
    train(
        evaluated,
        until={"updates": 9},
        datasets={"val": samples(5)},
        callbacks=[every(updates=2)(hooks.offline_loss(dataset="val"))],
    )
    assert_same(weights(plain), weights(evaluated))


@pytest.mark.parametrize("updates", [1, 12, 199])
def test_the_default_callbacks_run_in_short_runs(tmp_path: Path, updates: int) -> None:
    final = train(until={"updates": updates}, defaults=True, run_dir=tmp_path)
    assert any(name.startswith("loss/online/total/") for name in final.metrics)
    assert final.metrics["param_count/total"] == sum(p.numel() for p in net().parameters())
    assert newest(tmp_path / "1/checkpoints").manifest.progress["update"] == updates  # type: ignore[union-attr]


def test_the_defaults_can_log_by_samples_and_be_switched_off(tmp_path: Path) -> None:
    final = train(defaults=True, log=every(samples=10), track=every(samples=10))
    assert "loss/online/total/S10" in final.metrics
    off = ("online_loss", "learning_rate", "online_loss/track", "train_time", "peak_memory", "eta")
    final = train(defaults=dict.fromkeys(off, False))
    prefixes = {name.partition("/")[0] for name in final.metrics}
    assert prefixes == {"param_count", "ds_stats"}


# ---------------------------------------------------------------- hooks that raise

CLOSING = ("after_training", "on_exception")


@pytest.mark.parametrize("hook", ["after_update", "after_epoch", "on_schedule"])
@pytest.mark.parametrize("critical", [True, False])
def test_a_hook_that_raises_ends_the_run_after_its_tick(
    tmp_path: Path, hook: str, *, critical: bool
) -> None:
    recorder, cause = Recorder(), ValueError("broken")
    later = recorder.callback(hook, *CLOSING)
    bad = raising(cause, hook, at_update=3, critical=critical)
    with pytest.raises(
        HookError, match=rf"'raising'.*{hook}.*update 3.*ValueError: broken"
    ) as caught:
        train(callbacks=[bad, later], run_dir=tmp_path)
    assert caught.value.__cause__ is cause
    assert (hook, 3) in recorder.seen
    assert [hook for hook, _ in recorder.seen if hook in CLOSING].count("after_training") == 1
    assert [hook for hook, _ in recorder.seen if hook in CLOSING].count("on_exception") == 1
    (told,) = [
        s for s, (h, _) in zip(recorder.states, recorder.seen, strict=True) if h == CLOSING[1]
    ]
    assert "broken" in (told.exception or "")
    found = newest(tmp_path / "1" / "checkpoints")
    assert found is not None, "no emergency checkpoint"
    assert found.manifest.progress["update"] == 3
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("failed", 3)


@pytest.mark.parametrize("hook", ["after_accumulation_step", "before_update"])
def test_no_emergency_checkpoint_is_kept_once_a_micro_batch_has_run(
    tmp_path: Path, hook: str
) -> None:
    with pytest.raises(HookError, match=hook):
        train(
            callbacks=[
                raising(ValueError("broken"), hook, at_update=4),
                hooks.checkpoint(schedule=at(updates=2)),
            ],
            run_dir=tmp_path,
        )
    (only,) = (tmp_path / "1" / "checkpoints").glob("step-*")
    assert only.name == "step-2"
    assert read_status(tmp_path / "1")["update"] == 2


def test_an_observer_that_warns_lets_the_run_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder, model, plain = Recorder(), net(), net()
    fields = ("before_training", "after_accumulation_step", "before_update", "after_update")
    rest = ("after_epoch", "on_schedule", "after_training")
    bad = raising(ValueError("shaky"), *fields, *rest, on_error="warn")
    final = train(
        model, callbacks=[bad, recorder.callback("after_update", *CLOSING)], run_dir=tmp_path
    )
    train(plain)
    assert_same(weights(model), weights(plain))
    assert recorder.seen == [*(("after_update", k) for k in range(1, 6)), ("after_training", 5)]
    assert final.now.update == 5
    output = capsys.readouterr()
    assert "Traceback" in output.err
    assert "test_training.py" in output.err
    assert "'raising' failed" in output.out
    status = read_status(tmp_path / "1")
    assert status["state"] == "done"
    assert status["failed"]["raising"] >= 20


def test_an_error_of_one_observer_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(state: TrainState) -> None:
        raise ValueError(f"at {state.now.update}")  # another text each time

    train(callbacks=[Callback("bad", after_update=fail, on_error="warn")])
    assert capsys.readouterr().err.count("ValueError: at ") == 1


def test_a_critical_callback_ends_the_run_even_if_it_only_warns() -> None:
    with pytest.raises(HookError):
        train(callbacks=[raising(ValueError(), "after_update", on_error="warn", critical=True)])


def test_the_first_error_stays_the_cause_and_the_others_are_noted() -> None:
    first, second, third = ValueError("first"), KeyError("second"), OSError("third")
    callbacks = [
        raising(first, "after_update", name="a"),
        raising(second, "after_update", name="b"),
        raising(third, *CLOSING, name="c"),
    ]
    recorder = Recorder()
    with pytest.raises(HookError, match="first") as caught:
        train(callbacks=[*callbacks, recorder.callback(*CLOSING)])
    assert caught.value.__cause__ is first
    notes = "\n".join(caught.value.__notes__)
    assert "second" in notes
    assert "third" in notes
    assert sorted(hook for hook, _ in recorder.seen) == sorted(CLOSING)


@pytest.mark.parametrize("critical", [True, False])
def test_an_error_in_after_training_runs_every_closing_hook_once(
    tmp_path: Path, *, critical: bool
) -> None:
    recorder = Recorder()
    bad = raising(ValueError("at the end"), "after_training", critical=critical)
    with pytest.raises(HookError, match="at the end"):
        train(
            callbacks=[recorder.callback(*CLOSING, name="x"), bad, recorder.callback(*CLOSING)],
            run_dir=tmp_path,
        )
    assert sorted(hook for hook, _ in recorder.seen) == sorted([*CLOSING, *CLOSING])
    assert read_status(tmp_path / "1")["state"] == "failed"


def test_a_closing_tick_that_cannot_be_performed_runs_every_closing_hook_once(
    tmp_path: Path,
) -> None:
    recorder = Recorder()
    load = Callback("load", after_training=lambda s: Load("no such tag"))
    with pytest.raises((CheckpointError, HookError)):
        train(callbacks=[load, recorder.callback(*CLOSING)], run_dir=tmp_path)
    assert sorted(hook for hook, _ in recorder.seen) == sorted(CLOSING)


def test_a_run_that_failed_in_its_closing_tick_has_one_closing_row_when_resumed(
    tmp_path: Path,
) -> None:
    def once(fail: bool) -> list[Callback]:  # noqa: FBT001
        def closing(state: TrainState) -> Log:
            if fail:
                raise ValueError("at the end")
            return Log({"closing": 1})

        return [Callback("closing", after_training=closing), hooks.checkpoint()]

    with pytest.raises(HookError):
        train(callbacks=once(True), run_dir=tmp_path)
    train(callbacks=once(False), run_dir=tmp_path, resume="auto")
    rows = list(read(tmp_path / "1" / "journal.jsonl"))
    assert [row["metrics"] for row in rows if row["tick"] == "end"] == [{"closing": 1}]
    assert [row["update"] for row in rows if row["tick"] == "update"] == [3]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(9), MemoryError("full")])
def test_what_ends_the_process_is_not_swallowed_and_the_closing_hooks_run(
    tmp_path: Path, error: BaseException
) -> None:
    recorder = Recorder()
    bad = raising(error, "after_update", at_update=2, on_error="warn", critical=True)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        train(callbacks=[bad, recorder.callback("after_training")], run_dir=tmp_path)
    assert error in (caught.value, caught.value.__cause__)
    assert recorder.seen == [("after_training", 2)]
    assert read_status(tmp_path / "1")["state"] != "running"


def test_an_error_of_the_loss_runs_the_closing_hooks_and_is_itself(tmp_path: Path) -> None:
    def loss(model: Any, batch: Any) -> Any:
        raise ZeroDivisionError("in the loss")

    recorder = Recorder()
    with pytest.raises(ZeroDivisionError, match="in the loss"):
        train(loss=loss, callbacks=[recorder.callback(*CLOSING)], run_dir=tmp_path)
    assert sorted(hook for hook, _ in recorder.seen) == sorted(CLOSING)
    assert "ZeroDivisionError" in read_status(tmp_path / "1")["reason"]


def test_a_failing_init_is_named() -> None:
    bad = Callback("bad", init=lambda s: 1 / 0, after_update=lambda s, m: (m, None))
    with pytest.raises(HookError, match=r"'bad'.*init.*ZeroDivisionError"):
        train(callbacks=[bad])


def test_a_memory_that_cannot_be_stored_is_refused_before_training() -> None:
    data = samples(12)
    bad = Callback("bad", init=lambda s: {"f": print}, after_update=lambda s, m: (m, None))
    with pytest.raises(ConfigurationError, match="bad"):
        train(data=data, callbacks=[bad])
    assert data.served == []


def test_a_save_without_a_run_directory_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="'mine'"):
        train(callbacks=[Callback("mine", after_update=lambda s: Save("x"))])


# ---------------------------------------------------------------- surroundings


def test_a_thread_can_train_and_handlers_are_left_alone(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    results: list[TrainState] = []
    thread = threading.Thread(target=lambda: results.append(train(run_dir=tmp_path)))
    thread.start()
    thread.join(60)
    assert [final.now.update for final in results] == [5]
    assert read_status(tmp_path / "1")["state"] == "done"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_nothing_is_written_without_a_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(defaults=True)
    assert os.listdir(tmp_path) == []


def test_a_run_directory_that_vanishes_does_not_hide_the_error(tmp_path: Path) -> None:
    def vanish(state: TrainState) -> None:
        if state.now.update == 2:
            shutil.rmtree(tmp_path / "runs")
            raise ValueError("the cause")

    with pytest.raises(HookError, match="the cause"):
        train(callbacks=[Callback("vanish", after_update=vanish)], run_dir=tmp_path / "runs")


def test_a_tick_that_fires_nothing_has_no_row(tmp_path: Path) -> None:
    train(
        callbacks=[every(updates=2)(Callback("say", on_schedule=lambda s: Say("x")))],
        run_dir=tmp_path,
    )
    rows = list(read(tmp_path / "1" / "journal.jsonl"))
    assert [(r["tick"], r["update"]) for r in rows] == [
        *(("start", 0), ("update", 2), ("update", 4), ("end", 5))
    ]
    assert all(
        set(row)
        == {"tick", "epoch", "update", "sample", "seconds", "session", "metrics", "effects"}
        for row in rows
    )


def test_a_data_pass_sees_the_set_in_order_without_gradients() -> None:
    modes: list[tuple[bool, bool]] = []
    model, got = net(), []

    def process(view: Any, batch: Any) -> dict[str, torch.Tensor]:
        modes.append((model.training, torch.is_grad_enabled()))
        return {"x": batch[0]}

    val = samples(5)
    look = Callback(
        "look",
        on_schedule=lambda s: got.append(s.results["x"].clone()),
        schedule=at(updates=2),
        data=DataPass("val", process, batch_size=2),
    )
    train(model, datasets={"val": val}, callbacks=[look])
    assert modes == [(False, False)] * 3
    assert torch.equal(got[0], val.inputs)
    assert model.training


def test_the_closing_state_is_told_apart_from_a_limit() -> None:
    assert "5 updates" in str(train().reason)
    assert replace(train(), reason=None).exception is None


def test_rates_are_seen_at_the_opening_and_the_closing_tick() -> None:
    recorder = Recorder()
    train(callbacks=[recorder.callback("before_training", "after_training", "after_update")])
    rates = [state.hyper["default"]["lr"] for state in recorder.states]
    assert rates == [0.1] * 7
