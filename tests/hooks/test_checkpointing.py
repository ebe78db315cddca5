import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import noether
from noether import (
    Callback,
    ConfigurationError,
    HookError,
    Load,
    Log,
    Progress,
    Save,
    TrainState,
    every,
    first,
    hooks,
    once_at_end,
)
from noether.checkpoint.manifest import Manifest, candidates
from noether.fold import begin, compiled, tick
from noether.journal import read
from noether.rundir import read_status, write_status
from noether.turn import Carry, Fold
from tests.strategies import net, samples, sgd, squared_error


def reporter(values: list[float]) -> Callback:
    """Reports one value of `score` in each update."""
    return Callback(
        "reporter",
        after_update=lambda state: Log({"score": values[state.now.update - 1]}),
        writes=("score",),
    )


def train(callbacks: Any, run_dir: Path | None, *, model: Any = None, **options: Any) -> TrainState:
    """A run of three updates an epoch."""
    given = {"loss": squared_error, "optimizer": sgd, "batch_size": 4, "defaults": False}
    return noether.train(
        model or net(), samples(12), callbacks=callbacks, run_dir=run_dir, **{**given, **options}
    )


def stored(run_dir: Path) -> list[Manifest]:
    found = candidates(run_dir / "1" / "checkpoints")
    return sorted(found.manifests, key=lambda manifest: manifest.update)


def kept(run_dir: Path, tag: str | None = None) -> list[int]:
    """The updates of the checkpoints that are there, of those with `tag`."""
    return [
        manifest.update
        for manifest in stored(run_dir)
        if tag is None or tag in {claim.tag for claim in manifest.claims}
    ]


# ---------------------------------------------------------------- checkpoint


@pytest.mark.parametrize(
    ("updates", "keep_last", "left"),
    [
        (9, 2, [6, 9]),
        (8, 2, [6, 8]),
        (9, 1, [9]),
        (8, None, [3, 6, 8]),
        (9, None, [3, 6, 9]),
        (2, 2, [2]),
    ],
)
def test_by_default_each_epoch_and_the_end_are_saved_and_the_newest_stay(
    tmp_path: Path, updates: int, keep_last: int | None, left: list[int]
) -> None:
    train([hooks.checkpoint(keep_last=keep_last)], tmp_path, until={"updates": updates})
    assert kept(tmp_path) == kept(tmp_path, "last") == left


