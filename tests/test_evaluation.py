"""Evaluation-only runs: every pass once, into a journal of their own; nothing else is touched."""

import csv
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import (  # fmt: skip
    Callback,
    ConfigurationError,
    DataPass,
    Log,
    Save,
    Say,
    Stop,
    TrainState,
    Write,
    at,
    chain,
    every,
    hooks,
    never,
    on_improvement,
)
from noether.cli import main
from tests.strategies import net, samples, sgd, squared_error

DATA, VAL = samples(16), samples(9, seed=2)


def trained(run_dir: Path, *callbacks: Any, module: Any = None) -> TrainState:
    module = net() if module is None else module
    return noether.train(
        module,
        DATA,
        loss=squared_error,
        optimizer=sgd,
        until={"epochs": 3},
        batch_size=4,
        callbacks=chain(*callbacks),
        datasets={"val": VAL},
        run_dir=run_dir,
    )


def evaluated(*callbacks: Any, module: Any = None, **options: Any) -> TrainState:
    return noether.evaluate(
        net() if module is None else module,
        loss=squared_error,
        datasets={"val": VAL},
        callbacks=chain(*callbacks),
        **options,
    )


def loss_of(module: torch.nn.Module) -> float:
    with torch.no_grad():
        return float(squared_error(module.eval(), (VAL.inputs, VAL.targets)))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


VALIDATION = every(epochs=1)(hooks.offline_loss(dataset="val"))


