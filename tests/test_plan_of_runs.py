"""What `noether plan` says beforehand is what the journal of the run says afterwards."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import noether
from noether import (
    Callback,
    HookError,
    Log,
    Schedule,
    Stop,
    TrainState,
    always,
    at,
    chain,
    each_session,
    every,
    hooks,
    never,
    once_at_end,
    once_at_start,
    when,
    where,
)
from noether.callback import Point
from noether.dataflow import order
from noether.feed import feed, horizon
from noether.journal import read
from noether.plan import Plan, calendar, planned
from noether.testing import terms
from tests.strategies import Clock, metric_values, net, samples, sgd, squared_error

FEW = settings(max_examples=max(5, settings.default.max_examples // 4))  # type: ignore[union-attr]
"""Each example trains."""

# ---------------------------------------------------------------- runs, invented

POINTS: tuple[Point, ...] = ("tick", "tick", "tick", "before_update", "after_accumulation_step")
SCHEDULED = ("on_schedule",)
HOOKS = (
    *(SCHEDULED, SCHEDULED, SCHEDULED, SCHEDULED, SCHEDULED, SCHEDULED),
    *(("before_training",), ("after_accumulation_step",), ("before_update",)),
    *(("after_update",), ("after_epoch",), ("after_training",)),
)
BOTH = ("on_schedule", "after_update")
"""Which of them writes what is promised isn't known."""


@dataclass(frozen=True)
class Part:
    """A callback in plain words: it logs all that it promises whenever one of its hooks runs."""

    name: str
    schedule: Schedule | None = None
    point: Point = "tick"
    hooks: tuple[str, ...] = SCHEDULED
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    values: tuple[float, ...] = (1.0,)

    def callback(self) -> Callback:
        return Callback(
            self.name,
            schedule=self.schedule,
            point=self.point,
            reads=self.reads,
            writes=self.writes,
            **dict.fromkeys(self.hooks, self.report),  # type: ignore[arg-type]
        )

    def report(self, state: TrainState) -> Log | None:
        value = self.values[state.now.update % len(self.values)]
        return Log(dict.fromkeys(self.writes, value)) if self.writes else None


@dataclass(frozen=True)
class Case:
    """The geometry of a run, and its callbacks as declared."""

    n: int
    batch_size: int
    accumulate: int
    until: Mapping[str, int]
    drop_last: bool
    parts: tuple[Part, ...]

    def pipeline(self) -> tuple[Callback, ...]:
        return tuple(part.callback() for part in self.parts)

    def plan(self, *, start: int = 0, session: int = 1) -> Plan:
        served = feed(
            samples(self.n),
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            collate=None,
            seed=0,
            shuffle=True,
            drop_last=self.drop_last,
            counters={"tokens": tokens},
        )
        total, ordered = horizon(served, self.until), order(self.pipeline())
        return planned(served, total, ordered, start=start, session=session)

    def train(self, series: Path, *others: Callback, **options: Any) -> TrainState:
        return noether.train(
            net(),
            samples(self.n),
            loss=squared_error,
            optimizer=sgd,
            until=self.until,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            drop_last=self.drop_last,
            counters={"tokens": tokens},
            callbacks=chain(*self.pipeline(), *others),
            run_dir=series,
            defaults=False,
            clock=Clock(),
            **options,
        )


def tokens(batch: Any) -> int:
    """Between one and three for each sample, as it falls."""
    inputs, _ = batch
    return int((1 + (inputs > 0).sum(dim=1)).clamp(max=3).sum())


def odd(moment: Any) -> bool:
    return bool(moment.now.update % 2)


def unforeseen(metrics: Sequence[str]) -> st.SearchStrategy[Schedule]:
    """Schedules about metrics, the clock, counters of the feed and the user's own functions."""
    named = st.just(where(odd))
    if metrics:
        named |= st.sampled_from([when(metrics[0]), when(metrics[-1], ">", 0.0)])
    return named | terms.schedules(metrics=metrics, predicates=[odd])


@st.composite
def parts(draw: st.DrawFn, name: str, known: Sequence[str], *, predicted: bool) -> Part:
    point = draw(st.sampled_from(POINTS))
    schedules = st.none() | terms.schedules(predicted=True)
    if not predicted and point == "tick":
        schedules |= unforeseen(known)
    written = (f"by/{name}",)[: draw(st.integers(0, 1))]
    hooks = draw(st.sampled_from(HOOKS if predicted else (*HOOKS, BOTH)))
    return Part(
        name,
        draw(schedules) if "on_schedule" in hooks else None,
        point if "on_schedule" in hooks else "tick",
        hooks,
        tuple(draw(st.lists(st.sampled_from(known), unique=True, max_size=2))) if known else (),
        written,
        tuple(draw(st.lists(metric_values, min_size=1, max_size=4))),
    )