def test_a_checkpoint_holds_the_weights_of_its_update(tmp_path: Path) -> None:
    model = net()
    train([hooks.checkpoint()], tmp_path, model=model, until={"updates": 3})
    reloaded = net()
    train([hooks.checkpoint()], tmp_path, model=reloaded, until={"updates": 3}, resume="auto")
    for one, other in zip(model.parameters(), reloaded.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("keep_last", [0, -1])
def test_keeping_no_checkpoint_is_refused(keep_last: int) -> None:
    with pytest.raises(ValueError, match="keep_last"):
        hooks.checkpoint(keep_last=keep_last)


@pytest.mark.parametrize(
    "made",
    [hooks.checkpoint(), hooks.best_checkpoint(metric="score", mode="max")],
)
def test_saving_without_a_run_directory_is_refused_by_name(made: Callback) -> None:
    with pytest.raises(ConfigurationError, match=f"'{made.name}'"):
        train([reporter([1.0]), made], None, until={"updates": 1})
    assert made.critical


def test_what_keep_every_names_is_saved_too_and_stays_for_good(tmp_path: Path) -> None:
    made = hooks.checkpoint(keep_last=1, keep_every=every(updates=4), schedule=every(updates=3))
    train([made], tmp_path, until={"updates": 16})
    assert kept(tmp_path, "kept") == [4, 8, 12, 16]
    assert kept(tmp_path) == [4, 8, 12, 16]


def test_what_keep_every_names_is_the_same_over_a_resume(tmp_path: Path) -> None:
    made = hooks.checkpoint(keep_last=1, keep_every=every(updates=4), schedule=every(updates=3))
    for updates in (6, 7, 11, 13):
        train([made], tmp_path, until={"updates": updates}, resume="auto", model=net())
        (tmp_path / "1" / "status.json").unlink()  # as if it were to go on
    assert kept(tmp_path) == [4, 8, 12]


def test_a_keep_every_that_remembers_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_every is first"):
        hooks.checkpoint(keep_every=first(2, every(epochs=1)))


# ---------------------------------------------------------------- best_checkpoint


@pytest.mark.parametrize(
    ("values", "options", "left"),
    [
        ([3.0, 1.0, 2.0, 1.0], {"mode": "min"}, [2]),
        ([3.0, 1.0, 2.0, 4.0], {"mode": "max"}, [4]),
        ([3.0, 1.0, 2.0, 1.0], {"mode": "min", "keep_best": 2}, [2, 4]),
        ([2.0, 2.0, 2.0, 2.0], {"mode": "max", "keep_best": 2}, [1, 2]),
        ([math.nan, 5.0, -math.inf, math.nan], {"mode": "min"}, [2]),
        ([3.0, 2.75, 2.5, 2.25], {"mode": "min", "min_delta": 0.5}, [4]),
        ([3.0, 2.5, 2.5, 2.5], {"mode": "min", "min_delta": 0.5}, [1]),
        ([1.0, 4.0, 3.0, 9.0], {"mode": "max", "schedule": every(updates=3)}, [3]),
    ],
)
def test_the_best_checkpoints_stay_under_the_metrics_tag(
    tmp_path: Path, values: list[float], options: dict[str, Any], left: list[int]
) -> None:
    best = hooks.best_checkpoint(metric="score", **options)
    train([best, reporter(values)], tmp_path, until={"updates": len(values)})
    assert kept(tmp_path, "best_model.score") == left


def test_the_weights_of_the_best_can_be_loaded_at_the_end(tmp_path: Path) -> None:
    weights: dict[int, dict[str, torch.Tensor]] = {}

    def keep(state: TrainState) -> None:
        weights[state.now.update] = {n: p.clone() for n, p in state.model.parameters.items()}

    callbacks = [
        reporter([5.0, 2.0, 3.0, 4.0]),
        Callback("keep", after_update=keep),
        hooks.checkpoint(),
        hooks.best_checkpoint(metric="score", mode="min"),
        once_at_end(lambda state: Load("best_model.score")).named("load"),
    ]
    model = net()
    train(callbacks, tmp_path, model=model, until={"updates": 4})
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[2][name])
        assert not torch.equal(parameter, weights[4][name])
    for state in ("done", "running"):  # killed after its last commit
        write_status(tmp_path / "1", **{**read_status(tmp_path / "1"), "state": state})
        again = net()
        train(callbacks, tmp_path, model=again, until={"updates": 4}, resume="auto")
        for name, parameter in again.named_parameters():
            assert torch.equal(parameter, weights[2][name])


def test_best_and_regular_checkpoints_of_one_tick_are_one_and_each_rule_keeps_its_own(
    tmp_path: Path,
) -> None:
    callbacks = [
        reporter([5.0, 4.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        hooks.best_checkpoint(metric="score", mode="min"),
        hooks.checkpoint(keep_last=1),
    ]
    train(callbacks, tmp_path, until={"epochs": 3})
    assert kept(tmp_path, "best_model.score") == [3]
    assert kept(tmp_path) == [3, 9]


def test_slashes_in_the_metric_become_dots_in_the_tag() -> None:
    made = hooks.best_checkpoint(metric="loss/val/total")
    step: Any = made.on_schedule
    state = TrainState(
        "update",
        Progress(),
        Progress(update=1),
        metrics={"loss/val/total": 2.0},
        fresh=frozenset({"loss/val/total"}),
    )
    assert made.init is not None
    memory, effects = step(state, made.init(state))
    (save,) = [effect for effect in effects if isinstance(effect, Save)]
    assert (save.tag, save.value, save.mode) == ("best_model.loss.val.total", 2.0, "min")
    assert made.reads == ("loss/val/total",)
    assert step(state, memory)[1] == []


def saved(fold: Fold, values: list[float | None]) -> list[int]:
    """The updates at which a best checkpoint is asked for; None: nothing is reported."""
    start = TrainState("start", Progress(), Progress())
    carry, found = begin(fold, start, Carry()).carry, []
    for update in range(1, len(values) + 1):
        state = TrainState("update", Progress(update=update - 1), Progress(update=update))
        outcome = tick(fold, state, carry, lambda callbacks, memories: {})
        carry = outcome.carry
        assert not outcome.failures
        if any(isinstance(r.effect, Save) for r in outcome.requests):
            found.append(update)
    return found


@given(
    values=st.lists(
        st.none() | st.integers(-4, 4).map(float) | st.sampled_from([math.nan, math.inf, -math.inf])
    ),
    keep=st.integers(1, 3),
    mode=st.sampled_from(["min", "max"]),
)
def test_a_value_is_saved_when_fewer_than_k_earlier_ones_are_as_good(
    values: list[float | None], keep: int, mode: Any
) -> None:
    def report(state: TrainState) -> Log | None:
        value = values[state.now.update - 1]
        return None if value is None else Log({"score": value})

    best = hooks.best_checkpoint(metric="score", mode=mode, keep_best=keep)
    fold = compiled((best, Callback("reporter", after_update=report, writes=("score",))))
    sign = 1 if mode == "min" else -1
    expected = [
        position
        for position, value in enumerate(values, start=1)
        if value is not None
        and math.isfinite(value)
        and sum(
            1
            for earlier in values[: position - 1]
            if earlier is not None and math.isfinite(earlier) and sign * earlier <= sign * value
        )
        < keep
    ]
    assert saved(fold, values) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "score"},
        {"metric": "score", "mode": "best"},
        {"metric": "loss", "keep_best": 0},
        {"metric": "loss", "min_delta": -0.1},
        {"metric": "loss", "min_delta": math.nan},
    ],
)
def test_a_bad_option_is_refused_when_it_is_given(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"mode|keep_best|min_delta"):
        hooks.best_checkpoint(**options)


