"""What a tick costs, in calls of our own functions: the same on every machine, however busy."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import noether
from noether import Callback, TrainState, every, running
from tests.strategies import net, samples, sgd, squared_error

ROOT = str(Path(noether.__file__).parent)
FIRST, LAST = 20, 120
"""The updates between which calls are counted."""


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Counts the calls of functions of noether, generators that go on among them."""
    count = 0

    def see(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(ROOT)

    earlier = sys.getprofile()
    sys.setprofile(see)
    try:
        yield lambda: count
    finally:
        sys.setprofile(earlier)


def calls(callbacks: Iterable[Callback]) -> float:
    """Calls per update of a run, between two updates far from its ends."""
    seen: list[int] = []

    def loss(model: Any, batch: Any) -> Any:
        seen.append(count())
        return squared_error(model, batch)

    with counting() as count:
        noether.train(
            net(),
            samples(4 * LAST),
            loss=loss,
            optimizer=sgd,
            until={"updates": LAST},
            batch_size=2,
            callbacks=list(callbacks),
            defaults=False,
        )
    return (seen[LAST - 1] - seen[FIRST - 1]) / (LAST - FIRST)


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tick is folded for the sake of the clock."""
    monkeypatch.setattr(running, "ATTENTION", float("inf"))


def nothing(state: TrainState) -> None: ...


def test_an_idle_update_is_a_few_calls() -> None:
    assert calls([]) <= 80


@pytest.mark.parametrize("schedule", [every(updates=1000), every(epochs=7), every(samples=10**6)])
def test_dormant_callbacks_cost_no_call(schedule: Any) -> None:
    dormant = [Callback(f"c{i}", on_schedule=nothing, schedule=schedule) for i in range(500)]
    assert calls(dormant) == calls([])


@pytest.mark.parametrize(
    ("hooks", "most"),
    [({"after_update": nothing}, 6), ({"on_schedule": nothing, "schedule": every(updates=1)}, 20)],
)
def test_a_hook_that_runs_is_a_few_calls(hooks: Any, most: int) -> None:
    one, many = (calls(Callback(f"c{i}", **hooks) for i in range(n)) for n in (1, 11))
    assert (many - one) / 10 <= most
