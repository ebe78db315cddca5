import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import (
    Callback,
    CheckpointError,
    ConfigurationError,
    HookError,
    Log,
    Set,
    Stop,
    TrainState,
    at,
    chain,
    each_session,
    every,
    hooks,
    once_at_end,
    once_at_start,
)
from noether.checkpoint import newest
from noether.checkpoint.manifest import read_manifest
from noether.journal import read
from noether.rundir import read_status, runs, write_status
from tests.strategies import Samples, net, samples, sgd, squared_error

SAVING = hooks.checkpoint(schedule=every(updates=2) | once_at_end, keep_last=None)


def train(series: Path, *callbacks: Callback, data: Samples | None = None, **options: Any) -> Any:
    given = {
        "model": net(),
        "train_set": data or samples(12),
        "loss": squared_error,
        "optimizer": sgd,
        "until": {"updates": 6},
        "batch_size": 4,
        "defaults": False,
        "callbacks": chain(SAVING, *callbacks),
        "run_dir": series,
        **options,
    }
    return noether.train(given.pop("model"), given.pop("train_set"), **given)


def broken(series: Path, update: int, *callbacks: Callback, **options: Any) -> None:
    """A run that fails before the optimizer's step of an update, so nothing is kept of it."""

    def fail(state: TrainState) -> None:
        if state.now.update == update:
            raise ValueError("broken off")

    with pytest.raises(HookError, match="broken off"):
        train(series, *callbacks, Callback("fail", before_update=fail), **options)


def journal(run: Path) -> list[dict[str, Any]]:
    return list(read(run / "journal.jsonl"))


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def damage(checkpoint: Path) -> None:
    """Flip one bit in the middle of its weights."""
    path = checkpoint / "weights.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# ---------------------------------------------------------------- which run goes on


def test_each_fresh_start_gets_a_numbered_directory_named_first_and_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3):
        train(tmp_path / "series")
        lines = capsys.readouterr().out.strip().splitlines()
        assert lines[0].endswith(str(tmp_path / "series" / str(number)))
        assert lines[-1].endswith(str(tmp_path / "series" / str(number)))
    assert [run.name for run in runs(tmp_path / "series")] == ["3", "2", "1"]


def test_auto_starts_a_run_where_there_is_none(tmp_path: Path) -> None:
    final = train(tmp_path / "series", resume="auto")
    assert (final.now.update, final.now.session) == (6, 1)


def test_must_refuses_to_start_afresh(tmp_path: Path) -> None:
    data = samples(12)
    with pytest.raises(ConfigurationError, match="must"):
        train(tmp_path / "series", data=data, resume="must")
    assert data.served == []
    assert runs(tmp_path / "series") == []


def test_must_refuses_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    broken(tmp_path, 1)
    with pytest.raises(ConfigurationError, match="must"):
        train(tmp_path, resume="must")
    assert train(tmp_path, resume="auto").now.update == 6
    assert [run.name for run in runs(tmp_path)] == ["1"]
    assert [row["tick"] for row in journal(tmp_path / "1")].count("start") == 1


def test_auto_goes_on_with_the_newest_run(tmp_path: Path) -> None:
    train(tmp_path)
    broken(tmp_path, 4)
    data = samples(12)
    final = train(tmp_path, data=data, resume="auto")
    assert (final.now.update, final.now.session, len(data.served)) == (6, 2, 4 * 4)
    assert [run.name for run in runs(tmp_path)] == ["2", "1"]


