import pickle

import pytest

from noether.progress import Progress
from noether.schedules import Tick, every, parse, where
from noether.state import TrainState


def odd(tick: Tick) -> bool:
    return bool(tick.now.update % 2)


def test_a_predicate_sees_the_tick() -> None:
    schedule = where(odd) & every(updates=3)
    fires = [u for u in range(1, 13) if schedule.fires(Progress(update=u - 1), Progress(update=u))]
    assert fires == [3, 9]


def test_a_snapshot_serves_as_a_tick() -> None:
    state = TrainState("update", Progress(update=2), Progress(update=3))
    assert where(odd).asks(state)
    assert every(updates=3).asks(state)
    assert not every(fraction=0.5).asks(state)


def test_it_is_equal_by_function_and_printed_by_name() -> None:
    assert where(odd) == where(odd)
    assert where(odd) != where(lambda tick: True)
    assert str(where(odd) | every(epochs=1)) == "where(odd) | every(epochs=1)"
    assert pickle.loads(pickle.dumps(every(epochs=1) & where(str))) == every(epochs=1) & where(str)
    assert not where(odd).predicted


def test_it_has_no_text() -> None:
    with pytest.raises(ValueError, match="no form in text"):
        parse(str(where(odd)))


def test_what_is_no_function_is_refused() -> None:
    for wrong in (3, "odd", every(epochs=1)):
        with pytest.raises(TypeError, match="no function of the tick"):
            where(wrong)  # type: ignore[arg-type]
