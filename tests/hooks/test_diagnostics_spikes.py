import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import noether
from noether import Callback, Log, Progress, Say, TrainState, every, hooks
from noether.hooks.diagnostics.spikes import _score
from noether.testing import asked
from tests.strategies import net, samples, squared_error

KEY = "loss_spike/score"


def states(values: list[float], skipped: frozenset[int] = frozenset()) -> list[TrainState]:
    """Updates with these losses."""
    return [
        TrainState(
            "update",
            Progress(update=update - 1),
            Progress(update=update),
            performed=update not in skipped,
            losses={"total": torch.tensor(value), "fit": torch.tensor(value) / 2},
        )
        for update, value in enumerate(values, 1)
    ]


def scores(made: Callback, values: list[float], **options: Any) -> dict[int, float]:
    """What is logged, by update."""
    effects = asked(made, states(values, **options))
    logged = [(u, e) for u, each in enumerate(effects, 1) for e in each if isinstance(e, Log)]
    return {update: float(log.metrics[KEY]) for update, log in logged}


def told(made: Callback, values: list[float], kind: type = Say) -> list[int]:
    """The updates in which a spike is told."""
    effects = asked(made, states(values))
    return [u for u, each in enumerate(effects, 1) if any(isinstance(e, kind) for e in each)]


def expected(values: list[float], window: int, warmup: int) -> dict[int, float]:
    """The score of each update after the warm-up, by numpy."""
    found = {}
    for place in range(warmup, len(values)):
        past = numpy.array(values[max(place - window, 0) : place])
        past = past[numpy.isfinite(past)]
        if not len(past):
            found[place + 1] = math.nan
            continue
        median = numpy.median(past)
        deviation = max(1.4826 * numpy.median(abs(past - median)), 1e-3 * abs(median))
        above = values[place] - median
        with numpy.errstate(divide="ignore", invalid="ignore"):
            unmoved = deviation == 0 and math.isfinite(above)
            found[place + 1] = 0.0 if unmoved else float(above / deviation)
    return found


numbers = st.integers(-20, 20).map(lambda n: n / 4) | st.sampled_from([math.nan, math.inf])


@settings(max_examples=60)
@given(
    values=st.lists(numbers, max_size=25),
    window=st.integers(3, 8),
    warmup=st.integers(3, 6),
    interval=st.integers(1, 4),
)
def test_the_largest_score_since_the_last_firing_is_logged(
    values: list[float], window: int, warmup: int, interval: int
) -> None:
    made = every(updates=interval)(hooks.loss_spike(window=window, warmup=warmup))
    each = expected(values, window, warmup)
    largest = {}
    for update in range(interval, len(values) + 1, interval):
        found = [each[u] for u in range(update - interval + 1, update + 1) if u in each]
        if found:
            known = [score for score in found if not math.isnan(score)]
            largest[update] = max(known, default=math.nan)
    assert scores(made, values) == pytest.approx(largest, rel=1e-6, nan_ok=True)


QUIET = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0]


def test_what_is_skipped_is_no_loss() -> None:
    made = every(updates=1)(hooks.loss_spike(window=4, warmup=3))
    values = [*QUIET[:4], 70.0, *QUIET[4:]]
    found = scores(made, values, skipped=frozenset({5}))
    rest = scores(made, QUIET)
    assert list(found) == [4, 6, 7]
    assert list(found.values()) == list(rest.values())


def test_a_spike_is_told_and_the_next_ones_after_the_cooldown() -> None:
    values = [*QUIET, 9.0, 9.0, 1.0, 9.0, 1.0, 9.0]
    assert told(every(updates=1)(hooks.loss_spike(warmup=5)), values) == [7, 8, 10, 12]
    assert told(every(updates=1)(hooks.loss_spike(warmup=5, cooldown=3)), values) == [7, 12]
    assert told(every(updates=1)(hooks.loss_spike(warmup=5, factor=1e4)), values) == []
    assert told(every(updates=3)(hooks.loss_spike(warmup=5)), [*QUIET, 9.0, 1.0, 1.0]) == [9]


