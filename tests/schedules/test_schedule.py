import subprocess
import sys
from typing import Any

import pytest

import noether.schedules
from noether.callback import Callback, chain
from noether.progress import Progress
from noether.schedules import Tick, after, every, on_improvement, once_at_end


def test_a_function_becomes_a_callback() -> None:
    @every(updates=100)
    def weight_norm(state: Any) -> None:
        return None

    assert isinstance(weight_norm, Callback)
    assert (weight_norm.name, weight_norm.schedule) == ("weight_norm", every(updates=100))


def test_a_callback_and_a_pipeline_are_narrowed() -> None:
    @after(epochs=2)
    @every(updates=100)
    def report(state: Any) -> None:
        return None

    assert report.schedule == after(epochs=2) & every(updates=100)
    [narrowed] = once_at_end(chain(report))
    assert narrowed.schedule == once_at_end & after(epochs=2) & every(updates=100)


def test_it_prints_as_the_expression_that_builds_it() -> None:
    schedule = every(epochs=1) & ~after(updates=5)
    assert repr(schedule) == str(schedule) == "every(epochs=1) & ~after(updates=5)"
    assert (every(epochs=2).term, every(epochs=2).arguments) == ("every", (("epochs", 2),))


def test_it_is_frozen() -> None:
    with pytest.raises(AttributeError):
        every(epochs=1).initial = 3  # type: ignore[misc]


def test_step_carries_memory() -> None:
    best = on_improvement("loss")
    tick = Tick(Progress(), Progress(update=1), metrics={"loss": 2.0}, fresh=frozenset({"loss"}))
    fires, memory = best.step(tick, best.initial)
    assert (fires, memory) == (True, (2.0,))
    assert best.step(tick, memory) == (False, (2.0,))


def test_every_name_of_the_package_is_exported_in_order() -> None:
    assert noether.schedules.__all__ == sorted(noether.schedules.__all__)
    for name in noether.schedules.__all__:
        assert hasattr(noether.schedules, name)


def test_torch_is_not_imported() -> None:
    program = "import sys, noether.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
