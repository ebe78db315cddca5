"""What `noether plan` says beforehand is what the journal of the run says afterwards."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
    after,
    always,
    at,
    chain,
    cooldown,
    every,
    first,
    hooks,
    never,
    once_at_end,
    skip,
    when,
    where,
)
from noether.callback import Point
from noether.cli import main
from noether.dataflow import order
from noether.errors import ConfigurationError
from noether.feed import feed, horizon
from noether.journal import read
from noether.plan import Plan, calendar, plan, planned
from noether.progress import Progress
from noether.schedules import Tick
from noether.testing import terms
from tests import sample_project
from tests.strategies import Clock, answers, metric_values, net, samples, sgd, squared_error

ROOT = Path(__file__).parent.parent
ALLOW = ["--allow", "tests.sample_project"]
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


# ---------------------------------------------------------------- long runs


def ticks(samples: int, batch_size: int, last: int, *, drop_last: bool) -> list[Tick]:
    """A run counted by hand, one update after another."""
    now, left = Progress(), samples
    points = [now]
    for update in range(1, last + 1):
        taken = min(batch_size, left)
        left -= taken
        closes = left < (batch_size if drop_last else 1)
        left = samples if closes else left
        now = Progress(now.epoch + closes, update, now.sample + taken)
        points.append(now)
    middle = [Tick(*pair, "update", points[-1]) for pair in itertools.pairwise(points)]
    opening, closing = Tick(points[0], points[0], "start", now), Tick(now, now, "end", now)
    return [opening, *middle, closing]


amounts = st.tuples(st.sampled_from(["epochs", "updates", "samples"]), st.integers(1, 400))
rare = st.one_of(
    st.tuples(amounts, st.none() | st.integers(0, 300)).map(
        lambda drawn: every(start=drawn[1], **dict([drawn[0]]))
    ),
    amounts.map(lambda drawn: at(**{drawn[0]: [drawn[1], 3 * drawn[1]]})),
    amounts.map(lambda drawn: after(**dict([drawn]))),
)
long_schedules = terms.schedules(predicted=True) | st.recursive(
    rare | terms.schedules(predicted=True), lambda parts: terms.remembered(parts, amounts)
)


@settings(max_examples=2 * settings.default.max_examples)  # type: ignore[union-attr]
@given(
    schedule=long_schedules,
    samples=st.integers(1, 60),
    batch_size=st.integers(1, 12),
    last=st.integers(0, 900),
    drop_last=st.booleans(),
)
def test_a_long_run_is_planned_as_if_each_tick_were_asked(
    schedule: Schedule, samples: int, batch_size: int, last: int, *, drop_last: bool
) -> None:
    samples += batch_size if drop_last else 0
    run = ticks(samples, batch_size, last, drop_last=drop_last)
    opening, *middle, closing = answers(schedule, run)
    (forecast,) = plan(
        Callback("a", on_schedule=print, schedule=schedule),
        samples=samples,
        batch_size=batch_size,
        until={"updates": last},
        drop_last=drop_last,
    ).forecasts
    expected = [update for update, fires in enumerate(middle, 1) if fires]
    closing = closing and not (middle or [opening])[-1]
    assert list(forecast.sure) == expected == list(forecast.possible)
    assert (forecast.sure.opening, forecast.sure.closing) == (opening, closing)
    assert forecast.count == len(expected) + opening + closing


@dataclass(slots=True)
class Asked:
    """How often schedules were asked; about five hundred thousand answers take a second."""

    times: int = 0

    def counting(self, schedule: Schedule) -> Schedule:
        return replace(
            schedule,
            asks=self.noted(schedule.asks),
            step=self.noted(schedule.step),
            ahead=self.noted(schedule.ahead),
        )

    def noted(self, function: Any) -> Any:
        def noting(*arguments: Any) -> Any:
            self.times += 1
            assert self.times < 250_000, "it asks on and on"
            return function(*arguments)

        return noting


def long_run(part: Callable[[Schedule], Schedule]) -> Iterator[tuple[Schedule, int]]:
    """Schedules and how often they fire in ten million updates of 1003 samples, 101 an epoch."""
    yield part(every(updates=7)), 1_428_571
    yield part(every(samples=5000)), 19_861
    yield part(every(epochs=3)), 33_003
    yield part(every(updates=100)) & part(after(epochs=1000)), 98_989
    yield part(every(updates=9)) & part(every(epochs=2)), 5_500
    yield ~part(every(updates=5)) & part(every(epochs=1)), 79_208
    yield part(always), 10_000_001
    yield part(at(updates=[3, 9_999_999])) | part(once_at_end), 3
    yield part(every(fraction=1 / 1000)), 1_000
    yield first(5, part(every(updates=1000))), 5
    yield skip(5, part(every(updates=1000))), 9_995
    yield cooldown(part(every(epochs=1)), updates=250), 33_003
    yield first(5, part(every(updates=1))), 5
    yield skip(5, part(every(updates=1))), 9_999_995


@pytest.mark.parametrize("which", range(14))
def test_ten_million_updates_are_planned_by_few_questions(which: int) -> None:
    asked = Asked()
    schedule, count = list(long_run(asked.counting))[which]
    (forecast,) = plan(
        Callback("a", on_schedule=print, schedule=schedule),
        samples=1003,
        batch_size=10,
        until={"updates": 10_000_000},
    ).forecasts
    assert forecast.count == count, schedule
    assert asked.times > 0


# ---------------------------------------------------------------- the command

TEXT = """\
run: {dir: runs, until: {epochs: 3}, batch_size: 3}
model: {kind: tests.sample_project.linear}
data:
  train: {kind: tests.sample_project.points}
  val: {kind: tests.sample_project.points, count: 4}
