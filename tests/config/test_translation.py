"""Configurations of other projects: their callbacks, their trainer section, their references."""

from pathlib import Path
from typing import Any

import pytest

from noether import ConfigurationError, Run, every, hooks, load, once_at_end
from noether.cli import main
from noether.config.aliases import CLASSES, PACKAGE, ours
from noether.config.references import references
from noether.config.translation import OPTIONS
from tests import sample_project as sample

ALLOW = ["tests.sample_project"]
RUN = "run: {until: {epochs: 2}, batch_size: 4, defaults: false, dir: runs/x}\n"
REST = """\
model: {kind: tests.sample_project.linear}
data:
  train: {kind: tests.sample_project.points}
  test: {kind: tests.sample_project.points, count: 4}
loss: {kind: tests.sample_project.squared}
optimizer: {kind: torch.optim.SGD, lr: 0.01}
"""


@pytest.fixture(name="config")
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a text as a file named c.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)

    def loaded(text: str, *overrides: str) -> Run:
        Path("c.yaml").write_text(text, encoding="utf-8")
        return load("c.yaml", overrides, ALLOW)

    return loaded


def refused(config: Any, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        config(text)
    return [str(problem) for problem in caught.value.problems]


# ---------------------------------------------------------------- callbacks

TYPICAL = """\
callbacks:
  - kind: noether.training.callbacks.OfflineLossCallback
    name: OfflineLossCallback
    dataset_key: test
    every_n_epochs: 1
    batch_size: 1
  - kind: noether.core.callbacks.CheckpointCallback
    name: CheckpointCallback
    every_n_epochs: 10
    save_weights: false
    save_latest_weights: true
    save_latest_optim: true
  - kind: noether.core.callbacks.checkpoint.best_checkpoint.BestCheckpointCallback
    metric_key: loss/test/total
    every_n_epochs: 1
  - {kind: tests.sample_project.scheduled_reader, name: mine, metric: loss/test/total}
  - kind: EmaCallback
    every_n_epochs: 10
    target_factors: [0.9999]
    save_weights: false
    save_last_weights: false
    save_latest_weights: true
"""


def test_a_typical_file_is_our_pipeline(config: Any) -> None:
    run = config(RUN + REST + TYPICAL)
    each = every(epochs=1)
    assert run.callbacks == (
        each(hooks.offline_loss(dataset="test", batch_size=1)),
        hooks.checkpoint(keep_last=1, schedule=every(epochs=10)),
        hooks.best_checkpoint(metric="loss/test/total", schedule=each),
        sample.scheduled_reader(metric="loss/test/total").named("mine"),
        hooks.ema(decay=[0.9999], schedule=every(epochs=10)),
    )
    assert [note.split(": ")[0] for note in run.notes if " is `kind: " in note] == [
        "c.yaml:9",
        "c.yaml:14",
        "c.yaml:20",
        "c.yaml:24",
    ]


def test_the_command_line_says_how_it_is_written_here(
    config: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config(RUN + REST + TYPICAL)
    assert main(["check", "c.yaml", "--allow", "tests.sample_project"]) == 0
    said = capsys.readouterr().err
    assert (
        "note: c.yaml:14: callbacks.1.kind: noether.core.callbacks.CheckpointCallback is "
        "`kind: checkpoint` here" in said
    )


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_known_by_each_of_its_names(name: str) -> None:
    mine, module = CLASSES[name]
    package = module.partition(".")[0]
    assert mine in (*hooks.__all__, "eta")
    for home in ("", f"{PACKAGE}.", f"{PACKAGE}.{package}.", f"{PACKAGE}.{module}."):
        assert ours(home + name) == mine
    assert ours(f"somewhere.{name}") is None


def test_every_option_of_theirs_is_one_of_ours() -> None:
    from noether.config.structure import parameters

    taken = {name for each in hooks.__all__ for name in parameters(getattr(hooks, each))}
    assert set(OPTIONS.values()) <= taken
    assert not set(OPTIONS) & taken


def entry(config: Any, text: str) -> Any:
    (callback,) = config(f"{RUN}{REST}callbacks: [{text}]").callbacks
    return callback


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("", {"weights_only": True}),
        ("save_optim: true", {"keep_last": None}),
        ("save_weights: false", {"keep_last": 1}),
        (
            "save_weights: false, model_names: [net]",
            {"keep_last": 1, "models": ["net"], "export": True},
        ),
        ("model_names: [net]", {"weights_only": True, "models": ["net"]}),
    ],
)
def test_flags_of_a_checkpoint_are_what_stays(config: Any, flags: str, options: Any) -> None:
    comma = ", " if flags else ""
    made = entry(config, f"{{kind: CheckpointCallback, every_n_epochs: 1{comma}{flags}}}")
    assert made == hooks.checkpoint(**options, schedule=every(epochs=1))


@pytest.mark.parametrize(
    ("flags", "schedule"),
    [
        ("every_n_epochs: 2", every(epochs=2) | once_at_end),
        ("every_n_updates: 5, save_last_weights: false", every(updates=5)),
        ("every_n_epochs: 2, save_weights: false", once_at_end),
        ("every_n_epochs: 2, save_weights: false, save_last_weights: false", None),
    ],
)
def test_flags_of_an_average_are_when_it_is_exported(
    config: Any, flags: str, schedule: Any
) -> None:
    made = entry(config, f"{{kind: EmaCallback, target_factors: [0.9], {flags}}}")
    given = {} if schedule is None else {"schedule": schedule}
    assert made == hooks.ema(decay=[0.9], **given)