@st.composite
def pipelines(draw: st.DrawFn, *, predicted: bool) -> tuple[Part, ...]:
    """Up to six callbacks, declared in any order, that read from each other without a circle."""
    made: list[Part] = []
    for number in range(draw(st.integers(1, 6))):
        known = [metric for part in made for metric in part.writes]
        made.append(draw(parts(f"c{number}", known, predicted=predicted)))
    return tuple(draw(st.permutations(made)))


LIMITS = {"updates": (0, 12), "epochs": (1, 3), "samples": (1, 30)}


@st.composite
def cases(draw: st.DrawFn, *, predicted: bool = True) -> Case:
    accumulate = draw(st.integers(1, 3))
    batch_size = accumulate * draw(st.integers(1, 3))
    drop_last = draw(st.booleans())
    units = draw(st.lists(st.sampled_from(sorted(LIMITS)), min_size=1, max_size=2, unique=True))
    return Case(
        n=draw(st.integers(batch_size if drop_last else 1, 14)),
        batch_size=batch_size,
        accumulate=accumulate,
        until={unit: draw(st.integers(*LIMITS[unit])) for unit in units},
        drop_last=drop_last,
        parts=draw(pipelines(predicted=predicted)),
    )


# ---------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class Seen:
    """What fired in a tick: hooks at its end in the fold's order, those within the update."""

    tick: str
    epoch: int
    update: int
    sample: int
    last: tuple[str, ...]
    within: frozenset[str]


def seen(case: Case, tick: str, counts: tuple[int, int, int], names: Sequence[str]) -> Seen:
    at_points = {part.name for part in case.parts if part.point != "tick"}
    last = tuple(name for name in names if name not in at_points)
    return Seen(tick, *counts, last, frozenset(names) & at_points)


def told(case: Case, rows: Sequence[Mapping[str, Any]]) -> list[Seen]:
    """What the journal says of the scheduled hooks of a case's callbacks."""
    mine = {part.name for part in case.parts}
    found = [
        seen(
            case,
            row["tick"],
            (row["epoch"], row["update"], row["sample"]),
            [e["by"] for e in row["effects"] if e["hook"] == "on_schedule" and e["by"] in mine],
        )
        for row in rows
    ]
    return [tick for tick in found if tick.last or tick.within]


def foretold(case: Case, made: Plan) -> list[Seen]:
    """What the calendar says."""
    return [
        seen(
            case,
            entry.tick,
            (entry.now.epoch, entry.now.update, entry.now.sample),
            entry.fires,
        )
        for entry in calendar(made)
    ]


def opened(ticks: Sequence[Seen]) -> list[Seen]:
    """All but what opens a session."""
    return [tick for tick in ticks if tick.tick != "start"]


def updates(ticks: Sequence[Seen]) -> list[Seen]:
    return [tick for tick in ticks if tick.tick == "update"]


def journal(run: Path) -> list[dict[str, Any]]:
    return list(read(run / "journal.jsonl"))


Mark = tuple[str, int]


def marks(made: Plan, firings: Any) -> set[Mark]:
    """Firings as (tick, update), as `fired` has them."""
    ends = {("start", made.line.start): firings.opening, ("end", made.line.stop): firings.closing}
    return {("update", update) for update in firings} | {
        tick for tick, there in ends.items() if there
    }


def fired(case: Case, rows: Sequence[Mapping[str, Any]], name: str) -> set[Mark]:
    return {
        (tick.tick, tick.update)
        for tick in told(case, rows)
        if name in tick.last or name in tick.within
    }


# ---------------------------------------------------------------- the plan is the journal


@FEW
@given(cases())
def test_the_calendar_is_what_the_journal_says(case: Case) -> None:
    made = case.plan()
    rows = lived(case)
    assert foretold(case, made) == told(case, rows)
    for forecast in made.forecasts:
        assert forecast.count == len(fired(case, rows, forecast.callback.name))


@FEW
@given(cases(predicted=False))
def test_what_is_unsure_fires_between_what_is_sure_and_what_is_possible(case: Case) -> None:
    lies_between(case, case.plan(), lived(case))


def lies_between(case: Case, made: Plan, rows: Sequence[Mapping[str, Any]]) -> None:
    for forecast in made.forecasts:
        there = fired(case, rows, forecast.callback.name)
        sure, possible = (marks(made, part) for part in (forecast.sure, forecast.possible))
        told = f"{forecast.callback}: {sure} <= {there} <= {possible}"
        assert sure <= there <= possible, told
        assert forecast.count in (None, len(there)), told
        assert (forecast.count is None) == bool(forecast.unknown), told


WRITER = Part("writer", writes=("by/writer",))
READER = Part("reader", reads=("by/writer",))
WITHIN: tuple[Point, ...] = ("before_update", "after_accumulation_step")


