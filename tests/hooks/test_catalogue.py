"""What holds of every callback of the catalogue, and what its entry in YAML may say."""

import json
from pathlib import Path
from typing import Any

import pytest

import noether
from noether import Callback, Log, TrainState, every, hooks
from noether.config.entries import EVERY, read_entry
from noether.config.structure import parameters
from noether.dataflow import matches, needed, writes
from noether.testing import check_callback
from noether.testing.traces import trace
from tests.hooks.cases import ALL, Case
from tests.strategies import net, samples, sgd, squared_error_and_outputs

ALLOWED = ("tests.sample_project",)
BOTH = [(name, how) for name in hooks.__all__ for how in ("required", "full")]


EITHER = ("divergence_stop", "images", "stop_at", "threshold_stop")


def entry(name: str, how: str) -> dict[str, Any]:
    return {"kind": name, **getattr(ALL[name], how)}


def test_the_whole_catalogue_is_here() -> None:
    assert sorted(ALL) == hooks.__all__


@pytest.mark.parametrize("name", [name for name in hooks.__all__ if not ALL[name].observes])
def test_a_built_in_breaks_no_law(name: str) -> None:
    case: Case = ALL[name]
    given: Any = {"results": case.results, "metrics": case.metrics, "raises": case.raises}
    check_callback(case.callback, max_examples=12, **given)


@pytest.mark.parametrize(("name", "how"), BOTH)
def test_a_built_in_is_made_from_yaml(name: str, how: str) -> None:
    callback, mistakes = read_entry(entry(name, how), ALLOWED)
    if how == "full" and name in EITHER:  # not all of its options go together
        assert [mistake for mistake in mistakes if "expected one of" not in str(mistake)] == []
        return
    assert mistakes == []
    assert callback is not None
    assert callback.origin is not None
    assert callback.origin.qualname == name
    assert callback.name == getattr(ALL[name], how).get("name", callback.name)


@pytest.mark.parametrize("name", hooks.__all__)
def test_its_full_entry_says_every_option_otherwise_than_the_default(name: str) -> None:
    taken = parameters(getattr(hooks, name))
    timed = {*EVERY, *({"schedule"} - taken.keys())}
    said = {key: value for key, value in ALL[name].full.items() if key not in timed}
    excused = {"schedule"} if EVERY.keys() & ALL[name].full.keys() else set()
    assert sorted((taken.keys() | {"name"}) - excused) == sorted(said)
    usual = {key for key, value in said.items() if key in taken and value == taken[key].default}
    assert usual == set(ALL[name].usual)


@pytest.mark.parametrize("name", hooks.__all__)
def test_it_refuses_an_option_that_it_does_not_have(name: str) -> None:
    _, mistakes = read_entry({**entry(name, "required"), "paitence": 1}, ALLOWED)
    assert any("paitence" in str(mistake) for mistake in mistakes)


# ---------------------------------------------------------------- in real runs


def reporter(case: Case) -> Callback:
    """Reports what the callback reads, each time another value; nothing in every third update."""
    own = (*writes(case.callback), *(name for c in case.beside for name in writes(c)))
    wanted = (*needed(case.callback), *case.metrics)
    metrics = tuple(sorted(name for name in set(wanted) if not matches(name, own)))

    def report(state: TrainState) -> Log | None:
        update = state.now.update
        return Log(dict.fromkeys(metrics, 10.0 / update + update % 2)) if update % 3 else None

    return Callback("reporter", after_update=report, reads=(), writes=metrics)


def train(name: str, folder: Path, **options: Any) -> TrainState:
    """Eight updates with a strict eye on the callback, each of them saved."""
    case = ALL[name]
    saving = hooks.checkpoint(keep_last=None, schedule=every(updates=1)).named("saving")
    return noether.train(
        net(norm=True),
        samples(15),
        loss=squared_error_and_outputs,
        optimizer=sgd,
        until={"epochs": 2},
        batch_size=4,
        defaults=False,
        callbacks=[reporter(case), *case.beside, case.callback, saving],
        datasets={"val": samples(6, seed=2), **case.datasets},
        run_dir=folder,
        strict=True,
        **options,
    )


def asked(folder: Path, name: str) -> list[Any]:
    """What the callback asked for after the opening tick, by update."""
    rows = map(json.loads, (folder / "1" / "journal.jsonl").read_text().splitlines())
    found = [(r["update"], r["tick"], [e for e in r["effects"] if e["by"] == name]) for r in rows]
    return [each for each in found if each[2] and each[1] != "start"]


@pytest.mark.parametrize("name", hooks.__all__)
def test_a_built_in_is_pure_in_a_run_and_resumes_as_if_unbroken(name: str, tmp_path: Path) -> None:
    whole = train(name, tmp_path / "whole")
    assert whole.now.update > 3
    begun = tmp_path / "whole" / "1" / "checkpoints" / "step-3"
    resumed = train(name, tmp_path / "resumed", resume=begun)
    own = ALL[name].callback.name
    after = [each for each in asked(tmp_path / "whole", own) if each[0] > 3]
    assert [each[:2] for each in asked(tmp_path / "resumed", own)] == [each[:2] for each in after]
    if not ALL[name].timed:
        assert asked(tmp_path / "resumed", own) == after
        assert trace(resumed.memories.get(own)) == trace(whole.memories.get(own))
        assert trace(resumed.metrics) == trace(whole.metrics)