def test_a_metric_that_nobody_writes_is_refused_before_training(tmp_path: Path) -> None:
    best = hooks.best_checkpoint(metric="scope", mode="max")
    with pytest.raises(ConfigurationError, match=r"Did you mean score\?"):
        train([reporter([1.0]), best], tmp_path, until={"updates": 1})
    assert not (tmp_path / "1").exists()


def test_a_resume_that_keeps_fewer_saves_none_that_is_worse(tmp_path: Path) -> None:
    values = [3.0, 1.0, 2.0, 5.0, 0.5]

    def run(keep: int, updates: int) -> None:
        best = hooks.best_checkpoint(metric="score", mode="min", keep_best=keep)
        pipeline = [reporter(values), best, hooks.checkpoint(schedule=every(updates=3))]
        train(pipeline, tmp_path, until={"updates": updates}, resume="auto")
        (tmp_path / "1" / "status.json").unlink()

    def asked() -> list[int]:
        return [
            row["update"]
            for row in read(tmp_path / "1" / "journal.jsonl")
            for effect in row["effects"]
            if effect["kind"] == "save" and effect["tag"] == "best_model.score"
        ]

    run(3, 3)
    assert asked() == [1, 2, 3]
    run(1, 5)
    assert asked() == [1, 2, 3, 5]


def test_the_best_of_several_is_loaded_at_the_end(tmp_path: Path) -> None:
    """Not the newest of them, which is worse."""
    seen: list[torch.Tensor] = []

    def note(state: TrainState) -> None:
        seen.append(state.model.parameters["0.weight"].detach().clone())

    model = net()
    pipeline = [
        reporter([3.0, 1.0, 2.0, 2.5]),
        Callback("note", after_update=note),
        hooks.best_checkpoint(metric="score", mode="min", keep_best=2),
        hooks.load_best_at_end(metric="score", mode="min"),
    ]
    train(pipeline, tmp_path, model=model, until={"updates": 4})
    assert kept(tmp_path, "best_model.score") == [2, 3]
    assert torch.equal(model.get_parameter("0.weight"), seen[1])


# ---------------------------------------------------------------- tolerances


@settings(max_examples=25)
@given(
    values=st.lists(st.integers(-3, 3).map(float) | st.just(math.nan), min_size=1, max_size=12),
    tolerance=st.integers(1, 3),
    keep=st.integers(1, 2),
)
def test_a_tolerance_keeps_what_early_stopping_would_have_left(
    values: list[float], tolerance: int, keep: int
) -> None:
    """The oracle is a run that early stopping ends, and the best that was saved until then."""

    def saves(*callbacks: Callback, tag: str) -> list[int]:
        found: list[int] = []
        fold = compiled((*callbacks, reporter(values)))
        carry = begin(fold, TrainState("start", Progress(), Progress()), Carry()).carry
        for update in range(1, len(values) + 1):
            state = TrainState("update", Progress(update=update - 1), Progress(update=update))
            outcome = tick(fold, state, carry, lambda callbacks, memories: {})
            carry = outcome.carry
            effects = [request.effect for request in outcome.requests]
            found += [update for e in effects if isinstance(e, Save) and e.tag == tag]
            if carry.stops:
                break
        return found

    options: Any = {"metric": "score", "mode": "min"}
    kept_by_tolerance = saves(
        hooks.best_checkpoint(**options, keep_best=keep, tolerances=[tolerance, 9]),
        tag=f"best_model.score.tolerance={tolerance}",
    )
    stopper = hooks.early_stopping(**options, patience=tolerance + 1, check_finite=False)
    assert kept_by_tolerance == saves(
        hooks.best_checkpoint(**options), stopper, tag="best_model.score"
    )