@pytest.mark.parametrize("reads", WITHIN)
@pytest.mark.parametrize("writes", WITHIN)
@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_within_an_update_the_points_follow_each_other(
    reads: Point, writes: Point, *, scheduled: bool, accumulate: int
) -> None:
    writer = replace(WRITER, point=writes) if scheduled else replace(WRITER, hooks=(writes,))
    case = Case(5, 2, accumulate, {"updates": 4}, False, (writer, replace(READER, point=reads)))
    assert foretold(case, case.plan()) == told(case, lived(case))


@pytest.mark.parametrize("point", WITHIN)
def test_what_an_unwritten_metric_holds_back_is_known_along_the_chain(point: str) -> None:
    chained = Part("chained", hooks=(point,), reads=("by/writer",), writes=("by/chained",))
    for hook in ("before_training", "after_accumulation_step", "before_update", "after_epoch"):
        writer, reader = replace(WRITER, hooks=(hook,)), replace(READER, reads=("by/chained",))
        case = Case(5, 2, 1, {"epochs": 2}, False, (writer, chained, reader))
        assert foretold(case, case.plan()) == told(case, lived(case)), hook


@pytest.mark.parametrize("hook", ["before_training", "after_update", "after_epoch"])
def test_a_point_says_nothing_of_hooks_that_are_not_scheduled(hook: str) -> None:
    writer = replace(WRITER, hooks=(hook,), point="before_update")
    case = Case(5, 2, 1, {"epochs": 2}, False, (writer, replace(READER, point="before_update")))
    assert foretold(case, case.plan()) == told(case, lived(case))


@pytest.mark.parametrize("schedule", [never, at(updates=4), every(fraction=1 / 2)])
def test_what_a_hook_beside_the_scheduled_one_writes_is_not_denied(schedule: Schedule) -> None:
    writer = replace(WRITER, hooks=BOTH, schedule=schedule)
    case = Case(4, 2, 1, {"updates": 4}, False, (writer, READER))
    made = case.plan()
    assert "reader" not in dict(made.warnings)
    lies_between(case, made, lived(case))


@pytest.mark.parametrize("schedule", [~every(seconds=1e-3), where(odd), ~where(odd), ~always])
@pytest.mark.parametrize("last", [3, 4])
def test_the_closing_tick_of_what_is_unsure_is_unsure(schedule: Schedule, last: int) -> None:
    case = Case(4, 2, 1, {"updates": last}, False, (Part("a", schedule | once_at_end),))
    lies_between(case, case.plan(), lived(case))


@FEW
@given(cases(predicted=False))
def test_what_can_never_run_does_not(case: Case) -> None:
    rows = lived(case)
    for name, why in case.plan().warnings:
        assert why
        assert not fired(case, rows, name), f"{name}: {why}"


# ---------------------------------------------------------------- runs that are broken off

BREAKS = ("after_accumulation_step", "before_update", "after_update", "after_training")


@dataclass(slots=True)
class Saboteur:
    """Raises at each of its (point, update), once."""

    left: list[Mark]

    def at(self, point: str) -> Any:
        def strike(state: TrainState) -> None:
            update = state.now.update + (point == "after_accumulation_step")
            if (point, update) in self.left:
                self.left.remove((point, update))
                raise ValueError("broken off")

        return strike

    def callback(self) -> Callback:
        return Callback("saboteur", **{point: self.at(point) for point in BREAKS})


def lived(case: Case, breaks: Sequence[Mark] = ()) -> list[dict[str, Any]]:
    """The journal of a run that is resumed until it is done."""
    saboteur = Saboteur(list(breaks))
    others = [saboteur.callback(), hooks.checkpoint(schedule=every(updates=1))]
    with tempfile.TemporaryDirectory() as series:
        for _ in range(len(breaks) + 1):
            try:
                case.train(Path(series), *others, resume="auto")
            except HookError as error:
                assert "broken off" in str(error)  # noqa: PT017 it is what was asked for
            else:
                return journal(Path(series, "1"))
    raise AssertionError("more sessions than breaks")


@st.composite
def broken(draw: st.DrawFn, *, predicted: bool) -> tuple[Case, list[Mark]]:
    case = draw(cases(predicted=predicted))
    last = case.plan().line.stop
    assume(last)
    within = st.tuples(st.sampled_from(BREAKS[:-1]), st.integers(1, last))
    breaks = within | st.just(("after_training", last))
    return case, draw(st.lists(breaks, min_size=1, max_size=3, unique=True))


def sessions(
    case: Case, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Plan, list[Mapping[str, Any]], float]]:
    """Of each session its plan, its rows, and the update up to which they were kept."""
    starts = [(row["update"], row["session"]) for row in rows if row["tick"] == "start"]
    assert starts[0] == (0, 1)
    for (start, session), (end, _) in zip(starts, [*starts[1:], (inf, 0)], strict=True):
        own = [row for row in rows if row["session"] == session]
        yield case.plan(start=start, session=session), own, end


