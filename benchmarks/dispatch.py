"""What dormant callbacks cost a tick, and what planning a long run costs.

    python benchmarks/dispatch.py

Prints nanoseconds per dormant update and seconds per plan, each beside the smallest case.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from noether import Callback, Progress, Schedule, TrainState, every, stateful, when
from noether.agenda import agenda
from noether.callback import Pipeline
from noether.fold import begin, compiled, tick
from noether.plan import plan
from noether.schedules.schedule import Pace
from noether.turn import Carry

DORMANT = (1, 100, 10_000)
LENGTHS = (10_000, 1_000_000, 100_000_000)
UPDATES = 5_000
REPEATS = 5


def serve(callbacks: Pipeline, memories: Mapping[str, Any]) -> Mapping[str, Any]:
    return {callback.name: {} for callback in callbacks}


def nothing(state: TrainState) -> None: ...


def stateless(name: str, schedule: Schedule) -> Callback:
    return schedule(Callback(name, on_schedule=nothing, reads=()))


def remembering(name: str, schedule: Schedule) -> Callback:
    def step(state: TrainState, memory: int) -> tuple[int, None]:
        return memory + 1, None

    return schedule(stateful(init=lambda state: 0, reads=())(step)).named(name)


KINDS: Mapping[str, tuple[Callable[[str, Schedule], Callback], Schedule]] = {
    "every(updates=...)": (stateless, every(updates=10**9)),
    "every(epochs=...), stateful": (remembering, every(epochs=10**6)),
    "when(metric)": (stateless, when("loss/val/total")),
}


def dormant_tick(kind: str, count: int) -> float:
    """Nanoseconds per update of a fold whose callbacks are all dormant; the best of several."""
    make, schedule = KINDS[kind]
    writer = Callback(
        "writer", on_schedule=nothing, schedule=every(updates=10**9), writes=("loss/val/total",)
    )
    fold = compiled((writer, *(make(f"c{i}", schedule) for i in range(count))))
    start = TrainState("start", Progress(), Progress())
    carry = begin(fold, start, Carry()).carry
    states = [
        TrainState("update", Progress(update=u), Progress(update=u + 1)) for u in range(UPDATES)
    ]
    best = float("inf")
    for _ in range(REPEATS):
        ahead = agenda(fold.having["on_schedule"], Progress(), Pace(updates_per_epoch=100))
        began = time.perf_counter_ns()
        for state in states:
            carry = tick(fold, state, carry, serve, agenda=ahead).carry
        best = min(best, (time.perf_counter_ns() - began) / UPDATES)
    return best


def planning(updates: int) -> float:
    """Seconds to plan a run with a hundred firings of each callback; the best of several."""
    rare = every(updates=updates // 100)
    pipeline = [
        stateless("a", rare),
        stateless("b", every(fraction=0.01)),
        stateless("c", rare | when("loss/val/total")),
        Callback("writer", on_schedule=nothing, schedule=rare, writes=("loss/val/total",)),
    ]
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        plan(pipeline, samples=50_000, batch_size=64, until={"updates": updates})
        best = min(best, time.perf_counter() - began)
    return best


def main() -> None:
    print("nanoseconds per update on which nothing is due")
    for kind in KINDS:
        costs = [dormant_tick(kind, count) for count in DORMANT]
        row = "  ".join(
            f"{count:>6,}: {cost:7,.0f} ({cost / costs[0]:.2f}x)"
            for count, cost in zip(DORMANT, costs, strict=True)
        )
        print(f"  {kind:28} {row}")
    print("milliseconds to plan a run with a hundred firings of each of four callbacks")
    costs = [planning(updates) for updates in LENGTHS]
    for updates, cost in zip(LENGTHS, costs, strict=True):
        print(f"  {updates:>11,} updates: {cost * 1e3:6.2f} ({cost / costs[0]:.2f}x)")


if __name__ == "__main__":
    main()
