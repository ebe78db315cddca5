import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from noether import ConfigurationError, Run, after, every, hooks, load, on_improvement
from noether.config.document import dump, read
from tests import sample_project as sample

ALLOW = ["tests.sample_project"]
BASE = """\
run: {until: {epochs: 2}, batch_size: 4, defaults: false}
model: {kind: tests.sample_project.linear}
data:
  train: {kind: tests.sample_project.points}
  val: {kind: tests.sample_project.points, count: 4}
loss: {kind: tests.sample_project.squared}
optimizer: {kind: torch.optim.SGD, lr: 0.01}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a text as a file named c.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)

    def loaded(text: str, *overrides: str) -> Run:
        Path("c.yaml").write_text(text, encoding="utf-8")
        return load("c.yaml", overrides, ALLOW)

    return loaded


def mistakes(config: Any, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        config(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


# ---------------------------------------------------------------- what is right


def test_the_pipeline_of_a_file_equals_the_one_of_python(config: Any) -> None:
    run = config(
        BASE
        + """\
callbacks:
  - {kind: noether.hooks.offline_loss, name: validation, dataset: val, every_n_epochs: 1}
  - {kind: online_loss, every_n_updates: 10}
  - {kind: online_loss, every_n_samples: 640, name: slow}
  - kind: best_checkpoint
    metric: loss/val/total
    schedule: on_improvement("loss/val/total", mode="min") & after(epochs=2)
  - {kind: checkpoint, every_n_epochs: 3}
  - {kind: tests.sample_project.scheduled_reader, name: mine, metric: loss/val/total}
""",
        "run.dir=runs/x",
    )
    assert run.callbacks == (
        every(epochs=1)(hooks.offline_loss(dataset="val")).named("validation"),
        every(updates=10)(hooks.online_loss()),
        every(samples=640)(hooks.online_loss()).named("slow"),
        hooks.best_checkpoint(
            metric="loss/val/total",
            schedule=on_improvement("loss/val/total", mode="min") & after(epochs=2),
        ),
        hooks.checkpoint(schedule=every(epochs=3)),
        sample.scheduled_reader(metric="loss/val/total", name="mine"),
    )


def test_nothing_is_built_before_it_is_asked_for(config: Any) -> None:
    sample.MADE.clear()
    run = config(BASE)
    assert sample.MADE == []
    built = run.build()
    assert sorted(sample.MADE) == ["4 points", "8 points", "model"]
    assert list(built["datasets"]) == ["val"]
    assert len(built["train_set"]) == 8
    optimizer = built["optimizer"](built["model"].parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["lr"] == 0.01


def test_the_seed_decides_the_model(config: Any) -> None:
    one, same, other = (
        torch.cat(
            [p.flatten() for p in config(BASE, f"run.seed={seed}").build()["model"].parameters()]
        )
        for seed in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_loaded_run_trains_and_records_its_configuration(config: Any) -> None:
    text = BASE + "callbacks:\n- {kind: offline_loss, dataset: val, every_n_epochs: 1}\n"
    run = config(text, "run.dir=runs")
    final = run.train()
    assert final.now.update == 4
    assert final.metrics["loss/val/total"] > 0
    recorded = read(Path("runs/1/config.yaml").read_text(), "it").value
    assert recorded == run.config == read(dump(run.config), "it").value
    assert recorded["run"]["dir"] == "runs"


def test_named_losses_add_up(config: Any) -> None:
    text = BASE.replace(
        "loss: {kind: tests.sample_project.squared}",
        "loss: {a: {kind: tests.sample_project.squared}, b: {kind: tests.sample_project.squared}}",
    )
    text += "callbacks:\n- {kind: offline_loss, dataset: val, every_n_epochs: 1}\n"
    metrics = config(text).train().metrics
    assert metrics["loss/val/total"] == pytest.approx(2 * metrics["loss/val/a"])
    assert metrics["loss/val/a"] == metrics["loss/val/b"]


def test_recipes_nest(config: Any) -> None:
    text = BASE.replace("linear}", "linear, activation: {kind: tests.sample_project.doubled}}")
    recipe = config(text).parts["model"]
    assert recipe.options["activation"]() is sample.double
    callback = "callbacks:\n- {kind: tests.sample_project.everything, every_n_epochs: 1}"
    assert mistakes(config, BASE + callback) == [
        "c.yaml:9: callbacks.0: expected a factory of callbacks, found one of dict"
    ]


def test_lr_schedulers_nest_and_share_the_optimizer(config: Any) -> None:
    run = config(
        BASE
        + """\
