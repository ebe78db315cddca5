"""A run that is stopped anywhere and resumed ends as the unbroken run does, bit for bit."""

import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from hypothesis import example, given
from hypothesis import strategies as st

import noether
from noether import (
    Callback,
    HookError,
    Log,
    Preempted,
    Schedule,
    TrainState,
    at,
    chain,
    cooldown,
    every,
    first,
    hooks,
    on_improvement,
    on_plateau,
    once_at_end,
    once_at_start,
)
from noether.checkpoint import newest
from noether.journal import read
from noether.rundir import read_status, runs
from tests.strategies import Clock, net, samples, squared_error

LOSS = "loss/val/total"
POINTS = ("after_accumulation_step", "before_update", "after_update", "after_epoch")
SCHEDULES = (
    *(every(samples=5), every(seconds=2), every(fraction=1 / 3), at(epochs=[1, 2])),
    *(on_improvement(LOSS, mode="min"), on_plateau(LOSS, patience=1, mode="min")),
    *(first(2, every(updates=2)), cooldown(every(updates=1), updates=3)),
    *(once_at_end, once_at_start, every(updates=5) | once_at_end),
)


@dataclass(frozen=True)
class Stop:
    """Ends a session at the `nth` time that a point of update `update` is passed."""

    update: int
    point: str
    how: str
    nth: int = 1


@dataclass(frozen=True)
class Plan:
    """A run, and where it is to be broken off."""

    n: int
    batch_size: int
    accumulate: int
    updates: int
    save: int
    evaluate: int
    patience: int | None
    schedule: Schedule
    norm: bool
    rates: str
    clip_norm: float | None
    stops: tuple[Stop, ...]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    accumulate = draw(st.integers(1, 3))
    updates = draw(st.integers(1, 12))
    stops = st.builds(
        Stop,
        st.integers(1, updates),
        st.sampled_from(POINTS),
        st.sampled_from(["raise", "SIGTERM", "SIGINT"]),
        st.integers(1, accumulate),
    )
    return Plan(
        n=draw(st.integers(4, 17)),
        batch_size=accumulate * draw(st.integers(1, 3)),
        accumulate=accumulate,
        updates=updates,
        save=draw(st.integers(1, 5)),
        evaluate=draw(st.integers(1, 3)),
        patience=draw(st.none() | st.integers(1, 3)),
        schedule=draw(st.sampled_from(SCHEDULES)),
        norm=False,
        rates=draw(st.sampled_from(["none", "update", "epoch"])),
        clip_norm=draw(st.none() | st.just(0.5)),
        stops=tuple(draw(st.lists(stops, max_size=4))),
    )


@dataclass(slots=True)
class Saboteur:
    """Breaks sessions off, each planned stop once."""

    stops: list[Stop]
    passed: dict[tuple[int, str], int] = field(default_factory=dict)

    def at(self, point: str) -> Callable[[TrainState], None]:
        def strike(state: TrainState) -> None:
            update = state.now.update + (point == "after_accumulation_step")
            self.passed[update, point] = nth = self.passed.get((update, point), 0) + 1
            for stop in self.stops:
                if (stop.update, stop.point) == (update, point) and stop.nth <= nth:
                    self.stops.remove(stop)
                    if stop.how == "raise":
                        raise ValueError("sabotage")
                    signal.raise_signal(signal.Signals[stop.how])

        return strike

    def callback(self) -> Callback:
        self.passed.clear()
        return Callback("saboteur", **{point: self.at(point) for point in POINTS})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Seen:
    """A user's memory: an average of the weights, and what was seen when."""

    average: dict[str, torch.Tensor]
    updates: tuple[int, ...] = ()
    firings: int = 0


def begin(state: TrainState) -> Seen:
    return Seen({name: p.clone() for name, p in state.model.parameters.items()})


def follow(state: TrainState, seen: Seen) -> tuple[Seen, None]:
    weights = state.model.parameters
    average = {name: a.lerp(weights[name], 0.1) for name, a in seen.average.items()}
    return replace(seen, average=average, updates=(*seen.updates, state.now.update)), None


def tell(state: TrainState, seen: Seen) -> tuple[Seen, Log]:
    total = sum(float(a.abs().sum()) for a in seen.average.values())
    return replace(seen, firings=seen.firings + 1), Log({"mine": total, "firings": seen.firings})


def pipeline(plan: Plan, saboteur: Saboteur) -> tuple[Callback, ...]:
    stopping = [hooks.early_stopping(metric=LOSS, patience=plan.patience)] if plan.patience else []
    user = Callback(
        "user",
        init=begin,
        after_update=follow,
        on_schedule=tell,
        schedule=plan.schedule,
        reads=(),
        writes=("mine", "firings"),
    )
    return chain(
        saboteur.callback(),
        every(updates=3)(hooks.online_loss()),
        hooks.checkpoint(schedule=every(updates=plan.save) | once_at_end),
        hooks.best_checkpoint(metric=LOSS),
        user,
        *stopping,
        every(updates=plan.evaluate)(hooks.offline_loss(dataset="val")),
    )


