"""What can never fire is told beforehand, with the reason."""

import re
from dataclasses import replace
from typing import Any

import pytest

import noether
from noether import Callback, Schedule, at, every, never, once_at_start, schedules, when
from noether.feed import feed, horizon
from noether.forecast import line, warnings
from noether.plan import plan
from tests.strategies import net, samples, sgd, squared_error


def callback(name: str, schedule: Schedule | None, **fields: Any) -> Callback:
    return Callback(name, on_schedule=lambda state: None, schedule=schedule, **fields)


def warned(*callbacks: Callback, until: dict[str, int] | None = None) -> dict[str, str]:
    """The warnings about a run of 5 epochs, 50 updates, 500 samples, by callback."""
    made = plan(callbacks, samples=100, batch_size=10, until=until or {"epochs": 5})
    return dict(made.warnings)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "every(updates=10) & at(updates=3)",
            "every(updates=10) fires 5 times, at(updates=3) fires once, but never in the same tick",
        ),
        ("at(updates=5_000)", "the run ends at update 50, before at(updates=5000)"),
        ("every(samples=501)", "the run ends at sample 500, before every(samples=501)"),
        ("every(epochs=1) & after(epochs=9)", "the run ends at epoch 5, before after(epochs=9)"),
        (
            "between(epochs=(30, 40), updates=(90, 91))",
            "the run ends at epoch 5, update 50, before between(epochs=(30, 40), updates=(90, 91))",
        ),
        ("at(updates=60) | at(epochs=6)", "the run ends at update 50, before at(updates=60); "),
        ("first(2, at(samples=600))", "the run ends at sample 500, before at(samples=600)"),
        ("skip(9, every(epochs=1))", "every(epochs=1) fires 5 times, and all of them are skipped"),
        ("skip(1, at(updates=3))", "at(updates=3) fires once, and all of them are skipped"),
        ("~always", "always holds on every tick"),
        ("never & always", "never is never"),
        ('when("loss") & after(epochs=30)', "the run ends at epoch 5, before after(epochs=30)"),
        ('when("loss") & at(updates=3)', "on no tick where it could is loss produced"),
    ],
)
def test_what_can_never_fire_is_told_with_the_reason(text: str, why: str) -> None:
    validation = callback("validation", every(epochs=1), writes=["loss"])
    found = warned(validation, callback("x", schedules.parse(text)))
    assert list(found) == ["x"]
    assert found["x"].startswith(f"{schedules.parse(text)} never fires: ".replace("_", ""))
    assert why in found["x"]


@pytest.mark.parametrize(
    "text",
    [
        "every(updates=10) & at(updates=30)",
        "at(updates=50)",
        "at(samples=500)",
        "every(hours=100)",
        "every(tokens=1)",
        "until(updates=0)",
        "once_at_end",
        "each_session & ~once_at_start",
        "skip(1, once_at_start | at(updates=5))",
        "skip(1, every(updates=50) | once_at_end)",
        "skip(1, each_session)",
        'on_plateau("loss", patience=2, mode="min") & every(updates=10)',
        "never",
    ],
)
def test_what_may_fire_is_not_warned_of(text: str) -> None:
    validation = callback("validation", every(epochs=1), writes=["loss"])
    assert warned(validation, callback("x", schedules.parse(text))) == {}


def test_a_reader_of_what_never_runs_is_told_of_it() -> None:
    found = warned(
        callback("validation", never, writes=["loss"]),
        callback("best", when("loss")),
        callback("late", every(epochs=1), reads=["loss"]),
    )
    told = "it needs loss, and 'validation' never runs"
    assert found == {"best": told, "late": told}


def test_a_hook_within_updates_never_runs_on_a_boundary() -> None:
    found = warned(callback("x", once_at_start, point="before_update"))
    assert re.search("before_update runs within updates, not on the opening", found["x"])


def test_a_run_without_updates_is_not_warned_of() -> None:
    assert warned(callback("x", every(updates=1)), until={"updates": 0}) == {}


@pytest.mark.parametrize("point", [9_000, 9_999_999])
def test_a_run_does_not_wait_for_the_forecast_of_what_fires_early(point: int) -> None:
    asked: list[int] = []
    dense = every(samples=1_001)

    def step(moment: Any, memory: Any) -> Any:
        asked.append(moment.now.update)
        return dense.step(moment, memory)

    watched = replace(dense, step=step, asks=lambda moment: step(moment, None)[0])
    options: dict[str, Any] = {"accumulate": 1, "seed": 0, "shuffle": False, "collate": None}
    data = feed(range(1_281_167), batch_size=256, drop_last=False, **options)
    along = line(data, horizon(data, {"updates": 10_000_000}))
    pipeline = [callback("dense", watched), callback("once", at(updates=point))]
    assert list(warnings(tuple(pipeline), along)) == []
    assert (len(asked) < 10_000) == (point < 10_000)


def test_training_warns_before_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    noether.train(
        *(net(), samples(8)),
        loss=squared_error,
        optimizer=sgd,
        until={"updates": 2},
        batch_size=4,
        callbacks=callback("rare", every(updates=1_000)),
        defaults=False,
    )
    told = "warning: callback 'rare' can never run: every(updates=1000) never fires: "
    assert capsys.readouterr().err.startswith(told)
