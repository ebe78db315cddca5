"""What else the feed counts: tokens, or anything that a batch holds."""

import sys
from pathlib import Path
from typing import Any

import pytest

import noether
from noether import Callback, ConfigurationError, Save, TrainState, every, hook
from noether.checkpoint import newest
from noether.cli import main
from tests.strategies import net, samples, sgd, squared_error


def positive(batch: Any) -> Any:
    """Positive inputs of a batch, as a tensor of one number."""
    return (batch[0] > 0).sum()


def train(*callbacks: Any, **options: Any) -> TrainState:
    given: dict[str, Any] = {
        "until": {"epochs": 3},
        "batch_size": 4,
        "defaults": False,
        "counters": {"tokens": positive},
        **options,
    }
    data = samples(10)
    return noether.train(
        net(), data, loss=squared_error, optimizer=sgd, callbacks=callbacks, **given
    )


TOKENS = int((samples(10).inputs > 0).sum())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_batch_is_counted_once(accumulate: int) -> None:
    final = train(accumulate=accumulate)
    assert final.now.counters == {"tokens": 3 * TOKENS}


def test_a_schedule_of_a_counter_fires_where_it_passes_its_marks() -> None:
    seen: list[tuple[int, int]] = []
    fired: list[int] = []

    def count(state: TrainState) -> None:
        seen.append((state.before.counters.get("tokens", 0), state.now.counters["tokens"]))

    def note(state: TrainState) -> None:
        fired.append(state.now.update)

    counting = Callback("count", after_update=count)
    train(counting, every(tokens=7)(hook(note)))
    passed = [u for u, (before, now) in enumerate(seen, 1) if now // 7 > before // 7]
    assert fired == passed
    assert passed


def test_a_counter_goes_on_after_a_resume(tmp_path: Path) -> None:
    def save(state: TrainState) -> Save:
        return Save("each")

    saving = every(updates=1)(hook(save))
    train(saving, run_dir=tmp_path, until={"updates": 4})
    found = newest(tmp_path / "1" / "checkpoints")
    assert found is not None
    final = train(saving, run_dir=tmp_path, resume=found.directory)
    assert final.now.counters == {"tokens": 3 * TOKENS}


@pytest.mark.parametrize(
    ("counters", "message"),
    [
        ({"epochs": positive}, "'epochs' can't name a counter"),
        ({"two words": positive}, "'two words' can't name a counter"),
        ({"tokens": 3}, "tokens is 3; expected a function of a batch"),
        ([positive], "counters is a list; expected names to functions"),
        ({5: positive}, "5 can't name a counter"),
    ],
)
def test_what_cannot_count_is_refused_before_training(counters: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        train(counters=counters)


def nothing(state: TrainState) -> None: ...


def test_a_schedule_of_what_nothing_counts_is_refused_before_training() -> None:
    with pytest.raises(ConfigurationError, match=r"token is no unit.*Did you mean tokens\?"):
        train(every(token=7)(hook(nothing)))


def test_counts_are_not_known_within_an_update() -> None:
    with pytest.raises(ConfigurationError, match="depends on a counter, not known there"):
        train(every(tokens=7)(hook(nothing, point="before_update")))


@pytest.mark.parametrize("amount", [-1, 1.7, "x", None])
def test_what_is_no_count_ends_the_run(amount: Any) -> None:
    with pytest.raises(ValueError, match=f"counter 'tokens' gave {amount!r} for a batch"):
        train(counters={"tokens": lambda batch: amount})


def test_the_default_callbacks_too_count_only_what_is_counted() -> None:
    with pytest.raises(ConfigurationError, match="words is no unit"):
        train(log=every(words=5), defaults=True)


TEXT = """\
run: {until: {epochs: 2}, batch_size: 4, counters: {tokens: {kind: tests.sample_project.lengths}}}
model: {kind: tests.sample_project.linear}
data:
  train: {kind: tests.sample_project.points}
loss: {kind: tests.sample_project.squared}
optimizer: {kind: torch.optim.SGD, lr: 0.01}
callbacks:
- kind: checkpoint
  schedule: every(TOKENS=1_000)
"""


@pytest.mark.parametrize(("unit", "code"), [("tokens", 0), ("token", 2)])
def test_a_counter_is_declared_in_yaml(
    unit: str,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent.parent), *sys.path])
    config = tmp_path / "c.yaml"
    config.write_text(TEXT.replace("TOKENS", unit))
    allow = ["--allow", "tests.sample_project", f"run.dir={tmp_path / 'runs'}"]
    assert main(["train", str(config), *allow]) == code
    told = capsys.readouterr()
    if code:
        assert (
            f"{config}:9: callbacks.0.schedule: 'checkpoint': every(token=1000): token" in told.err
        )
        return
    assert main(["plan", str(config), *allow]) == 0
    assert "checkpoint  by tokens" in capsys.readouterr().out