def test_a_fall_is_no_spike_and_an_infinite_loss_is_one() -> None:
    made = every(updates=1)(hooks.loss_spike(warmup=5))
    assert told(made, [*QUIET, -90.0]) == []
    assert told(made, [*QUIET, math.nan]) == []
    assert told(made, [*QUIET, math.inf]) == [7]


def leaping(update: int) -> Any:
    """A loss function that leaps in one update."""
    calls: list[int] = []

    def loss(model: Any, batch: Any) -> Tensor:
        calls.append(1)
        return squared_error(model, batch) * (1000 if len(calls) == update else 1)

    return loss


def train(*callbacks: Callback, **options: Any) -> TrainState:
    given: dict[str, Any] = {"loss": squared_error, "optimizer": gentle, "batch_size": 4}
    given |= {"until": {"updates": 12}, "defaults": False, "callbacks": list(callbacks), **options}
    return noether.train(net(), samples(12), **given)


def gentle(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-6)


def test_the_run_ends_where_that_is_wanted() -> None:
    stopping = every(updates=2)(hooks.loss_spike(warmup=5, action="stop"))
    final = train(stopping, loss=leaping(9))
    assert final.now.update == 10
    assert final.reason is not None
    assert final.reason.startswith(f"{KEY} is ")
    logging = every(updates=2)(hooks.loss_spike(warmup=5))
    assert train(logging, loss=leaping(9)).now.update == 12


def test_the_window_goes_on_after_a_resume_and_begins_anew_where_it_was_changed(
    tmp_path: Path,
) -> None:
    def made(window: int) -> Callback:
        return every(updates=1)(hooks.loss_spike(window=window, warmup=5))

    saving = hooks.checkpoint(schedule=every(updates=1), keep_last=None)
    whole = train(made(6), saving, run_dir=tmp_path / "whole")
    resume = tmp_path / "whole" / "1" / "checkpoints" / "step-9"
    again = train(made(6), run_dir=tmp_path / "again", resume=resume)
    assert again.metrics[KEY] == whole.metrics[KEY]
    anew = train(made(7), run_dir=tmp_path / "anew", resume=resume)
    assert anew.memories["loss_spike"].count == 3


def test_other_losses_have_names_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    made = hooks.loss_spike(loss="fit")
    assert (made.name, made.writes) == ("loss_spike/fit", (f"{KEY}/fit",))
    train(every(updates=1)(made))
    assert "no loss 'fit'; there are: total" in capsys.readouterr().err


def test_its_error_ends_the_run_only_where_a_spike_does() -> None:
    made = every(updates=1)(hooks.loss_spike(loss="fit", action="stop"))
    assert made.critical
    with pytest.raises(noether.HookError, match="no loss 'fit'"):
        train(made)


@pytest.mark.parametrize(
    ("option", "value"),
    [("window", 2), ("warmup", 2), ("cooldown", -1), ("factor", 0.0), ("factor", math.nan)],
)
def test_a_bad_option_is_refused(option: str, value: float) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match=f"loss_spike: {option} is {value}; expected"):
        hooks.loss_spike(**options)


def test_an_unknown_action_is_refused() -> None:
    action: Any = "halt"
    with pytest.raises(ValueError, match="loss_spike: action is 'halt'; expected 'log' or 'stop'"):
        hooks.loss_spike(action=action)


@pytest.mark.parametrize(
    ("flat", "leap", "score"),
    [(1.0, 1.0000001, 1e-4), (1.0, 1.5, 500.0), (1.0, 0.5, -500.0), (0.0, 1.0, 0.0)],
)
def test_what_was_flat_leaps_by_more_than_rounding(flat: float, leap: float, score: float) -> None:
    values = torch.full((8,), flat, dtype=torch.float64)
    found = _score(torch.tensor(leap, dtype=torch.float64), values)
    assert float(found) == pytest.approx(score, rel=0.01)