def halving(plan: Plan) -> Any:
    if plan.rates == "none":
        return None
    return lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.7)


@dataclass(frozen=True)
class Ended:
    """What is left of a run when it is done."""

    final: TrainState
    weights: Any
    optimizer: Any
    run: Path
    sessions: int


def lived(plan: Plan, series: Path, stops: tuple[Stop, ...]) -> Ended:
    """Train until done, resuming after each stop."""
    saboteur = Saboteur(list(stops))
    for session in range(1, len(stops) + 2):
        # Whatever another process would find otherwise: weights, random numbers, clock.
        torch.manual_seed(1000 + session)
        model = net(norm=plan.norm)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        try:
            final = noether.train(
                model,
                samples(plan.n),
                loss=squared_error,
                optimizer=optimizer,
                until={"updates": plan.updates},
                batch_size=plan.batch_size,
                accumulate=plan.accumulate,
                callbacks=pipeline(plan, saboteur),
                datasets={"val": samples(5, seed=2)},
                lr_scheduler=halving(plan),
                lr_interval="epoch" if plan.rates == "epoch" else "update",
                clip_norm=plan.clip_norm,
                run_dir=series,
                resume="auto",
                defaults=False,
                clock=Clock(now=1000.0 * session),
            )
        except (HookError, Preempted, KeyboardInterrupt):
            continue
        (run,) = runs(series)
        assert read_status(run)["state"] == "done"
        return Ended(final, model.state_dict(), optimizer.state_dict(), run, session)
    raise AssertionError("more sessions than stops")


def same(a: Any, b: Any, path: str = "") -> None:
    """Assert equality of trees, tensors bit for bit."""
    assert type(a) is type(b), f"{path}: {a!r} != {b!r}"
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), f"{path}: {a} != {b}"
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), f"{path}: {sorted(map(str, a))} != {sorted(map(str, b))}"
        for key in a:
            same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), f"{path}: {a} != {b}"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}/{i}")
    elif isinstance(a, Seen):
        same(vars(a), vars(b), path)
    else:
        assert a == b, f"{path}: {a!r} != {b!r}"


def stored(ended: Ended) -> dict[str, Any]:
    """The newest checkpoint, without what tells of sessions."""
    found = newest(ended.run / "checkpoints")
    assert found is not None
    trees = {
        name: torch.load(found.directory / name, weights_only=True)
        for name in ("weights.pt", "state.pt")
    }
    del trees["state.pt"]["progress"]["session"]
    del trees["state.pt"]["journal"]  # a size in bytes, with the sessions' opening rows
    return trees


def rows(ended: Ended) -> list[dict[str, Any]]:
    told = [row for row in read(ended.run / "journal.jsonl") if row["tick"] != "start"]
    return [{key: row[key] for key in row if key != "session"} for row in told]


def check(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = lived(plan, Path(folder, "whole"), ())
        broken = lived(plan, Path(folder, "broken"), plan.stops)
        assert replace(broken.final.now, session=1) == whole.final.now
        assert broken.final.now.session <= broken.sessions
        same(rows(broken), rows(whole), "journal")
        same(broken.weights, whole.weights, "weights")
        same(broken.optimizer, whole.optimizer, "optimizer")
        same(dict(broken.final.metrics), dict(whole.final.metrics), "metrics")
        same(dict(broken.final.memories), dict(whole.final.memories), "memories")
        assert broken.final.reason == whole.final.reason
        same(stored(broken), stored(whole), "checkpoint")


PLAIN = Plan(11, 4, 2, 9, 3, 2, None, every(samples=5), False, "update", 0.5, ())


@given(plans())
@example(replace(PLAIN, stops=(Stop(2, "after_update", "raise"), Stop(3, "after_epoch", "raise"))))
@example(replace(PLAIN, stops=(Stop(5, "after_accumulation_step", "SIGTERM", 2),)))
@example(replace(PLAIN, stops=(Stop(5, "after_accumulation_step", "raise", 2),) * 2))
@example(replace(PLAIN, stops=tuple(Stop(u, "before_update", "SIGINT") for u in range(1, 10))))
@example(replace(PLAIN, stops=tuple(Stop(u, "after_update", "raise") for u in range(1, 10))))
def test_a_broken_run_ends_as_the_unbroken_one(plan: Plan) -> None:
    check(plan)


def test_running_statistics_of_batch_norm_are_resumed() -> None:
    stops = (Stop(4, "after_accumulation_step", "raise", 2), Stop(6, "after_update", "SIGTERM"))
    check(replace(PLAIN, n=12, norm=True, stops=stops))


def test_a_crash_in_the_tick_of_a_stop_does_not_undo_the_stop() -> None:
    # Patience 1 on a loss that soon rises: the tick that asks to stop also saves and crashes.
    plan = replace(PLAIN, updates=30, n=8, evaluate=1, patience=1, save=1)
    with tempfile.TemporaryDirectory() as folder:
        end = lived(plan, Path(folder), ()).final.now.update
    assert end < 30
    check(replace(plan, stops=(Stop(end, "after_update", "raise"),)))