def test_a_name_that_is_a_class_is_none_and_an_id_is_one(config: Any) -> None:
    text = "kind: FixedEarlyStopper, stop_at_epoch: 2"
    assert entry(config, f"{{{text}, name: FixedEarlyStopper}}").name == hooks.stop_at(epoch=2).name
    assert entry(config, f"{{{text}, name: mine}}").name == "mine"
    assert entry(config, f"{{{text}, name: FixedEarlyStopper, id: other}}").name == "other"


def test_the_live_line_needs_no_entry(config: Any) -> None:
    run = config(f"{RUN}{REST}callbacks: [{{kind: EtaCallback}}, {{kind: progress}}]")
    assert [callback.name for callback in run.callbacks] == ["progress"]
    assert "EtaCallback is left out" in run.notes[0]


def test_a_batch_size_that_nothing_reads_is_left_out_with_a_word(config: Any) -> None:
    run = config(
        f"{RUN}{REST}callbacks: [{{kind: ProgressCallback, every_n_epochs: 1, batch_size: 4}}]"
    )
    assert "progress reads no batches; left out" in "".join(run.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{kind: noether.core.callbacks.PeriodicCallback}", "is a base class"),
        ("{kind: my.package.AccuracyCallback, every_n_epochs: 1}", "is the name of a class"),
        (
            "{kind: offline_loss, dataset_key: test, dataset: test, every_n_epochs: 1}",
            "dataset says that already",
        ),
        (
            "{kind: CheckpointCallback, save_weights: false, save_latest_weights: false}",
            "save_* are all false",
        ),
        (
            "{kind: checkpoint, save_weights: 0, save_optim: true}",
            "expected true or false, found 0",
        ),
    ],
)
def test_what_cannot_be_said_here_is_told_with_its_line(
    config: Any, text: str, message: str
) -> None:
    (problem,) = refused(config, f"{RUN}{REST}callbacks:\n  - {text}\n")
    assert problem.startswith("c.yaml:9: callbacks.0")
    assert message in problem


def test_an_option_of_theirs_that_is_wrong_is_told_where_it_stands(config: Any) -> None:
    text = (
        "callbacks:\n  - kind: OfflineLossCallback\n    every_n_epochs: 1\n    dataset_key: tset\n"
    )
    (problem,) = refused(config, RUN + REST + text)
    assert problem.startswith("c.yaml:11: callbacks.0.dataset: no evaluation set is named 'tset'")


# ---------------------------------------------------------------- trainer

TRAINER = """\
trainer:
  kind: some.Trainer
  max_epochs: 3
  effective_batch_size: 12
  max_batch_size: 5
  precision: bfloat16
  skip_nan_loss: true
  skip_nan_loss_max_count: 7
  add_default_callbacks: false
  log_every_n_updates: 5
  callbacks: ${callbacks}
"""


def test_a_trainer_section_is_our_run(config: Any) -> None:
    run = config(TRAINER + REST + "callbacks: [{kind: ParamCountCallback}]\nrun: {seed: 3}\n")
    assert run.arguments["until"] == {"epochs": 3}
    assert (run.arguments["batch_size"], run.arguments["accumulate"]) == (12, 3)
    assert run.arguments["precision"] == "bf16"
    assert run.arguments["on_nonfinite"] == {"skip": 7}
    assert run.arguments["defaults"] is False
    assert run.arguments["log"] == every(updates=5)
    assert run.arguments["seed"] == 3
    assert run.callbacks == (hooks.param_count(),)


def test_a_reference_means_the_value_that_it_names(config: Any) -> None:
    run = config(
        TRAINER
        + REST
        + "callbacks: [{kind: LrCallback, every_n_epochs: '${trainer.max_epochs}'}]\n"
    )
    assert run.callbacks == (every(epochs=3)(hooks.learning_rate()),)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("trainer: {max_epochs: 1, max_updates: 2}\n", 1, "until is said twice"),
        ("trainer: {max_epoch: 1}\nrun: {until: {epochs: 1}}\n", 1, "Did you mean max_epochs?"),
        ("run: {until: {epochs: 1}}\ntrainer: {max_epochs: 2}\n", 2, "run.until says that already"),
        ("trainer: {max_epochs: 1.5}\n", 1, "expected an integer"),
        ("trainer: [1]\n", 1, "expected a mapping, found a list"),
        ("run: {until: {epochs: 1}, dir: '${oc.env:HOME}'}\n", 1, "is not resolved"),
        ("run: {until: {epochs: 1}, dir: 'runs/${run.seed}'}\n", 1, "is not resolved"),
        ("run: {until: {epochs: '${run.sed}'}, seed: 1}\n", 1, "Did you mean seed?"),
        ("run: {until: '${run.until}'}\n", 1, "leads back to itself"),
    ],
)
def test_what_is_wrong_there_is_told_with_its_line(
    config: Any, text: str, line: int, message: str
) -> None:
    problems = refused(config, text + REST)
    assert any(p.startswith(f"c.yaml:{line}: ") and message in p for p in problems), problems


def test_references_that_grow_without_bound_are_refused() -> None:
    levels: dict[str, Any] = {"a0": [1] * 10}
    levels |= {f"a{n}": [f"${{a{n - 1}}}"] * 10 for n in range(1, 9)}
    (mistake,) = references(levels).mistakes
    assert "more than 10,000 values" in mistake.message


@pytest.mark.parametrize(
    "value",
    [
        {"a": "${b}", "b": "${a}"},
        {"a": {"b": "${a}"}},
        {"a": ["${b}"], "b": {"c": "${a.0}"}},
    ],
)
def test_references_in_a_circle_are_mistakes(value: Any) -> None:
    assert any("leads back to itself" in m.message for m in references(value).mistakes)