loss: {kind: tests.sample_project.squared}
optimizer: {kind: torch.optim.SGD, lr: 0.01}
callbacks:
- {kind: tests.sample_project.scheduled_reader, metric: loss/val/total}
- {kind: tests.sample_project.scheduled_reader, metric: loss/val/total, name: keen,
   schedule: always}
- {kind: offline_loss, name: validation, dataset: val, every_n_epochs: 1}
- kind: best_checkpoint
  metric: loss/val/total
  name: best
  schedule: on_improvement("loss/val/total", mode="min")
"""
CAPTURE = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a configuration in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    Path("c.yaml").write_text(TEXT)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def as_json(capsys: CAPTURE, *command: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["plan", "c.yaml", "--json", *command, *ALLOW]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def as_rows(rows: Sequence[Mapping[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
    """A journal in the words of the calendar, each name once per tick, of these callbacks alone."""
    found = [
        {key: row[key] for key in ("tick", "epoch", "update", "sample")}
        | {
            "fires": list(
                dict.fromkeys(
                    effect["by"]
                    for effect in row["effects"]
                    if effect["hook"] == "on_schedule" and effect["by"] in names
                )
            )
        }
        for row in rows
    ]
    return [row for row in found if row["fires"]]


def only(rows: Sequence[Mapping[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
    """Rows of a calendar, of these callbacks alone."""
    found = [{**row, "fires": [name for name in row["fires"] if name in names]} for row in rows]
    return [row for row in found if row["fires"]]


@pytest.mark.parametrize(
    ("planned", "trained"),
    [
        ([], []),
        (["--updates", "4"], ["run.until={updates: 4}"]),
        (["--epochs", "2"], ["run.until={epochs: 2}"]),
        (["run.until.epochs=2", "--updates", "9"], ["run.until={updates: 9}"]),
        (["run.until={seconds: 9}", "--updates", "5"], ["run.until={updates: 5}"]),
        (["run.batch_size=4", "run.drop_last=true"], ["run.batch_size=4", "run.drop_last=true"]),
        (["data.train.count=1"], ["data.train.count=1"]),
        (["--updates", "0"], ["run.until={updates: 0}"]),
    ],
)
def test_the_json_is_what_the_journal_of_train_says(
    folder: Path, capsys: CAPTURE, planned: list[str], trained: list[str]
) -> None:
    found = as_json(capsys, *planned)
    assert main(["train", "c.yaml", *trained, *ALLOW]) == 0
    rows = journal(Path("runs/1"))
    known = [callback["name"] for callback in found["callbacks"] if callback["count"] is not None]
    assert {"reader", "keen", "validation", "checkpoint"} <= set(known)
    assert only(found["calendar"], known) == as_rows(rows, known)
    for callback in found["callbacks"]:
        ran = sum(callback["name"] in row["fires"] for row in as_rows(rows, found["order"]))
        assert callback["count"] in (None, ran)


def test_the_json_says_who_reads_what_and_what_is_unknown(folder: Path, capsys: CAPTURE) -> None:
    found = as_json(capsys, "run.defaults=false")
    assert found["order"] == ["validation", "reader", "keen", "best"]
    callbacks = {callback["name"]: callback for callback in found["callbacks"]}
    assert list(callbacks) == found["order"]
    assert {name: callback["schedule"] for name, callback in callbacks.items()} == {
        "validation": "every(epochs=1)",
        "reader": "every(updates=7)",
        "keen": "always",
        "best": 'on_improvement("loss/val/total", mode="min")',
    }
    assert callbacks["validation"]["writes"] == ["loss/val/*"]
    assert callbacks["reader"]["reads"] == callbacks["best"]["reads"] == ["loss/val/total"]
    # `keen` waits for the first validation: ticks 3 to 9, none on the opening one.
    counts = {name: callback["count"] for name, callback in callbacks.items()}
    assert counts == {"validation": 3, "reader": 1, "keen": 7, "best": None}
    assert not any("best" in row["fires"] for row in found["calendar"])


def test_the_json_of_what_clocks_counters_and_predicates_decide_has_no_count(
    folder: Path, capsys: CAPTURE
) -> None:
    entry = "{{kind: tests.sample_project.writer, name: a, metric: a, schedule: '{}'}}"
    for schedule in ("every(seconds=5)", "every(lengths=5)", "first(2, every(minutes=1))"):
        found = as_json(
            capsys,
            "run.defaults=false",
            "run.counters={lengths: {kind: tests.sample_project.lengths}}",
            f"callbacks=[{entry.format(schedule)}]",
        )
        assert [callback["count"] for callback in found["callbacks"]] == [None]
        assert found["calendar"] == []


def test_the_text_names_order_counts_and_what_decides_the_rest(
    folder: Path, capsys: CAPTURE
) -> None:
    assert main(["plan", "c.yaml", "run.defaults=false", *ALLOW]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [line.split() for line in printed.out.splitlines() if line]
    rows = [words for words in lines if words[0] in ("validation", "reader", "keen", "best")][:4]
    assert [words[0] for words in rows] == ["validation", "reader", "keen", "best"]
    assert [words[1] for words in rows][:3] == ["3", "1", "7"]
    assert "validation" in rows[1][2:]  # which it reads from
    assert not rows[3][1].isdigit()
    assert ["best", "by", "loss/val/total"] in lines


def test_the_text_is_ascii_where_the_output_is(folder: Path) -> None:
    done = in_process("plan", "c.yaml", *ALLOW, cwd=folder, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "validation" in done.stdout


# ---------------------------------------------------------------- it builds and writes little


def test_only_the_training_set_is_built_and_nothing_written(folder: Path, capsys: CAPTURE) -> None:
    sample_project.MADE.clear()
    assert main(["plan", "c.yaml", *ALLOW]) == 0
    assert sample_project.MADE == ["8 points"]
    assert files(folder) == ["c.yaml"]


def test_the_model_is_not_built(folder: Path, capsys: CAPTURE) -> None:
    override = "model={kind: tests.sample_project.unbuildable}"
    assert main(["plan", "c.yaml", override, *ALLOW]) == 0
    assert main(["check", "c.yaml", override, *ALLOW]) == 2
    assert "it was built" in capsys.readouterr().err


def test_the_picture_is_well_formed_and_has_every_name(folder: Path, capsys: CAPTURE) -> None:
    odd = "callbacks.0.name='a<b & \"ü\" ]]>'"
    assert main(["plan", "c.yaml", odd, "--svg", "plan.svg", *ALLOW]) == 0
    assert files(folder) == ["c.yaml", "plan.svg"]
    root = ElementTree.parse("plan.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = {element.text for element in root.iter()}
    names = [callback["name"] for callback in as_json(capsys, odd)["callbacks"]]
    assert {'a<b & "ü" ]]>', "best", "progress"} <= set(names) <= texts


def test_names_with_control_characters_do_no_harm(folder: Path, capsys: CAPTURE) -> None:
    assert main(["plan", "c.yaml", 'callbacks.0.name="a\\x01b"', "--svg", "p.svg", *ALLOW]) == 0
    ElementTree.parse("p.svg")


@pytest.mark.parametrize("path", ["missing/plan.svg", "."])
def test_a_picture_that_cannot_be_written_is_one_line(
    folder: Path, capsys: CAPTURE, path: str
) -> None:
    assert main(["plan", "c.yaml", "--svg", path, *ALLOW]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert path in line
    assert files(folder) == ["c.yaml"]


def in_process(
    *command: str, cwd: Path, stdout: int = subprocess.PIPE, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "noether", *command],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )


def test_a_reader_that_leaves_is_no_error_to_speak_of(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = in_process("plan", "c.yaml", "--json", *ALLOW, cwd=folder, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


# ---------------------------------------------------------------- what is wrong


def test_seconds_alone_need_a_length(folder: Path, capsys: CAPTURE) -> None:
    assert main(["plan", "c.yaml", "run.until={seconds: 9}", *ALLOW]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "--updates" in printed.err
    assert "--epochs" in printed.err


def test_seconds_alone_need_a_length_in_python_too() -> None:
    with pytest.raises(ConfigurationError):
        plan(Callback("a", on_schedule=print), samples=8, until={"seconds": 9})


@pytest.mark.parametrize(
    "length", [["--updates", "-1"], ["--epochs", "1.5"], ["--updates", "2", "--epochs", "2"]]
)
def test_a_length_is_one_whole_number(folder: Path, capsys: CAPTURE, length: list[str]) -> None:
    try:
        code: Any = main(["plan", "c.yaml", *length, *ALLOW])
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert length[0] in capsys.readouterr().err


def with_entry(*lines: str) -> int:
    """Put a reader into the file, after the others; gives the line it begins at."""
    first = "- kind: tests.sample_project.scheduled_reader"
    Path("c.yaml").write_text("\n".join([TEXT.rstrip(), first, "  metric: loss/val/total", *lines]))
    return len(TEXT.splitlines()) + 1


NEVER = [
    "every(updates=10) & at(updates=3)",
    "at(updates=99)",
    "every(epochs=4)",
    "after(updates=5) & until(updates=4)",
    "first(1, at(samples=1000))",
    "skip(9, every(updates=3))",
    "at(updates=4) & every(epochs=1)",
]


@pytest.mark.parametrize("command", ["plan", "check"])
@pytest.mark.parametrize("schedule", NEVER)
def test_a_schedule_that_never_fires_is_a_warning_at_its_line(
    folder: Path, capsys: CAPTURE, schedule: str, command: str
) -> None:
    line = 3 + with_entry("  name: x", f"  schedule: {schedule}")
    assert main([command, "c.yaml", *ALLOW]) == 0
    printed = capsys.readouterr()
    (told,) = printed.err.splitlines()
    start = f"c.yaml:{line}: warning: callback 'x' can never run: "
    assert told.startswith(start)
    assert len(told) > len(start)


@pytest.mark.parametrize("command", ["plan", "check"])
def test_readers_of_what_is_never_written_never_run_either(
    folder: Path, capsys: CAPTURE, command: str
) -> None:
    wait = "callbacks.2.every_n_epochs=4"
    assert main([command, "c.yaml", wait, "run.defaults=false", *ALLOW]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    for name, line in (("reader", 9), ("keen", 11), ("best", 16)):
        start = f"c.yaml:{line}: warning: callback {name!r} can never run: "
        assert any(text.startswith(start) and "validation" in text for text in told), name
    assert any("callback 'validation' can never run: " in text for text in told)


@pytest.mark.parametrize("schedule", ["never", "every(updates=9)", "once_at_end", "at(epochs=3)"])
def test_nobody_is_warned_of_what_runs_once_or_is_meant_not_to(
    folder: Path, capsys: CAPTURE, schedule: str
) -> None:
    with_entry("  name: x", f"  schedule: {schedule}")
    assert main(["plan", "c.yaml", *ALLOW]) == 0
    assert capsys.readouterr().err == ""


MALFORMED = [
    "every(updates=0)",
    "every(updates=-3)",
    "every(updates=1.5)",
    "every(updates=true)",
    "every(fortnights=2, epochs=1)",
    "every(fortnights=2)",
    "every(updates=2, epochs=1)",
    "at(updates=0)",
    "at(epochs=[1, -1])",
    "after(updates=true)",
    "every(fraction=0)",
    "first(0, every(updates=2))",
    "cooldown(every(updates=2), updates=0)",
    "every(updates=2",
    "sometimes",
]


@pytest.mark.parametrize("command", ["plan", "check"])
@pytest.mark.parametrize(
    "entry",
    [
        *(f"schedule: {schedule}" for schedule in MALFORMED),
        *(f"every_n_epochs: {n}" for n in ("0", "-1", "1.5", "true", "two")),
    ],
)
def test_a_malformed_schedule_is_an_error_at_its_line(
    folder: Path, capsys: CAPTURE, entry: str, command: str
) -> None:
    line = with_entry("  name: x", f"  {entry}")
    assert main([command, "c.yaml", *ALLOW]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (told,) = printed.err.splitlines()
    assert told.startswith(f"c.yaml:{line + 3}: ")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.train.count=-1", "count is -1"),
        ("data.train.count=0", "0 samples"),
        ("callbacks.0.metric=loss/vla/total", "Did you mean"),
        ("callbacks.2.dataset=vla", "Did you mean"),
        ("run.sead=1", "Did you mean seed?"),
    ],
)
def test_what_train_would_refuse_plan_refuses(
    folder: Path, capsys: CAPTURE, override: str, said: str
) -> None:
    assert main(["plan", "c.yaml", override, *ALLOW]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err


def test_a_config_of_ten_million_updates_is_planned(folder: Path, capsys: CAPTURE) -> None:
    with_entry("  name: x", "  schedule: every(updates=7) & after(epochs=9) | once_at_end")
    assert main(["plan", "c.yaml", "--updates", "10000000", *ALLOW]) == 0
    lines = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()]
    counts = {words[0]: words[1] for words in reversed(lines) if len(words) > 1}
    # Three updates an epoch: every seventh from update 35 on, and the closing tick.
    assert (counts["validation"], counts["x"]) == ("3333333", str(10_000_000 // 7 - 4 + 1))