@pytest.mark.parametrize("schedule", [every(epochs=9), never, at(updates=10**6)], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_is_made_whatever_its_schedule_says(schedule: Any, workers: int) -> None:
    module = net()
    expected = loss_of(module)
    callback = schedule(hooks.offline_loss(dataset="val"))
    found = evaluated(callback, module=module, workers=workers)
    assert found.metrics == {"loss/val/total": pytest.approx(expected)}
    assert found.fresh == {"loss/val/total"}


def test_a_checkpoint_gives_weights_and_counts(tmp_path: Path) -> None:
    module = net()
    trained(tmp_path, VALIDATION, hooks.checkpoint(), module=module)
    found = evaluated(VALIDATION, run=tmp_path / "1")
    assert (found.event, found.now.update, found.now.epoch) == ("evaluation", 12, 3)
    assert found.metrics["loss/val/total"] == pytest.approx(loss_of(module))


def test_best_names_the_best_checkpoint_and_a_series_its_newest_run(tmp_path: Path) -> None:
    best = hooks.best_checkpoint(metric="loss/val/total")
    for _ in range(2):
        final = trained(tmp_path, VALIDATION, best, hooks.checkpoint())
    rows = map(json.loads, (tmp_path / "2" / "journal.jsonl").read_text().splitlines())
    seen = [row["metrics"]["loss/val/total"] for row in rows if "loss/val/total" in row["metrics"]]
    found = evaluated(VALIDATION, run=tmp_path, checkpoint="best")
    assert found.metrics["loss/val/total"] == pytest.approx(min(seen))
    assert (tmp_path / "2" / "evaluation.jsonl").exists()
    assert not (tmp_path / "1" / "evaluation.jsonl").exists()
    assert final.now.update == 12


def test_the_run_gets_a_row_for_each_evaluation_and_is_else_as_it_was(tmp_path: Path) -> None:
    best = hooks.best_checkpoint(metric="loss/val/total")
    callbacks = (VALIDATION, best, hooks.early_stopping(metric="loss/val/total", patience=1))
    trained(tmp_path, *callbacks, hooks.checkpoint())
    before = contents(tmp_path)
    for _ in range(2):
        evaluated(*callbacks, hooks.checkpoint(), run=tmp_path)
    after = contents(tmp_path)
    rows = [json.loads(line) for line in after.pop("1/evaluation.jsonl").splitlines()]
    assert after == before
    assert [row["tick"] for row in rows] == ["evaluation", "evaluation"]
    assert rows[0] == rows[1]
    assert rows[0]["update"] == json.loads(before["1/status.json"])["update"]
    assert [effect["by"] for effect in rows[0]["effects"]] == ["offline_loss/val"]


def test_at_evaluation_takes_the_place_of_on_schedule_and_gets_the_results() -> None:
    def told(word: str) -> Any:
        return lambda state: Log({word: float(state.results["x"].sum())})

    callback = Callback(
        "watcher",
        on_schedule=told("scheduled"),
        at_evaluation=told("evaluated"),
        data=DataPass("val", lambda model, batch: {"x": batch[0].double()}),
        schedule=never,
    )
    expected = float(VAL.inputs.double().sum())
    assert evaluated(callback).metrics == {"evaluated": pytest.approx(expected)}


def test_at_evaluation_without_a_pass_sees_what_the_passes_before_it_found() -> None:
    def judge(state: TrainState) -> Log:
        return Log({"good": state.metrics["loss/val/total"] < 1e9})

    judging = Callback("judge", at_evaluation=judge, reads=("loss/val/total",), writes=("good",))
    assert evaluated(judging, VALIDATION).metrics["good"] == 1


def test_what_asks_to_save_or_stop_is_not_obeyed_what_is_written_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(state: TrainState) -> Any:
        return [Save("mine"), Stop("enough"), Say("hello"), Write("x", state.results["x"])]

    asking = Callback(
        "asking",
        on_schedule=ask,
        data=DataPass("val", lambda model, batch: {"x": batch[0]}),
        schedule=on_improvement("loss/val/total", mode="min"),
    )
    trained(tmp_path, VALIDATION, hooks.checkpoint())
    kept = {path.name for path in (tmp_path / "1" / "checkpoints").iterdir()}
    evaluated(asking, VALIDATION, run=tmp_path)
    assert {path.name for path in (tmp_path / "1" / "checkpoints").iterdir()} == kept
    assert "hello" in capsys.readouterr().out
    written = torch.load(tmp_path / "1" / "outputs" / "x.pt", weights_only=True)
    assert torch.equal(written, VAL.inputs)


def test_averages_come_from_the_checkpoint(tmp_path: Path) -> None:
    mean = every(epochs=1)(hooks.offline_loss(dataset="val", weights="ema"))
    final = trained(tmp_path, hooks.ema(decay=0.8), mean, hooks.checkpoint())
    found = evaluated(hooks.ema(decay=0.8), mean, run=tmp_path, batch_size=4)
    assert found.metrics == {"ema/loss/val/total": final.metrics["ema/loss/val/total"]}


def test_the_model_is_in_the_mode_it_was_and_keeps_its_numbers() -> None:
    module = net(dropout=0.9)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    evaluated(VALIDATION, module=module)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_failing_pass_names_its_callback() -> None:
    def fail(model: Any, batch: Any) -> Any:
        raise ArithmeticError("no")

    bad = Callback("bad", on_schedule=lambda state: None, data=DataPass("val", fail))
    with pytest.raises(noether.HookError, match="'bad'"):
        evaluated(bad)


@pytest.mark.parametrize(
    ("callbacks", "told"),
    [
        ([hooks.checkpoint()], "nothing to evaluate"),
        ([hooks.offline_loss(dataset="vall")], "Did you mean val?"),
        ([hooks.offline_loss(dataset="val", weights="ema")], "'ema'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(callbacks: Any, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        evaluated(*callbacks)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"workers": -1}, {"precision": "fp8"}, {"parallel": "dp"}],
    ids=lambda options: next(iter(options)),
)
def test_bad_options_are_refused_by_name(options: Any) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        evaluated(VALIDATION, **options)


def test_the_first_signal_ends_it_and_its_workers() -> None:
    before = set(multiprocessing.active_children())

    def interrupted(model: Any, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)  # the signal comes long before

    slow = Callback("slow", on_schedule=lambda state: None, data=DataPass("val", interrupted))
    with pytest.raises(KeyboardInterrupt):
        evaluated(slow, workers=1)
    assert set(multiprocessing.active_children()) <= before


def test_no_file_stays_open(tmp_path: Path) -> None:
    trained(tmp_path, VALIDATION, hooks.checkpoint())
    evaluated(VALIDATION, run=tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        evaluated(VALIDATION, run=tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_run_or_a_tag_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no run directory"):
        evaluated(VALIDATION, run=tmp_path)
    trained(tmp_path, VALIDATION, hooks.checkpoint())
    with pytest.raises(ConfigurationError, match=r"'bset'.*last"):
        evaluated(VALIDATION, run=tmp_path, checkpoint="bset")


# ---------------------------------------------------------------- command line

CONFIG = """
run: {dir: RUNS, until: {epochs: 2}, batch_size: 200}
model: {kind: noether.examples.mlp, hidden: 4}
data:
  train: {kind: noether.examples.digits, split: train}
  val: {kind: noether.examples.digits, split: val}
loss: {kind: noether.examples.cross_entropy}
optimizer: {kind: torch.optim.SGD, lr: 0.1}
callbacks:
  - {kind: ema, decay: [0.5, 0.9]}
  - {kind: offline_loss, dataset: val, every_n_epochs: 1}
  - {kind: offline_loss, dataset: val, weights: ema=0.5, every_n_epochs: 1}
  - {kind: checkpoint, every_n_epochs: 1}
"""


def test_the_command_prints_what_the_run_itself_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    tracked = CONFIG.replace("batch_size", "trackers: [csv], batch_size")
    config.write_text(tracked.replace("RUNS", str(tmp_path / "runs")))
    assert main(["train", str(config)]) == 0
    rows = (tmp_path / "runs" / "1" / "journal.jsonl").read_text().splitlines()
    found = json.loads(rows[-2])["metrics"] | json.loads(rows[-1])["metrics"]
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "runs"), "run.batch_size=100"]) == 0
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines() if ": " in line)
    for name in ("loss/val/total", "ema=0.5/loss/val/total"):
        assert float(lines[name]) == pytest.approx(found[name], rel=1e-4)
    with open(tmp_path / "runs" / "1" / "trackers" / "metrics.evaluations.csv", newline="") as file:
        values = {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    assert values["evaluation/loss/val/total"] == pytest.approx(found["loss/val/total"], rel=1e-4)


def test_weights_that_nobody_keeps_are_told_at_their_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("ema=0.5,", "ema=0.55,"))
    assert main(["check", str(config)]) == 2
    told = capsys.readouterr().err
    assert "config.yaml:12" in told
    assert "Did you mean ema=0.5?" in told


@pytest.mark.parametrize("arguments", [["nowhere"], ["RUNS", "--checkpoint", "bset"]])
def test_the_command_refuses_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("RUNS", str(tmp_path / "runs")))
    main(["train", str(config)])
    given = [str(tmp_path / "runs") if a == "RUNS" else a for a in arguments]
    assert main(["evaluate", *given]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert arguments[-1] in told


def test_a_run_from_python_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path, VALIDATION, hooks.checkpoint())
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "noether.evaluate(" in line
