from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import noether
import noether.fold
from noether import Callback, TrainState, at, every, hook, hooks, once_at_end
from noether.journal import read
from noether.testing import check_callback
from tests.strategies import net, samples, sgd, squared_error

SEEN: list[dict[str, torch.Tensor]] = []
"""What the loss function gave beside the loss, micro-batch by micro-batch."""


def loss(model: Any, batch: Any) -> Any:
    """Squared errors; a number for each sample, one for the batch, and a name within a name."""
    inputs, targets = batch
    errors = (model(inputs) - targets).pow(2)
    outputs = {"error": errors.amax(-1), "head/size": errors.abs().mean(), "head/bias": errors}
    SEEN.append({name: output.detach().double() for name, output in outputs.items()})
    return errors.mean(), outputs


@pytest.fixture(autouse=True)
def _forget() -> None:
    SEEN.clear()


def train(*callbacks: Any, n: int = 8, **options: Any) -> TrainState:
    given = {"loss": loss, "optimizer": sgd, "until": {"epochs": 2}, "batch_size": 4}
    given |= {"accumulate": 2, "defaults": False, "callbacks": list(callbacks)}
    return noether.train(net(), samples(n), **{**given, **options})


def logged(run_dir: Path) -> list[tuple[int, Any]]:
    """The metrics of each tick that has any, by update."""
    rows = read(run_dir / "1" / "journal.jsonl")
    return [(row["update"], row["metrics"]) for row in rows if row["metrics"]]


def mean(name: str, seen: list[dict[str, torch.Tensor]]) -> float:
    """The mean of all numbers that an output had."""
    return float(torch.cat([outputs[name].flatten() for outputs in seen]).mean())


# ---------------------------------------------------------------- what is logged


@settings(max_examples=15)
@given(n=st.integers(1, 9), every_n=st.integers(1, 4), accumulate=st.sampled_from([1, 2, 4]))
def test_a_mean_is_over_all_numbers_since_the_last_firing(
    n: int, every_n: int, accumulate: int
) -> None:
    SEEN.clear()
    found: dict[int, dict[str, float]] = {}
    parts: dict[int, int] = {}

    def note(state: TrainState) -> None:
        found[state.now.update] = dict(state.metrics)
        parts[state.now.update] = len(SEEN)

    made = every(updates=every_n)(hooks.track_outputs(keys=["error", "head/bias"]))
    watcher = Callback("watcher", on_schedule=note, reads=None)
    train(made, watcher, n=n, accumulate=accumulate)
    last = 0
    for update in range(every_n, max(found) + 1, every_n):
        seen = SEEN[parts[last] : parts[update]]
        assert found[update] == pytest.approx(
            {f"{name}/U{every_n}": mean(name, seen) for name in ("error", "head/bias")}
        )
        last = update


def test_last_is_the_firing_updates_last_micro_batch(tmp_path: Path) -> None:
    made = every(updates=3)(hooks.track_outputs(keys=["error"], reduce="last"))
    train(made, run_dir=tmp_path)
    assert logged(tmp_path) == [(3, {"error/U3": pytest.approx(mean("error", SEEN[5:6]))})]


def test_patterns_are_parts_of_names_and_what_two_of_them_match_counts_once(
    tmp_path: Path,
) -> None:
    made = hooks.track_outputs(keys=["head/size"], patterns=["head", "size"])
    train(every(updates=4)(made), run_dir=tmp_path)
    ((update, metrics),) = logged(tmp_path)
    assert update == 4
    assert metrics == pytest.approx(
        {f"{name}/U4": mean(name, SEEN) for name in ("head/size", "head/bias")}
    )


def test_an_output_that_is_no_mapping_is_called_outputs() -> None:
    def single(model: Any, batch: Any) -> Any:
        outputs = model(batch[0])
        return (outputs - batch[1]).pow(2).mean(), outputs

    final = train(every(epochs=1)(hooks.track_outputs(keys=["outputs"])), loss=single)
    assert list(final.metrics) == ["outputs/E1"]


def test_a_run_that_is_resumed_within_an_interval_logs_what_the_unbroken_one_does(
    tmp_path: Path,
) -> None:
    def interrupt(state: TrainState) -> None:
        raise KeyboardInterrupt

    def run(folder: Path, *more: Callback) -> Any:
        made = every(updates=4)(hooks.track_outputs(patterns=["e"]))
        saver = hooks.checkpoint(schedule=every(updates=2))
        train(made, saver, *more, run_dir=folder, resume="auto")
        return logged(folder)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", at(updates=4)(hook(point="before_update")(interrupt)))
    assert run(tmp_path / "broken") == run(tmp_path / "whole")


