import gc
from typing import Any
from weakref import ref

import noether
from noether import every, hooks
from tests.strategies import net, samples, sgd, squared_error


def test_what_is_asked_is_done_when_the_schedule_fires() -> None:
    done: list[str] = []
    noether.train(
        net(),
        samples(20),
        loss=squared_error,
        optimizer=sgd,
        until={"updates": 5},
        batch_size=4,
        defaults=False,
        callbacks=[
            hooks.collect_garbage(schedule=every(updates=2)),
            hooks.empty_cache(schedule=every(updates=3)),
        ],
        actions={n: lambda n=n: done.append(n) for n in ("collect_garbage", "empty_cache")},
    )
    assert done == ["collect_garbage", "empty_cache", "collect_garbage"]


def test_garbage_is_really_collected() -> None:
    class Ring:
        pass

    left: list[int] = []
    rings: list[Any] = []

    def leave(state: Any) -> None:
        ring: Any = Ring()
        ring.self = ring
        rings.append(ref(ring))
        left.append(sum(each() is not None for each in rings))

    gc.disable()
    try:
        noether.train(
            net(),
            samples(20),
            loss=squared_error,
            optimizer=sgd,
            until={"updates": 4},
            batch_size=4,
            defaults=False,
            callbacks=[every(updates=1)(leave), hooks.collect_garbage(schedule=every(updates=2))],
        )
    finally:
        gc.enable()
    assert left == [1, 2, 1, 2]


def test_by_default_every_thousand_updates() -> None:
    for made in (hooks.collect_garbage(), hooks.empty_cache()):
        assert made.schedule == every(updates=1000)