def test_what_a_tolerance_kept_stays_also_over_a_resume(tmp_path: Path) -> None:
    values = [5.0, 4.0, 6.0, 7.0, 1.0, 2.0]
    best = hooks.best_checkpoint(metric="score", mode="min", tolerances=[1])
    for updates in (3, 6):
        train([reporter(values), best], tmp_path, until={"updates": updates}, resume="auto")
        (tmp_path / "1" / "status.json").unlink()
    assert kept(tmp_path) == [2, 5]
    assert kept(tmp_path, "best_model.score.tolerance=1") == [2]


@pytest.mark.parametrize("tolerances", [[0], [1, 1], [-2]])
def test_tolerances_are_different_numbers_from_one_on(tolerances: list[int]) -> None:
    with pytest.raises(ValueError, match="tolerances"):
        hooks.best_checkpoint(metric="loss", tolerances=tolerances)


# ---------------------------------------------------------------- weights alone


def exported(run_dir: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.stem: load_file(path) for path in (run_dir / "1" / "weights").glob("*")}


def test_weights_alone_are_kept_and_the_newest_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    model = net()
    made = hooks.checkpoint(weights_only=True, models=["0"])
    train([made], tmp_path, model=model, until={"updates": 8})
    assert kept(tmp_path) == [8]
    found = exported(tmp_path)
    assert sorted(found) == ["E1_U3_S12", "E2_U6_S24", "E2_U8_S32"]
    assert found["E2_U8_S32"].keys() == {"0.weight", "0.bias"}
    assert torch.equal(found["E2_U8_S32"]["0.weight"], model.state_dict()["0.weight"])


def test_an_export_is_made_beside_each_checkpoint(tmp_path: Path) -> None:
    train([hooks.checkpoint(export=True)], tmp_path, until={"updates": 6})
    assert kept(tmp_path) == [3, 6]
    assert sorted(exported(tmp_path)) == ["E1_U3_S12", "E2_U6_S24"]


def test_the_best_weights_are_exported_without_what_is_frozen(tmp_path: Path) -> None:
    model = net()
    model.get_parameter("0.bias").requires_grad_(False)
    best = hooks.best_checkpoint(metric="score", mode="min", save_frozen_weights=False)
    train([reporter([3.0, 1.0, 2.0]), best], tmp_path, model=model, until={"updates": 3})
    assert exported(tmp_path)["best_model.score"].keys() == {"0.weight", "3.weight", "3.bias"}


def test_parts_that_are_not_there_are_told_at_the_start(tmp_path: Path) -> None:
    for made in (
        hooks.checkpoint(export=True, models=["encoder"]),
        hooks.best_checkpoint(metric="score", mode="min", models=["encoder"]),
    ):
        with pytest.raises(HookError, match="no part 'encoder'; it has 0, 3"):
            train([reporter([1.0]), made], tmp_path, until={"updates": 1})
    with pytest.raises(ValueError, match="models is given, but a checkpoint holds the whole"):
        hooks.checkpoint(models=["0"])


# ---------------------------------------------------------------- load_best_at_end


def test_the_model_has_the_best_weights_at_the_end_and_the_last_are_saved(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def note(state: TrainState) -> None:
        seen.append({n: p.detach().clone() for n, p in state.model.parameters.items()})

    model = net()
    pipeline = [
        reporter([3.0, 1.0, 2.0, 2.0]),
        Callback("note", after_update=note),
        hooks.load_best_at_end(metric="score", mode="min"),
        hooks.checkpoint(),
    ]
    train(pipeline, tmp_path, model=model, until={"updates": 4})
    assert all(torch.equal(p, seen[1][n]) for n, p in model.named_parameters())
    last = candidates(tmp_path / "1" / "checkpoints").manifests[0]
    assert last.update == 4
    saved_last = torch.load(last.directory / "weights.pt", weights_only=True)
    assert all(torch.equal(saved_last[name], seen[3][name]) for name in seen[3])


def test_without_a_finite_value_the_last_weights_stay(tmp_path: Path) -> None:
    loading = hooks.load_best_at_end(metric="score", mode="min")
    final = train([reporter([math.nan] * 3), loading], tmp_path, until={"updates": 3})
    assert final.reason == "reached 3 updates"