@pytest.mark.parametrize("reduce", ["mean", "last"])
def test_updates_that_are_skipped_are_left_out(tmp_path: Path, reduce: Any) -> None:
    def spoilt(model: Any, batch: Any) -> Any:
        total, outputs = loss(model, batch)
        bad = len(SEEN) in (3, 4)
        return total * float("nan") if bad else total, outputs

    made = every(updates=2)(hooks.track_outputs(keys=["error"], reduce=reduce))
    train(made, loss=spoilt, on_nonfinite="skip", run_dir=tmp_path)
    of_two, of_four = (SEEN[:2], SEEN[4:8]) if reduce == "mean" else ([], SEEN[7:8])
    expected = [(2, of_two), (4, of_four)]
    assert logged(tmp_path) == [
        (update, {"error/U2": pytest.approx(mean("error", seen))})
        for update, seen in expected
        if seen
    ]


def test_the_closing_tick_logs_the_rest(tmp_path: Path) -> None:
    made = (every(updates=3) | once_at_end)(hooks.track_outputs(keys=["error"]))
    train(made, run_dir=tmp_path)
    found = dict(logged(tmp_path))
    assert found[3] == {"error/track_outputs": pytest.approx(mean("error", SEEN[:6]))}
    assert found[4] == {"error/track_outputs": pytest.approx(mean("error", SEEN[6:]))}


# ---------------------------------------------------------------- console and files


def test_verbose_says_what_is_logged_and_else_nothing_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for verbose in (True, False):
        final = train(every(updates=4)(hooks.track_outputs(keys=["error"], verbose=verbose)))
        line = f"error {final.metrics['error/U4']:.4g}"
        assert (line in capsys.readouterr().out) is verbose


@pytest.mark.parametrize("reduce", ["mean", "last"])
def test_outputs_are_written_with_their_interval_and_counts(tmp_path: Path, reduce: Any) -> None:
    made = hooks.track_outputs(
        keys=["head/bias"], reduce=reduce, save_output=True, log_output=False
    )
    final = train(every(updates=2)(made), run_dir=tmp_path)
    assert final.metrics == {}
    folder = tmp_path / "1" / "outputs"
    names = ["update_outputs.head.bias_U2_E1_U2_S8.pt", "update_outputs.head.bias_U2_E2_U4_S16.pt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    value = torch.load(folder / names[1], weights_only=True)
    if reduce == "mean":
        assert float(value) == pytest.approx(mean("head/bias", SEEN[4:]))
    else:
        assert torch.allclose(value.double(), SEEN[-1]["head/bias"])


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize("reduce", ["mean", "last"])
@pytest.mark.parametrize(
    ("options", "given", "told"),
    [
        ({"keys": ["eror"]}, loss, ["'eror'", "error", "head/size"]),
        ({"patterns": ["foot"]}, loss, ["foot", "error", "head/size"]),
        ({"keys": ["error"]}, squared_error, ["'error'", "none"]),
    ],
)
def test_what_is_not_there_is_named_with_what_is_and_the_run_goes_on(
    capsys: pytest.CaptureFixture[str], options: Any, given: Any, told: list[str], reduce: Any
) -> None:
    made = every(updates=1)(hooks.track_outputs(**options, reduce=reduce))
    final = train(made, loss=given)
    assert final.now.update == 4
    said = capsys.readouterr().err
    assert all(word in said for word in ("'track_outputs'", *told)), said


def test_an_output_without_numbers_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def worded(model: Any, batch: Any) -> Any:
        return squared_error(model, batch), {"words": ["a", "b"]}

    train(every(updates=1)(hooks.track_outputs(keys=["words"])), loss=worded)
    assert "output 'words'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "keys and patterns"),
        ({"keys": [], "patterns": ()}, "keys and patterns"),
        ({"keys": "error"}, "keys is 'error'"),
        ({"patterns": [1]}, "patterns"),
        ({"keys": ["a"], "reduce": "sum"}, "reduce"),
        ({"keys": ["a"], "log_output": False}, "save_output"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        hooks.track_outputs(**options)


def test_the_last_output_breaks_no_law_of_callbacks() -> None:
    made = hooks.track_outputs(keys=["outputs"], reduce="last", verbose=True, save_output=True)
    check_callback(every(updates=2)(made), max_examples=15)


def test_a_name_with_the_signs_of_a_glob_is_only_itself() -> None:
    made = every(updates=1)(hooks.track_outputs(keys=["a[b]*"]))
    fine = Callback("fine", on_schedule=lambda state: None, writes=("ab/U1", "a[b]x/U1"))
    assert len(noether.fold.compiled((made, fine)).pipeline) == 2


def test_an_evaluation_does_not_ask_it_nor_the_best_metric() -> None:
    found = noether.evaluate(
        net(),
        loss=loss,
        datasets={"val": samples(3)},
        callbacks=[
            hooks.offline_loss(dataset="val"),
            hooks.track_outputs(keys=["nobody"]),
            hooks.best_metric(source="loss/val/total", targets=["loss/val/total"]),
        ],
    )
    assert list(found.metrics) == ["loss/val/total"]
