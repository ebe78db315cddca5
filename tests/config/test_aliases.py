"""Callback sections of another project, from the file to the pipeline and what is said of it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from noether import ConfigurationError, Run, every, hooks, load
from noether.cli import main
from noether.config.aliases import CLASSES, PACKAGE
from noether.config.structure import parameters
from noether.config.translation import OPTIONS, translated
from tests import sample_project as sample
from tests.command import ALLOW, ROOT, files, placed

TEXT = """\
run: {until: {epochs: 2}, batch_size: 4, defaults: false, dir: runs}
model: {kind: tests.sample_project.linear}
data:
  train: {kind: tests.sample_project.points}
  test: {kind: tests.sample_project.points, count: 4}
loss: {kind: tests.sample_project.squared}
optimizer: {kind: torch.optim.SGD, lr: 0.01}
"""
LINE = TEXT.count("\n") + 2
"""Of the first entry."""
NEEDS: dict[str, str] = {
    "best_checkpoint": "metric_key: loss/test/total",
    "early_stopping": "metric_key: loss/test/total, tolerance: 3",
    "ema": "target_factors: [0.5]",
    "stop_at": "stop_at_epoch: 1",
    "best_metric": "source_metric_key: loss/test/total, target_metric_keys: [loss/test/total]",
    "track_outputs": "keys: [a]",
    "offline_loss": "dataset_key: test",
}
"""What their entries can't do without."""
OURS: dict[str, dict[str, Any]] = {
    "best_checkpoint": {"metric": "loss/test/total"},
    "early_stopping": {"metric": "loss/test/total", "patience": 3},
    "ema": {"decay": [0.5]},
    "stop_at": {"epoch": 1},
    "best_metric": {"source": "loss/test/total", "targets": ["loss/test/total"]},
    "track_outputs": {"keys": ["a"]},
    "offline_loss": {"dataset": "test"},
}


def takes(name: str, option: str) -> bool:
    """Whether a built-in is there and has this option: it may be built later than its alias."""
    return name in hooks.__all__ and option in parameters(getattr(hooks, name))


READY = [name for name, (mine, _) in CLASSES.items() if mine in hooks.__all__]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return placed(TEXT, tmp_path, monkeypatch)


def loaded(*entries: str, before: str = TEXT) -> Run:
    lines = "".join(f"- {{{entry}}}\n" for entry in entries)
    Path("c.yaml").write_text(f"{before}callbacks:\n{lines}")
    return load("c.yaml", (), ["tests.sample_project"])


def refused(*entries: str, before: str = TEXT) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        loaded(*entries, before=before)
    return [str(problem) for problem in caught.value.problems]


WRITER = "kind: offline_loss, dataset: test, every_n_epochs: 1"

# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize("name", READY)
def test_an_entry_of_a_class_is_the_callback_of_ours(folder: Path, name: str) -> None:
    mine, module = CLASSES[name]
    needs = f", {NEEDS[mine]}" if mine in NEEDS else ""
    first = () if mine == "offline_loss" else (WRITER,)
    timed = "" if mine in ("param_count", "dataset_stats", "stop_at") else ", every_n_epochs: 1"
    homes = ["", f"{PACKAGE}.", f"{PACKAGE}.{module.partition('.')[0]}.", f"{PACKAGE}.{module}."]
    if mine == "offline_loss":
        homes[2:] = ["noether.training.callbacks.", "noether.training.callbacks.offline_loss."]
    found = [loaded(*first, f"kind: {home}{name}{needs}{timed}").callbacks[-1] for home in homes]
    assert found[1:] == found[:1] * 3
    if mine not in ("ema", "checkpoint"):  # their flags have tests of their own
        made = getattr(hooks, mine)
        options = dict(OURS.get(mine, {}))
        if timed and "schedule" in parameters(made):
            options["schedule"] = every(epochs=1)
        plain = made(**options)
        narrowed = timed and "schedule" not in parameters(made)
        assert found[0] == (every(epochs=1)(plain) if narrowed else plain)