@pytest.mark.parametrize("resume", ["auto", "must", "path"])
def test_a_run_that_is_done_is_left_as_it_is(
    tmp_path: Path, resume: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = net()
    train(tmp_path, model=first)
    run = tmp_path / "1"
    files = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    capsys.readouterr()
    data, model = samples(12), net()
    final = train(
        tmp_path,
        model=model,
        data=data,
        resume=str(run) if resume == "path" else resume,
        until={"updates": 60},
    )
    assert (data.served, final.now.update) == ([], 6)
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == files
    assert "done" in capsys.readouterr().out
    assert torch.equal(model.state_dict()["0.weight"], first.state_dict()["0.weight"])


@pytest.mark.parametrize("kind", [str, Path])
def test_the_path_of_a_run_goes_on_with_it(tmp_path: Path, kind: Callable[[Path], Any]) -> None:
    broken(tmp_path, 4)
    train(tmp_path)
    final = train(tmp_path, resume=kind(tmp_path / "1"))
    assert (final.now.update, final.now.session) == (6, 2)
    assert read_status(tmp_path / "1")["state"] == "done"
    assert len(runs(tmp_path)) == 2


def test_the_path_of_a_checkpoint_begins_a_new_run_from_it(tmp_path: Path) -> None:
    whole = net()
    train(tmp_path, model=whole)
    before = {p: p.read_bytes() for p in (tmp_path / "1").rglob("*") if p.is_file()}
    data, model = samples(12), net()
    final = train(
        tmp_path, model=model, data=data, resume=str(tmp_path / "1" / "checkpoints" / "step-4")
    )
    assert (final.now.update, len(data.served)) == (6, 8)
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert read_status(tmp_path / "2")["state"] == "done"
    assert {p: p.read_bytes() for p in (tmp_path / "1").rglob("*") if p.is_file()} == before


def test_a_run_begun_from_a_checkpoint_still_begins_there_after_an_early_crash(
    tmp_path: Path,
) -> None:
    train(tmp_path)
    start = str(tmp_path / "1" / "checkpoints" / "step-4")
    broken(tmp_path, 5, resume=start)
    data = samples(12)
    train(tmp_path, data=data, resume="auto")
    assert [run.name for run in runs(tmp_path)] == ["2", "1"]
    assert len(data.served) == 8, "it was begun afresh, from untrained weights"


def test_a_path_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nonsense"):
        train(tmp_path / "series", resume=tmp_path / "nonsense")
    assert runs(tmp_path / "series") == []


# ---------------------------------------------------------------- damage


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, model = net(), net()
    train(tmp_path / "whole", model=whole)
    broken(tmp_path / "runs", 6)
    run = tmp_path / "runs" / "1"
    assert [path.name for path in checkpoints(run)] == ["step-2", "step-4"]
    damage(run / "checkpoints" / "step-4")
    data = samples(12)
    final = train(tmp_path / "runs", model=model, data=data, resume="auto")
    assert (final.now.update, len(data.served)) == (6, 16)
    assert torch.equal(model.state_dict()["3.weight"], whole.state_dict()["3.weight"])
    output = capsys.readouterr()
    assert "step-4" in output.err
    assert (run / "checkpoints" / ".bad-step-4").is_dir()
    assert [row["update"] for row in journal(run) if row["tick"] == "update"] == [2, 4, 6]


@pytest.mark.parametrize("resume", ["auto", "must", "path"])
def test_only_damaged_checkpoints_are_an_error(tmp_path: Path, resume: str) -> None:
    broken(tmp_path, 6)
    run = tmp_path / "1"
    for checkpoint in checkpoints(run):
        damage(checkpoint)
    data = samples(12)
    for _ in range(2):  # still so, once they are set aside
        with pytest.raises(CheckpointError, match=r"step-2[\s\S]*step-4|step-4[\s\S]*step-2"):
            train(tmp_path, data=data, resume=str(run) if resume == "path" else resume)
    assert data.served == []
    assert [run.name for run in runs(tmp_path)] == ["1"]


def test_an_explicit_damaged_checkpoint_is_an_error_naming_the_file(tmp_path: Path) -> None:
    train(tmp_path)
    chosen = tmp_path / "1" / "checkpoints" / "step-4"
    damage(chosen)
    with pytest.raises(CheckpointError, match=re.escape("weights.pt")):
        train(tmp_path, resume=chosen)


def test_a_checkpoint_of_another_model_is_an_error_and_the_status_keeps_its_truth(
    tmp_path: Path,
) -> None:
    broken(tmp_path, 6)
    with pytest.raises(CheckpointError, match="step-4"):
        train(tmp_path, model=torch.nn.Linear(3, 2), resume="auto")
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("failed", 4)
    assert train(tmp_path, resume="auto").now.update == 6


def test_a_copied_run_directory_resumes_where_it_lies(tmp_path: Path) -> None:
    broken(tmp_path / "a", 6)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    data = samples(12)
    train(tmp_path / "b", data=data, resume="auto")
    assert len(data.served) == 8


# ---------------------------------------------------------------- what changed meanwhile


def test_changed_options_are_reported_and_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(tmp_path, 4)
    capsys.readouterr()
    data = samples(12)
    final = train(tmp_path, data=data, resume="auto", batch_size=2, clip_norm=0.5)
    output = capsys.readouterr().out
    assert re.search(r"batch_size.*4.*2", output)
    assert re.search(r"clip_norm.*None.*0\.5", output)
    assert final.now.sample == 2 * 4 + 4 * 2


def test_unchanged_options_are_not_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(tmp_path, 4)
    capsys.readouterr()
    train(tmp_path, Callback("fail", before_update=lambda s: None), resume="auto")
    output = capsys.readouterr()
    assert "changed since" not in output.out
    assert output.err == ""


def test_another_number_of_threads_is_told_of_as_sums_then_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def resumed(threads: int) -> str:
        torch.set_num_threads(2)
        broken(tmp_path / str(threads), 4)
        torch.set_num_threads(threads)
        train(tmp_path / str(threads), resume="auto")
        return capsys.readouterr().out

    before = torch.get_num_threads()
    try:
        assert "torch computes with 1 threads here, and with 2 before" in resumed(1)
        assert "torch computes" not in resumed(2)
    finally:
        torch.set_num_threads(before)


def test_a_changed_learning_rate_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(tmp_path, 4)
    capsys.readouterr()
    faster = lambda parameters: torch.optim.SGD(parameters, lr=0.7, momentum=0.9)  # noqa: E731
    train(tmp_path, optimizer=faster, resume="auto")
    output = capsys.readouterr()
    assert re.search(r"\blr\b.*0\.1.*0\.7", output.out + output.err)


def test_a_changed_seed_is_reported_and_the_order_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = samples(12)
    train(tmp_path / "whole", data=whole)
    broken(tmp_path / "runs", 5)
    data = samples(12)
    train(tmp_path / "runs", data=data, resume="auto", seed=9)
    assert data.served == whole.served[16:]
    assert re.search(r"seed.*0.*9", capsys.readouterr().out)


def test_new_and_gone_callbacks_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def counter(name: str) -> Callback:
        return Callback(
            name, init=lambda s: 0, after_update=lambda s, n: (n + 1, None), on_error="raise"
        )

    broken(tmp_path, 4, counter("stays"), counter("gone"))
    capsys.readouterr()
    final = train(tmp_path, counter("stays"), counter("new"), resume="auto")
    assert final.memories == {"stays": 6, "new": 4}
    output = capsys.readouterr().out
    assert re.search(r"'gone'", output)
    assert re.search(r"'new'", output)


def test_a_longer_horizon_goes_on_and_a_shorter_one_closes(tmp_path: Path) -> None:
    for series, limit, reached, served in (("longer", 9, 9, 20), ("shorter", 3, 4, 0)):
        broken(tmp_path / series, 6)
        data = samples(12)
        final = train(tmp_path / series, data=data, resume="auto", until={"updates": limit})
        assert (final.now.update, len(data.served)) == (reached, served)
        assert read_status(tmp_path / series / "1")["state"] == "done"
        assert journal(tmp_path / series / "1")[-1]["tick"] == "end"


@pytest.mark.timeout(4)
def test_a_training_set_that_has_become_shorter_does_not_hang(tmp_path: Path) -> None:
    broken(tmp_path, 6, data=samples(24))
    try:
        final = train(tmp_path, data=samples(8), resume="auto")
    except (ConfigurationError, CheckpointError) as error:
        assert "24" in str(error) or "8" in str(error)  # noqa: PT017
    else:
        assert final.now.update == 6


@pytest.mark.timeout(4)
def test_a_larger_batch_with_a_dropped_rest_does_not_hang(tmp_path: Path) -> None:
    # 16 of 20 samples are served; the 4 that are left are no whole batch of 8.
    broken(tmp_path, 5, data=samples(20), drop_last=True)
    final = train(tmp_path, data=samples(20), resume="auto", drop_last=True, batch_size=8)
    assert final.now.update == 6


# ---------------------------------------------------------------- ticks around a resume


def test_opening_ticks_of_run_and_session_are_told_apart(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    def noting(name: str, **fields: Any) -> Callback:
        def note(state: TrainState) -> None:
            seen.append((name, state.now.session, state.now.update))

        given: dict[str, Any] = {k: note if v is None else v for k, v in fields.items()}
        return Callback(name, **given)

    watching = [
        noting("open", before_training=None),
        noting("run", on_schedule=None, schedule=once_at_start),
        noting("session", on_schedule=None, schedule=each_session),
        noting("end", on_schedule=None, schedule=once_at_end),
        noting("close", after_training=None),
    ]
    broken(tmp_path, 4, *watching)
    train(tmp_path, *watching, resume="auto")
    assert seen == [
        *(("open", 1, 0), ("run", 1, 0), ("session", 1, 0), ("close", 1, 3)),
        *(("open", 2, 2), ("session", 2, 2), ("end", 2, 6), ("close", 2, 6)),
    ]


def test_a_resumed_opening_tick_changes_no_memory(tmp_path: Path) -> None:
    counter = Callback(
        "counter",
        init=lambda s: 0,
        before_training=lambda s, n: (n + 100, None),
        after_update=lambda s, n: (n + 1, None),
    )
    broken(tmp_path, 4, counter)
    assert train(tmp_path, counter, resume="auto").memories == {"counter": 106}


def test_a_rate_that_a_callback_set_survives(tmp_path: Path) -> None:
    rates: list[tuple[int, float]] = []
    setting = [
        Callback("set", on_schedule=lambda s: Set("lr", 0.3), schedule=at(updates=2)),
        Callback(
            "note", after_update=lambda s: rates.append((s.now.update, s.hyper["default"]["lr"]))
        ),
    ]
    broken(tmp_path, 4, *setting)
    rates.clear()
    train(tmp_path, *setting, resume="auto")
    assert rates == [(update, 0.3) for update in (3, 4, 5, 6)]


def test_the_count_of_skips_in_a_row_survives(tmp_path: Path) -> None:
    def poisoned(model: Any, batch: Any) -> torch.Tensor:
        return squared_error(model, batch) * float("nan")

    saving = hooks.checkpoint(schedule=every(updates=1))
    broken(
        tmp_path, 3, loss=squared_error, callbacks=[saving, Callback("x", before_update=_fail_at_3)]
    )
    with pytest.raises(noether.NonFiniteError):
        train(tmp_path, callbacks=[saving], resume="auto", loss=poisoned, on_nonfinite={"skip": 1})
    # The skip of update 3 was committed: the very next one is the second in a row.
    data = samples(12)
    with pytest.raises(noether.NonFiniteError, match="2 updates in a row"):
        train(
            tmp_path,
            data=data,
            callbacks=[saving],
            resume="auto",
            loss=poisoned,
            on_nonfinite={"skip": 1},
        )
    assert len(data.served) == 4


def _fail_at_3(state: TrainState) -> None:
    if state.now.update == 3:
        raise ValueError("broken off")


def test_a_run_that_asked_to_stop_stays_stopped_when_its_closing_tick_failed(
    tmp_path: Path,
) -> None:
    stop = Callback("stop", after_update=lambda s: Stop("enough") if s.now.update == 2 else None)
    failing = Callback("closing", after_training=lambda s: 1 / 0)
    with pytest.raises(HookError, match="ZeroDivisionError"):
        train(tmp_path, stop, failing)
    data = samples(12)
    final = train(tmp_path, stop, data=data, resume="auto")
    assert (data.served, final.now.update, final.reason) == ([], 2, "enough")


def test_a_run_killed_after_its_closing_checkpoint_is_done_and_makes_no_tick_again(
    tmp_path: Path,
) -> None:
    counting = Callback(
        "counting",
        init=lambda state: 0,
        on_schedule=lambda state, n: (n + 1, Log({"closings": n + 1})),
        schedule=once_at_end,
        writes=("closings",),
    )
    given: Any = {"until": {"updates": 5}}  # where nothing but the closing tick saves
    whole = train(tmp_path, counting, **given)
    rows = journal(tmp_path / "1")
    status = read_status(tmp_path / "1")
    write_status(tmp_path / "1", **{**status, "state": "running"})  # as the kill left it
    data = samples(12)
    final = train(tmp_path, counting, data=data, resume="auto", **given)
    assert journal(tmp_path / "1") == rows
    assert (final.metrics["closings"], final.memories["counting"], data.served) == (1, 1, [])
    assert (final.reason, final.event, final.now.update) == (whole.reason, "end", 5)
    assert read_status(tmp_path / "1")["state"] == "done"


def test_a_run_killed_after_its_closing_checkpoint_goes_on_where_the_limit_has_moved(
    tmp_path: Path,
) -> None:
    train(tmp_path, until={"updates": 5})
    write_status(tmp_path / "1", **{**read_status(tmp_path / "1"), "state": "running"})
    assert train(tmp_path, resume="auto", until={"updates": 8}).now.update == 8
    assert [row["tick"] for row in journal(tmp_path / "1")].count("end") == 1


def test_a_failed_run_keeps_its_best_checkpoint_over_the_resume(tmp_path: Path) -> None:
    values = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 1.5}
    told = Callback(
        "told", after_update=lambda s: Log({"loss/x": values[s.now.update]}), writes=("loss/x",)
    )
    best = hooks.best_checkpoint(metric="loss/x", mode="min")
    broken(tmp_path, 4, told, best)
    train(tmp_path, told, best, resume="auto")
    claims = [
        (path.name, claim.value)
        for path in checkpoints(tmp_path / "1")
        for claim in read_manifest(path).claims
        if claim.keep_best is not None
    ]
    assert claims == [("step-2", 1.0)]


def test_the_newest_checkpoint_is_the_runs_last_tick(tmp_path: Path) -> None:
    broken(tmp_path, 4)
    train(tmp_path, resume="auto")
    found = newest(tmp_path / "1" / "checkpoints")
    assert found is not None
    assert found.manifest.progress["update"] == read_status(tmp_path / "1")["update"] == 6