@FEW
@given(broken(predicted=True))
def test_each_session_fires_as_its_own_plan_and_all_together_as_the_whole(
    drawn: tuple[Case, list[Mark]],
) -> None:
    case, breaks = drawn
    rows = lived(case, breaks)
    assert opened(foretold(case, case.plan())) == opened(told(case, rows))
    for made, own, end in sessions(case, rows):
        kept = [
            t for t in foretold(case, made) if end == inf or (t.tick != "end" and t.update <= end)
        ]
        assert kept == told(case, own)


@FEW
@given(broken(predicted=False))
def test_over_sessions_too_what_is_unsure_lies_between(drawn: tuple[Case, list[Mark]]) -> None:
    case, breaks = drawn
    rows = lived(case, breaks)
    *_, (made, own, _) = sessions(case, rows)
    lies_between(case, made, own)
    for forecast in case.plan().forecasts:
        there = {u for tick, u in fired(case, rows, forecast.callback.name) if tick == "update"}
        assert set(forecast.sure) <= there <= set(forecast.possible)


@pytest.mark.parametrize("schedule", [each_session, ~every(updates=1)])
def test_what_is_first_written_as_a_session_is_resumed_is_read_in_that_tick_alone(
    schedule: Schedule,
) -> None:
    late = Part("late", schedule, reads=("by/writer",), writes=("by/late",))
    writer = replace(WRITER, schedule=every(updates=1))
    case = Case(1, 1, 1, {"updates": 3}, False, (writer, late, Part("last", reads=("by/late",))))
    rows = lived(case, [("before_update", 2)])
    assert opened(told(case, rows)) == opened(foretold(case, case.plan()))
    assert told(case, [row for row in rows if row["session"] == 2]) == foretold(
        case, case.plan(start=1, session=2)
    )


@pytest.mark.parametrize("hook", ["before_training", "on_schedule"])
def test_what_a_resumed_opening_alone_writes_is_gone_after_it(hook: str) -> None:
    writer = replace(WRITER, hooks=(hook,), schedule=each_session & ~once_at_start)
    case = Case(1, 1, 1, {"updates": 3}, False, (writer, READER))
    rows = lived(case, [("before_update", 2)])
    assert told(case, [row for row in rows if row["session"] == 2]) == foretold(
        case, case.plan(start=1, session=2)
    )


def test_what_only_the_closing_tick_writes_is_not_there_when_a_run_is_resumed() -> None:
    writer = replace(WRITER, schedule=once_at_end)
    case = Case(1, 1, 1, {"updates": 3}, False, (writer, READER))
    rows = lived(case, [("before_update", 2)])
    assert told(case, [row for row in rows if row["session"] == 2]) == foretold(
        case, case.plan(start=1, session=2)
    )


@pytest.mark.parametrize("point", ["after_update", "after_training"])
@pytest.mark.parametrize("schedule", [always, ~every(epochs=1), ~always, once_at_end])
def test_a_session_that_only_closes_the_run_closes_it_as_the_unbroken_one(
    schedule: Schedule, point: str
) -> None:
    case = Case(3, 1, 1, {"epochs": 1}, False, (Part("a", schedule),))
    rows = lived(case, [(point, 3)])
    assert opened(told(case, rows)) == opened(foretold(case, case.plan()))
    assert told(case, [row for row in rows if row["session"] == 2]) == foretold(
        case, case.plan(start=3, session=2)
    )


@settings(FEW, max_examples=max(5, FEW.max_examples // 2))
@given(cases(), st.data())
def test_a_run_that_starts_from_a_checkpoint_fires_as_planned_from_there(
    case: Case, data: st.DataObject
) -> None:
    assume(last := case.plan().line.stop)
    start = data.draw(st.integers(1, last))
    save = hooks.checkpoint(schedule=every(updates=1), keep_last=None)
    with tempfile.TemporaryDirectory() as series:
        case.train(Path(series), save)
        case.train(Path(series), save, resume=Path(series, f"1/checkpoints/step-{start}"))
        rows = journal(Path(series, "2"))
    assert foretold(case, case.plan(start=start, session=2)) == told(case, rows)


def test_a_run_that_is_stopped_fires_as_planned_until_then(tmp_path: Path) -> None:
    firing = (Part("a", every(samples=3)), Part("b", every(fraction=1 / 4)), Part("c", always))
    case = Case(7, 2, 1, {"updates": 12}, False, firing)
    case.train(tmp_path, at(updates=6)(lambda state: Stop("enough")))
    rows = updates(told(case, journal(tmp_path / "1")))
    assert rows == [tick for tick in updates(foretold(case, case.plan())) if tick.update <= 6]