def test_nothing_is_imported_for_a_class_that_a_file_names(folder: Path) -> None:
    trap = "from pathlib import Path\nPath('imported').touch()\nclass MyCallback: ...\n"
    (folder / "trap.py").write_text(trap)
    entries = "".join(
        f"- {{kind: {kind}}}\n"
        for kind in (
            "trap.MyCallback",
            f"{PACKAGE}.CheckpointCallback",
            f"{PACKAGE}.base.PeriodicCallback",
            "noether.training.callbacks.OfflineLossCallback",
        )
    )
    Path("c.yaml").write_text(f"{TEXT}callbacks:\n{entries}")
    script = """
import sys
sys.path.insert(0, ".")
from noether.config import load
try:
    load("c.yaml", (), ["tests.sample_project"])
except ValueError as error:
    print(error)
print([name for name in sys.modules if name.startswith(("noether.core", "noether.training."))])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=True
    )
    lines = done.stdout.splitlines()
    assert "trap.MyCallback is the name of a class" in lines[0]
    assert lines[-1] == "[]"
    assert files(folder) == ["c.yaml", "trap.py"]


def test_a_class_of_a_trusted_package_is_told_apart_from_a_factory(folder: Path) -> None:
    (problem,) = refused("kind: tests.sample_project.Window, every_n_epochs: 1")
    assert "is not declared with @noether.factory" in problem
    assert "is the name of a class; here callbacks are functions" in problem


@pytest.mark.parametrize("name", ["CallbackBase", "PeriodicIteratorCallback"])
def test_base_classes_are_refused_in_any_package(folder: Path, name: str) -> None:
    for home in ("", f"{PACKAGE}.base.", "mine."):
        (problem,) = refused(f"kind: {home}{name}, every_n_epochs: 1")
        assert problem.startswith(f"c.yaml:{LINE}: callbacks.0.kind: {home}{name} is a base class")


def test_a_misspelt_class_is_answered_with_the_nearest(folder: Path) -> None:
    (problem,) = refused(f"kind: {PACKAGE}.CheckpointCalback")
    assert problem.endswith("Did you mean CheckpointCallback?")


@pytest.mark.parametrize("name", ["AccuracyCallback", "MetricCallback", "TestLossCallback"])
def test_a_class_of_the_users_is_not_taken_for_a_slip(folder: Path, name: str) -> None:
    (problem,) = refused(f"kind: {name}, every_n_epochs: 1")
    assert f"{name} is the name of a class; here callbacks are functions" in problem


def test_who_reads_what_a_refused_class_would_write_is_not_blamed(folder: Path) -> None:
    problems = refused(
        "kind: mine.AccuracyCallback, dataset_key: test, every_n_epochs: 1",
        "kind: BestCheckpointCallback, metric_key: accuracy/test, mode: max",
    )
    assert len(problems) == 1
    assert "mine.AccuracyCallback is the name of a class" in problems[0]


@pytest.mark.parametrize("entry", ["kind: [1]", "kind: {a: 1}", "kind: 3", "a: 1", "kind: null"])
def test_what_is_no_name_at_all_is_a_mistake_of_its_line(folder: Path, entry: str) -> None:
    (problem,) = refused(entry)
    assert problem.startswith(f"c.yaml:{LINE}: callbacks.0")


# ---------------------------------------------------------------- options

EARLY = "kind: early_stopping"


@pytest.mark.parametrize(
    "old",
    [
        old
        for old, new in OPTIONS.items()
        if any(takes(mine, new) and old in NEEDS.get(mine, "") for mine in NEEDS)
    ],
)
def test_both_spellings_of_an_option_are_one_too_many(folder: Path, old: str) -> None:
    mine = next(mine for mine in NEEDS if old in NEEDS[mine] and takes(mine, OPTIONS[old]))
    first = () if mine == "offline_loss" else (WRITER,)
    timed = "" if mine in ("stop_at", "ema") else ", every_n_epochs: 1"
    twice = f"{OPTIONS[old]}: {OURS[mine][OPTIONS[old]]}"
    problems = refused(*first, f"kind: {mine}, {NEEDS[mine]}{timed}, {twice}")
    said = f"c.yaml:{LINE + len(first)}: callbacks.{len(first)}.{old}: {OPTIONS[old]} says that"
    assert len(problems) == 1
    assert problems[0].startswith(said)


def test_options_of_theirs_are_told_in_the_note_of_their_entry(folder: Path) -> None:
    run = loaded(
        "kind: OfflineLossCallback, dataset_key: test, every_n_epochs: 1",
        f"{EARLY}, metric_key: loss/test/total, tolerance: 3",
    )
    assert run.notes == (
        f"c.yaml:{LINE}: callbacks.0.kind: OfflineLossCallback is `kind: offline_loss` here, "
        "its dataset_key `dataset`",
        f"c.yaml:{LINE + 1}: callbacks.1.kind: metric_key `metric`, tolerance `patience` in "
        "early_stopping here",
    )


def test_what_is_said_of_a_class_is_said_once(folder: Path) -> None:
    entry = "kind: BestCheckpointCallback, metric_key: loss/test/total"
    run = loaded(WRITER, entry, f"{entry}, id: second")
    assert [note.partition(": ")[0] for note in run.notes] == [f"c.yaml:{LINE + 1}"]


def test_a_file_in_our_words_needs_no_notes(folder: Path) -> None:
    assert loaded(WRITER, f"{EARLY}, metric: loss/test/total, patience: 3").notes == ()


def test_null_in_an_entry_of_theirs_means_not_given(folder: Path) -> None:
    run = loaded(
        "kind: OfflineLossCallback, name: OfflineLossCallback, id: null, dataset_key: test, "
        "every_n_epochs: 1, every_n_updates: null, every_n_samples: null, batch_size: null"
    )
    assert run.callbacks == (every(epochs=1)(hooks.offline_loss(dataset="test")),)
    assert "every_n_updates" in refused(f"{WRITER}, every_n_updates: null")[0]  # ours is strict


def test_an_id_is_the_name_of_a_users_callback_too(folder: Path) -> None:
    entry = "kind: tests.sample_project.evaluation, on: test, every_n_epochs: 1, name: same"
    run = loaded(f"{entry}, id: a", f"{entry}, id: b")
    each = every(epochs=1)(sample.evaluation(on="test"))
    assert run.callbacks == (each.named("a"), each.named("b"))


def test_two_of_one_class_without_an_id_are_asked_for_names(folder: Path) -> None:
    entry = (
        "kind: BestCheckpointCallback, metric_key: loss/test/total, name: BestCheckpointCallback"
    )
    (problem,) = refused(WRITER, entry, entry)
    assert problem.startswith(f"c.yaml:{LINE + 2}: callbacks.2: ")
    assert "name" in problem


def test_a_name_that_is_no_text_is_a_mistake(folder: Path) -> None:
    (problem,) = refused(f"{WRITER}, name: [1]")
    assert "name: expected text, found a list" in problem


def test_samples_need_no_batch_size(folder: Path) -> None:
    run = loaded("kind: OfflineLossCallback, dataset_key: test, every_n_samples: 8")
    assert run.callbacks == (every(samples=8)(hooks.offline_loss(dataset="test")),)


def test_keeping_is_said_by_flags_or_by_us_but_not_by_both(folder: Path) -> None:
    (problem,) = refused("kind: checkpoint, keep_last: 7, save_weights: false")
    assert "callbacks.0.keep_last: save_* say that already" in problem


def test_an_average_has_one_interval(folder: Path) -> None:
    problems = refused(
        "kind: EmaCallback, target_factors: [0.9], every_n_epochs: 1, every_n_updates: 2"
    )
    assert any("every_n_epochs says when already" in problem for problem in problems)


# ---------------------------------------------------------------- flags, before they are read


def rewritten(kind: str, **options: Any) -> dict[str, Any]:
    stage = translated({"callbacks": [{"kind": kind, **options}]})
    assert stage.mistakes == []
    (entry,) = stage.config["callbacks"]
    return dict(entry)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ({}, {"weights_only": True}),
        ({"save_weights": True, "save_optim": True}, {"keep_last": None}),
        ({"save_weights": False, "save_optim": True}, {"keep_last": None}),
        ({"save_weights": False}, {"keep_last": 1}),
        (
            {"save_weights": False, "save_latest_weights": False, "save_latest_optim": True},
            {"keep_last": 1},
        ),
        ({"save_weights": None, "save_optim": None}, {"weights_only": True}),
    ],
)
def test_flags_of_a_checkpoint_say_what_stays(flags: Any, options: dict[str, Any]) -> None:
    made = rewritten("CheckpointCallback", every_n_epochs=10, **flags)
    assert made == {"kind": "checkpoint", "every_n_epochs": 10, **options}


def test_our_checkpoint_without_flags_is_left_as_it_is() -> None:
    assert rewritten("checkpoint", keep_last=7) == {"kind": "checkpoint", "keep_last": 7}


@pytest.mark.parametrize(
    ("flags", "schedule"),
    [
        ({"every_n_epochs": 2}, "every(epochs=2) | once_at_end"),
        ({"every_n_samples": 9, "save_last_weights": False}, "every(samples=9)"),
        ({"every_n_epochs": 2, "save_weights": False}, "once_at_end"),
        ({"every_n_epochs": 2, "save_weights": False, "save_last_weights": False}, None),
        (
            {
                "every_n_epochs": 2,
                "save_weights": False,
                "save_latest_weights": True,
                "save_last_weights": False,
            },
            "every(epochs=2)",
        ),
        ({}, "once_at_end"),
    ],
)
def test_flags_of_an_average_say_when_it_is_exported(flags: Any, schedule: str | None) -> None:
    made = rewritten("EmaCallback", target_factors=[0.9], **flags)
    timed = {} if schedule is None else {"schedule": schedule}
    assert made == {"kind": "ema", "decay": [0.9], **timed}


def test_our_average_without_flags_is_left_as_it_is() -> None:
    assert rewritten("ema", decay=0.9) == {"kind": "ema", "decay": 0.9}


def test_notes_of_an_average_say_what_is_not_the_same() -> None:
    stage = translated({"callbacks": [{"kind": "EmaCallback", "target_factors": [0.9]}]})
    said = "; ".join(note.message for note in stage.notes)
    assert "EmaCallback is `kind: ema` here, its target_factors `decay`" in said
    assert "every checkpoint holds the averages" in said


# ---------------------------------------------------------------- the whole file, checked

TYPICAL = [
    "kind: noether.training.callbacks.OfflineLossCallback, name: OfflineLossCallback, "
    "dataset_key: test, every_n_epochs: 1, batch_size: 1",
    "kind: noether.core.callbacks.BestCheckpointCallback, name: BestCheckpointCallback, "
    "metric_key: loss/test/total, every_n_epochs: 1",
    "kind: tests.sample_project.evaluation, on: test, every_n_epochs: 1, name: metric, id: first",
    "kind: tests.sample_project.evaluation, on: test, every_n_epochs: 1, name: metric",
]
FLAGGED = [
    "kind: noether.core.callbacks.CheckpointCallback, every_n_epochs: 10, save_weights: false, "
    "save_latest_weights: true, save_latest_optim: true",
    "kind: noether.core.callbacks.EmaCallback, every_n_epochs: 10, target_factors: [0.9999], "
    "save_weights: false, save_last_weights: false, save_latest_weights: true",
]


def test_a_typical_file_is_checked_and_is_the_pipeline_that_python_makes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    each = every(epochs=1)
    metric = each(sample.evaluation(on="test"))
    expected = [
        each(hooks.offline_loss(dataset="test", batch_size=1)),
        hooks.best_checkpoint(metric="loss/test/total", schedule=each),
        metric.named("first"),
        metric.named("metric"),
        hooks.checkpoint(keep_last=1, schedule=every(epochs=10)),
        hooks.ema(decay=[0.9999], schedule=every(epochs=10)),
    ]
    assert loaded(*TYPICAL, *FLAGGED).callbacks == tuple(expected)
    assert main(["check", "c.yaml", *ALLOW]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "ok"
    assert sorted(line.split()[0] for line in said.out.splitlines()[:-1]) == sorted(
        callback.name for callback in expected
    )
    notes = [line for line in said.err.splitlines() if " is `kind: " in line]
    assert [line.split(": ")[1] for line in notes] == [
        f"c.yaml:{LINE + index}" for index in (0, 1, 4, 5)
    ]
    assert files(folder) == ["c.yaml"]


def test_a_run_in_their_words_trains_and_its_record_is_in_ours(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(*TYPICAL, *FLAGGED)
    assert main(["train", "c.yaml", *ALLOW]) == 0
    assert "note: " in capsys.readouterr().err
    written = Path("runs/1/config.yaml")
    again = load(written, (), ["tests.sample_project"])
    assert again.callbacks == load("c.yaml", (), ["tests.sample_project"]).callbacks
    assert again.notes == ()
    assert main(["evaluate", "runs", *ALLOW]) == 0
    said = capsys.readouterr()
    assert "loss/test/total: " in said.out
    assert "note: " not in said.err


def test_notes_are_said_by_one_rank(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(*TYPICAL)
    monkeypatch.setenv("RANK", "1")
    assert main(["check", "c.yaml", *ALLOW]) == 0
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- trainer

REST = TEXT.partition("\n")[2]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('max_batch_size: "5", effective_batch_size: 4', "max_batch_size: expected an integer of"),
        ("max_batch_size: 0, effective_batch_size: 4", "max_batch_size: expected an integer of"),
        ("effective_batch_size: x, max_batch_size: 4", "run.batch_size: expected an integer"),
        ("skip_nan_loss: 1", "skip_nan_loss: expected true or false, found 1"),
        ("skip_nan_loss: true, skip_nan_loss_max_count: x", "run.on_nonfinite"),
        ("precision: [1]", "run.precision: expected text, found a list"),
        ("precision: {a: 1}", "run.precision: expected text, found a mapping"),
        ("log_every_n_updates: x", "run.log"),
        ("log_every_n_updates: 0", "run.log"),
        ("log_every_n_updates: 1, log_every_n_epochs: 1", "log is said twice"),
        ("add_default_callbacks: 1", "run.defaults"),
    ],
)
def test_a_wrong_value_is_told_and_never_replaced(folder: Path, section: str, said: str) -> None:
    problems = refused(WRITER, before=f"trainer: {{max_epochs: 1, {section}}}\n{REST}")
    assert len(problems) == 1, problems
    assert problems[0].startswith("c.yaml:1: ")
    assert said in problems[0]


def test_what_has_no_effect_alone_is_left_out_with_a_word(folder: Path) -> None:
    section = "max_epochs: 1, max_batch_size: 4, skip_nan_loss_max_count: 3, max_updates: null"
    run = loaded(WRITER, before=f"trainer: {{{section}}}\n{REST}")
    assert run.arguments["until"] == {"epochs": 1}
    assert not {"accumulate", "on_nonfinite"} & set(run.arguments)
    assert sum("does nothing without" in note for note in run.notes) == 2


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        ("skip_nan_loss: true", {"skip": 100}),
        ("skip_nan_loss: true, skip_nan_loss_max_count: 3", {"skip": 3}),
        ("skip_nan_loss: false, skip_nan_loss_max_count: 3", "raise"),
    ],
)
def test_skipped_losses_have_a_limit(folder: Path, skip: str, expected: object) -> None:
    run = loaded(WRITER, before=f"trainer: {{max_epochs: 1, {skip}}}\n{REST}")
    assert run.arguments["on_nonfinite"] == expected


@pytest.mark.parametrize(("most", "steps"), [(12, 1), (11, 2), (6, 2), (5, 3), (1, 12), (100, 1)])
def test_a_batch_is_split_into_the_fewest_equal_parts(folder: Path, most: int, steps: int) -> None:
    section = f"trainer: {{max_epochs: 1, effective_batch_size: 12, max_batch_size: {most}}}\n"
    run = loaded(WRITER, before=section + REST)
    assert (run.arguments["batch_size"], run.arguments["accumulate"]) == (12, steps)


def test_a_run_section_that_is_none_is_still_a_mistake(folder: Path) -> None:
    problems = refused(WRITER, before=f"run: [1]\ntrainer: {{max_epochs: 1}}\n{REST}")
    assert "c.yaml:1: run: expected a mapping, found a list" in problems


def test_callbacks_stand_in_one_place(folder: Path) -> None:
    section = "trainer: {max_epochs: 1, callbacks: [{kind: progress}]}\n"
    (problem,) = refused(WRITER, before=section + REST)
    assert problem.startswith("c.yaml:1: trainer.callbacks: callbacks says that already")
    Path("c.yaml").write_text(section + REST)
    assert load("c.yaml", (), ["tests.sample_project"]).callbacks == (hooks.progress(),)


def test_mistakes_in_referred_callbacks_stand_where_they_are_written(folder: Path) -> None:
    section = "trainer: {max_epochs: 1, callbacks: '${callbacks}'}\n"
    (problem,) = refused(
        WRITER, "kind: EarlyStoping", "kind: progress, ofen: 1", before=section + REST
    )[1:]
    assert problem.startswith(f"c.yaml:{LINE + 2}: callbacks.2.ofen: unknown option")


def test_overrides_reach_what_is_referred_to(folder: Path) -> None:
    Path("c.yaml").write_text(
        f"trainer: {{max_epochs: 4}}\n{REST}callbacks:\n"
        "- kind: OfflineLossCallback\n  dataset_key: test\n"
        "  every_n_epochs: ${trainer.max_epochs}\n"
    )
    run = load("c.yaml", ["trainer.max_epochs=7"], ["tests.sample_project"])
    assert run.callbacks[0].schedule == every(epochs=7)
    assert run.arguments["until"] == {"epochs": 7}


def test_each_part_of_a_circle_is_told_with_its_line(folder: Path) -> None:
    circle = """\
run:
  until: {epochs: 1}
  batch_size: 4
  seed: ${optimizer.lr}
optimizer:
  kind: torch.optim.SGD
  lr: ${optimizer.momentum}
  momentum: ${run.seed}
"""
    rest = REST.partition("optimizer")[0]
    problems = [each for each in refused(WRITER, before=circle + rest) if "itself" in each]
    assert [each.partition(": ")[0] for each in problems] == ["c.yaml:4", "c.yaml:7", "c.yaml:8"]
    assert "run.seed -> optimizer.lr -> optimizer.momentum" in problems[0]