lr_scheduler:
  kind: torch.optim.lr_scheduler.SequentialLR
  schedulers:
    - {kind: torch.optim.lr_scheduler.LinearLR, total_iters: 2}
    - {kind: torch.optim.lr_scheduler.ConstantLR, factor: 1.0}
  milestones: [2]
"""
    )
    built = run.build()
    optimizer = built["optimizer"](built["model"].parameters())
    scheduler = built["lr_scheduler"](optimizer)
    assert scheduler.optimizer is optimizer
    assert all(inner.optimizer is optimizer for inner in scheduler._schedulers)


def test_the_first_parameter_of_an_optimizer_factory_is_supplied(config: Any) -> None:
    text = BASE.replace("torch.optim.SGD, lr: 0.01", "tests.sample_project.descent, rate: 0.5")
    built = config(text).build()
    assert built["optimizer"](built["model"].parameters()).defaults["lr"] == 0.5


# ---------------------------------------------------------------- what is wrong

MANY = """\
run: {dir: r, until: {epochs: 2}, seed: "0", batch_size: 0,
      precison: bf16, log: evry(updates=3)}
model: {kind: tests.sample_project.lienar}
data:
  train: {kind: tests.sample_project.points, count: 1.5}
  val: [1]
loss: {kind: os.system}
optimizer: {kind: torch.optim.SGD, lr: x,
            momentun: 0.9}
lr_scheduler: {kind: torch.optim.lr_scheduler.ReduceLROnPlateau}
calbacks: []
callbacks:
  - {kind: offline_loss, dataset: vall, every_n_epochs: 1}
  - {kind: offline_loss, dataset: val, every_n_epochs: 0, name: a}
  - kind: offline_loss
    dataset: val
    name: a
    every_n_epochs: 1
    schedule: every(epochs=1)
  - {kind: online_loss, every_n_epoch: 1}
  - {kind: online_loss, every_n_updates: "1", name: 3}
  - {kind: online_loss, name: when}
  - {kind: early_stopping, metric: loss/val/total, patience: 0}
  - {kind: tests.sample_project.refusing, size: 3, schedule: always}
  - {metric: x}
  - checkpoint
  - {kind: best_checkpoint, metric: loss/val/total,
     schedule: every(epoch=1)}
  - {kind: offline_loss, every_n_epochs: -1}
"""


def test_every_mistake_of_a_file_comes_at_once_with_its_line(config: Any) -> None:
    found = mistakes(config, MANY)
    expected = [
        "1: run.batch_size: batch_size is 0; expected a positive integer",
        "1: run.seed: expected an integer, found '0'",
        "2: run.log: Schedule text, column 1: 'evry' is no schedule.",
        "2: run.precison: unknown option; Did you mean precision?",
        "3: model.kind: the factory 'tests.sample_project.lienar' does not exist; Did you mean",
        "5: data.train.count: expected an integer, found 1.5",
        "6: data.val: expected a mapping with a `kind`, found a list",
        "7: loss.kind: 'os.system' is refused: the module os is not allowed",
        "8: optimizer.lr: expected a number",
        "9: optimizer.momentun: unknown option; Did you mean momentum?",
        "10: lr_scheduler.kind: torch.optim.lr_scheduler.ReduceLROnPlateau reads metrics",
        "11: calbacks: unknown section; Did you mean callbacks?",
        "13: callbacks.0.dataset: no evaluation set is named 'vall'; Did you mean val?",
        "14: callbacks.1.every_n_epochs: every(epochs=0): 0 is too small. Give at least 1.",
        "15: callbacks.2: two callbacks are named 'a'",
        "19: callbacks.2.schedule: every_n_epochs says when already; give one of",
        "20: callbacks.3.every_n_epoch: unknown option; Did you mean every_n_epochs?",
        "21: callbacks.4.every_n_updates: expected an integer, found '1'",
        "21: callbacks.4.name: expected text, found 3",
        "22: callbacks.5: nothing says when it runs; give one of schedule, every_n_epochs",
        "23: callbacks.6: early_stopping: patience 0, min_delta 0.0, threshold_mode 'abs'",
        "24: callbacks.7: size 3 is odd",
        "25: callbacks.8: kind is missing",
        "26: callbacks.9: expected a mapping with a `kind`, found 'checkpoint'",
        "28: callbacks.10.schedule: Schedule text, column 1: every(epoch=...)",
        "29: callbacks.11.dataset: missing; expected text",
        "29: callbacks.11.every_n_epochs: every(epochs=-1): -1 is too small",
    ]
    wanted = [f"c.yaml:{line}" for line in expected]
    cut = [text[: len(start)] for text, start in zip(found, wanted, strict=False)]
    assert (cut, len(found)) == (wanted, len(wanted))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "c.yaml:1: expected a mapping of run, model, data, loss, optimizer, lr_scheduler"),
        ("- 1", "c.yaml:1: expected a mapping of run, model"),
        (BASE.replace("run: {until: {epochs: 2}, ", "run: {"), "c.yaml:1: run.until: missing;"),
        (BASE.replace("epochs: 2", "epochs: x"), "c.yaml:1: run.until.epochs: expected a number"),
        (BASE.replace("epochs: 2", "epoch: 2"), "c.yaml:1: run.until: no unit is named 'epoch'"),
        (BASE.replace("batch_size", "run_dir: a, batch_size"), "c.yaml:1: run.run_dir: unknown"),
        (BASE.replace("batch_size", "config: {}, batch_size"), "c.yaml:1: run.config: unknown"),
        (BASE.replace("false}", "{progres: false}}"), "c.yaml:1: run.defaults: no default"),
        (BASE.replace("train:", "test:"), "c.yaml:3: data.train: missing; expected a mapping"),
        (BASE + "callbacks: {}", "c.yaml:8: callbacks: expected a list of mappings"),
        (BASE + "callbacks:\n- {kind: checkpoint}", "c.yaml:1: run"),
        (BASE + "run: {}", "c.yaml:8:1: the key 'run' stands on line 1 already"),
    ],
)
def test_one_mistake_gives_one_problem(config: Any, text: str, said: str) -> None:
    [problem] = mistakes(config, text)
    assert problem.startswith(said)


READER = "callbacks:\n- {kind: tests.sample_project.scheduled_reader, metric: gap}\n"
WRITER = "- {kind: tests.sample_project.writer, metric: %s, every_n_epochs: 1}\n"


def test_a_metric_that_nobody_writes_is_named_with_the_nearest(config: Any) -> None:
    assert config(BASE + READER + WRITER % "gap")
    assert mistakes(config, BASE + READER + WRITER % "gaps") == [
        "c.yaml:9: callbacks.0: 'reader' reads gap, which nothing writes; written here: gaps. "
        "Did you mean gaps?"
    ]


def test_who_might_be_the_writer_is_not_known_while_an_entry_is_broken(config: Any) -> None:
    broken = "- {kind: tests.sample_project.writer, metrc: gap, every_n_epochs: 1}\n"
    assert mistakes(config, BASE + READER + broken) == [
        "c.yaml:10: callbacks.1.metrc: unknown option; Did you mean metric?"
    ]


def test_a_second_key_is_told_beside_all_other_mistakes(config: Any) -> None:
    text = BASE + "optimizer: {kind: torch.optim.SGD}\n" + "calbacks: []\n"
    found = mistakes(config, text)
    assert len(found) == 2
    assert "the key 'optimizer' stands on" in found[0]
    assert "calbacks" in found[1]


def test_other_flow_mistakes_are_told_beside_broken_entries(config: Any) -> None:
    broken = "- {kind: no_such, every_n_epochs: 1}\n"
    found = mistakes(config, BASE + READER + READER[11:] + broken)
    lines = [text.partition(": ")[0] for text in found]
    assert lines == ["c.yaml:9", "c.yaml:10", "c.yaml:10", "c.yaml:11"]
    assert ["which nothing writes" in text for text in found] == [True, True, False, False]
    assert "two callbacks are named 'reader'" in found[2]


def test_a_pass_over_a_set_by_any_option_name_is_located(config: Any) -> None:
    entry = "callbacks:\n- kind: tests.sample_project.evaluation\n  every_n_epochs: 1\n  on: vl\n"
    assert mistakes(config, BASE + entry) == [
        "c.yaml:11: callbacks.0.on: no evaluation set is named 'vl'; Did you mean val?"
    ]
    assert "Did you mean" not in mistakes(config, BASE + entry.replace("vl", "train"))[0]


def test_default_callbacks_take_part_in_the_flow(config: Any) -> None:
    reader = (
        "callbacks:\n- {kind: tests.sample_project.scheduled_reader, metric: param_count/total}"
    )
    assert config(BASE.replace("defaults: false", "defaults: true") + reader)
    assert "which nothing writes" in mistakes(config, BASE + reader)[0]


def test_what_a_factory_refuses_when_built_has_its_line(config: Any) -> None:
    run = config(BASE.replace("count: 4", "count: -4"))
    with pytest.raises(ConfigurationError, match=r"^c\.yaml:5: points: count is -4$"):
        run.build()


# ---------------------------------------------------------------- overrides

ENTRIES = "callbacks:\n- {kind: offline_loss, name: validation, dataset: val, every_n_epochs: 1}\n"


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("run.until.epochs=3", ("run", "until", "epochs"), 3),
        ("run.until={updates: 5}", ("run", "until"), {"updates": 5}),
        ("run.precision=bf16", ("run", "precision"), "bf16"),
        ("optimizer.lr=1e-3", ("optimizer", "lr"), 0.001),
        ("run.dir=", ("run", "dir"), None),
        ("run.dir='a=b'", ("run", "dir"), "a=b"),
        ("callbacks.0.every_n_epochs=2", ("callbacks", 0, "every_n_epochs"), 2),
        ("callbacks.validation.every_n_epochs=2", ("callbacks", 0, "every_n_epochs"), 2),
        ("callbacks=[]", ("callbacks",), []),
    ],
)
def test_overrides_replace_parts(
    config: Any, override: str, path: tuple[Any, ...], expected: object
) -> None:
    part = config(BASE + ENTRIES, override).config
    for step in path:
        part = part[step]
    assert part == expected


def test_an_entry_without_name_is_found_by_the_end_of_its_kind(config: Any) -> None:
    run = config(BASE + ENTRIES.replace("name: validation, ", ""), "callbacks.offline_loss.name=v")
    assert [callback.name for callback in run.callbacks] == ["v"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.untill.epochs=3", "run has no 'untill'; Did you mean until?"),
        ("a.b=1", "the file has no 'a'; "),
        ("run.until.epochs.x=1", "run.until.epochs is 2, so it has no 'x'"),
        ("callbacks.validaton.name=x", "callbacks has no 'validaton'; Did you mean validation?"),
        ("callbacks.1.name=x", "callbacks has no '1'"),
        ("run", "expected key=value, `run.seed=1` say"),
        ("=1", "expected key=value, `run.seed=1` say"),
        ("run.seed=x", "run.seed: expected an integer, found 'x'"),
        ("run.sead=1", "run.sead: unknown option; Did you mean seed?"),
        ("model={kind: tests.sample_project.linear,\n inptus: 1}", "model.inptus: unknown option"),
    ],
)
def test_mistakes_in_overrides_are_located_there(config: Any, override: str, said: str) -> None:
    [problem] = mistakes(config, BASE + ENTRIES, override)
    assert problem.startswith(f"override {override!r}: {said}")


def test_all_overrides_that_lead_nowhere_are_told(config: Any) -> None:
    found = mistakes(config, BASE, "a.b=1", "run.seed=1", "run.seed=[1", "c")
    assert [text.partition(":")[0] for text in found] == [
        "override 'a.b=1'",
        "override 'run.seed=[1'",
        "override 'c'",
    ]


def test_mistakes_of_overrides_come_after_those_of_the_file(config: Any) -> None:
    text = BASE.replace("lr: 0.01", "lr: x")
    found = mistakes(config, text, "run.seed=x")
    assert [problem.partition(": ")[0] for problem in found] == [
        "c.yaml:7",
        "override 'run.seed=x'",
    ]


# ---------------------------------------------------------------- torch


def test_torch_is_not_imported_for_a_file_that_does_not_parse(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: [")
    script = """
import sys, noether.config
try:
    noether.config.load(sys.argv[1])
except ValueError:
    print('torch' in sys.modules)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "c.yaml")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"


# ---------------------------------------------------------------- actions


def test_actions_are_made_from_the_file_for_training_and_evaluation(config: Any) -> None:
    text = BASE.replace("defaults: false", "actions: {note: {kind: tests.sample_project.noting}}")
    run = config(text + "callbacks: [{kind: tests.sample_project.asking, every_n_epochs: 1}]\n")
    sample.MADE.clear()
    run.train(defaults=False)
    assert sample.MADE.count("noted") == 2
    run.evaluate()
    assert sample.MADE.count("noted") == 3
