"""Each law of schedules has teeth: it catches a schedule broken for it, and no good one."""

import itertools
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from noether import (
    Schedule,
    after,
    always,
    cooldown,
    each_session,
    every,
    first,
    hook,
    never,
    on_improvement,
    on_plateau,
    once_at_end,
    skip,
    when,
    where,
)
from noether.schedules import Tick
from noether.schedules.expression import Expression
from noether.schedules.schedule import Moment, memoryless, remembering, soon
from noether.testing import Walk, check_schedule, schedules, steady
from noether.testing.cases import Case, Finding, told
from noether.testing.schedule_laws import LAWS

CLAIMS = [law.claim for law in LAWS]


# ---------------------------------------------------------------- good ones


def odd(tick: Tick) -> bool:
    return bool(tick.now.update % 2)


@dataclass(frozen=True)
class Below:
    limit: int

    def __call__(self, tick: Tick) -> bool:
        return bool(tick.now.sample < self.limit)


@pytest.mark.parametrize(
    "schedule",
    [
        always,
        never,
        once_at_end,
        every(epochs=1) | once_at_end,
        every(samples=7, start=3) & after(updates=2) | each_session & ~once_at_end,
        every(minutes=0.01) & ~every(fraction=1 / 3),
        first(2, when("loss/val", "<", 1)) | skip(1, every(tokens=50)),
        cooldown(on_improvement("accuracy") | every(seconds=1.5), updates=3),
        on_plateau("loss/val", patience=2) & where(odd),
        where(odd) | where(Below(9)) & every(updates=2),
        where(lambda tick: tick.now.update == 3),
    ],
    ids=str,
)
def test_a_good_schedule_breaks_no_law(schedule: Schedule) -> None:
    check_schedule(schedule, max_examples=30)


@settings(max_examples=30, suppress_health_check=[HealthCheck.nested_given])
@given(schedule=schedules(predicates=[odd, Below(20)]))
def test_no_schedule_that_can_be_written_breaks_a_law(schedule: Schedule) -> None:
    check_schedule(schedule, max_examples=5)


# ---------------------------------------------------------------- broken ones

THREES = every(updates=3)


def asking(asks: Any, **fields: Any) -> Schedule:
    """`every(updates=3)` with another predicate behind it."""
    return replace(THREES, asks=asks, step=lambda tick, memory: (asks(tick), memory), **fields)


def remembers(step: Any, initial: Any, **fields: Any) -> Schedule:
    """A schedule with a memory, its term one that the operators leave alone."""
    made = remembering(Expression("where", (odd,)), step, initial, soon)
    return replace(made, **fields)


def hidden_counter() -> Schedule:
    calls = itertools.count()
    return where(lambda tick: next(calls) % 3 == 0)


def hidden_updates() -> Schedule:
    seen: set[int] = set()

    def every_third_seen(tick: Tick) -> bool:
        seen.add(tick.now.update)
        return len(seen) % 3 == 0

    return where(every_third_seen)


def hidden_latch() -> Schedule:
    spent: list[int] = []

    def once(tick: Tick) -> bool:
        fires = tick.now.update > 0 and not spent
        spent.extend([tick.now.update] * fires)
        return fires

    return where(once)


def hidden_beside_memory() -> Schedule:
    """A memory that is handed out, and another that is used."""
    kept = [0]

    def step(tick: Tick, memory: int) -> tuple[bool, int]:
        kept[0] += 1
        return kept[0] % 2 == 0, memory + 1

    return remembers(step, 0)


def known_by_place() -> Schedule:
    """`first(1, ...)`, but of no other memories than the very objects that it handed out."""
    honest = first(1, THREES)
    handed = {honest.initial: honest.initial}

    def step(tick: Moment, memory: Any) -> tuple[bool, Any]:
        if handed.get(memory) is not memory:
            return False, memory
        fires, later = honest.step(tick, memory)
        return fires, handed.setdefault(later, later)

    return replace(honest, step=step)


@dataclass
class Unequal:
    """Neither hashable nor frozen."""

    limit: int

    def __call__(self, tick: Tick) -> bool:
        return False


class Identical:
    """Equal to itself alone."""

    def __call__(self, tick: Tick) -> bool:
        return False


def marks_from_zero(tick: Tick) -> bool:
    return bool(tick.now.update % 3 == 0)


def divisible(tick: Tick) -> bool:
    return bool(tick.event == "update" and tick.now.update % 3 == 0)


def resumed(tick: Tick) -> bool:
    return tick.event == "update" and tick.now.session > 1


JOINED = every(updates=2) & after(updates=1)

BROKEN = {
    "a predicate that wants a metric at once": (
        where(lambda tick: tick.metrics["loss/val"] > 1),
        "it answers True or False on every tick",
        "KeyError: 'loss/val'",
    ),
    "a predicate that divides by what a tick adds": (
        where(lambda tick: 1 / (tick.now.sample - tick.before.sample) > 0.1),
        "it answers True or False on every tick",
        "at the opening tick at update 0 it raises ZeroDivisionError",
    ),
    "a predicate that counts on a horizon": (
        where(lambda tick: tick.now.update > tick.total.update / 2),
        "it answers True or False on every tick",
        "its horizon not known, it raises TypeError",
    ),
    "an answer that is no boolean": (
        asking(lambda tick: tick.now.update % 3),
        "it answers True or False on every tick",
        "it answers 0",
    ),
    "a memory in a list": (
        remembers(lambda tick, memory: (False, [tick.now.update]), 0),
        "its memory is made of numbers, strings, booleans, None and tuples",
        "it is [0]",
    ),
    "a memory that is None at first": (
        remembers(lambda tick, memory: (False, 1), None),
        "its memory is made of numbers, strings, booleans, None and tuples",
        "it is 1",
    ),
    "a hidden counter": (
        hidden_counter(),
        "asked again it answers alike",
        "what is kept anywhere else is lost",
    ),
    "hidden updates": (
        hidden_updates(),
        "asked again it answers alike",
        "what is kept anywhere else is lost",
    ),
    "a hidden latch": (
        hidden_latch(),
        "asked again it answers alike",
        "where otherwise it does",
    ),
    "a memory that is used instead of the one handed in": (
        hidden_beside_memory(),
        "asked again it answers alike",
        "what is kept anywhere else is lost",
    ),
    "fires apart from step": (
        replace(THREES, asks=lambda tick: False),
        "fires(...) says what its first step says",
        "asked by fires(...), it does not fire at update 3, where otherwise it does",
    ),
    "a memory known by its place": (
        known_by_place(),
        "a split run fires as the unbroken one",
        "from its stored memory, it does not fire at update 3, where otherwise it does",
    ),
    "sessions that decide": (
        where(resumed),
        "a restart changes no firing",
        "in a run with restarts, it fires at update",
    ),
    "a bound too far": (
        replace(THREES, ahead=lambda now, pace: now.update + 4),
        "next_update skips no firing and no change of memory",
        "but something happens at update 3",
    ),
    "a bound of never": (
        replace(first(1, THREES), ahead=lambda now, pace: None),
        "next_update skips no firing and no change of memory",
        "it said None, but something happens at update 3",
    ),
    "a bound that isn't ahead": (
        replace(THREES, ahead=lambda now, pace: now.update),
        "next_update skips no firing and no change of memory",
        "it says 0, which isn't ahead",
    ),
    "a sleeper that wakes by itself": (
        replace(THREES, awaits=frozenset({"loss/val"})),
        "what awaits metrics sleeps until one is produced",
        "it awaits ['loss/val'], but acts at update",
    ),
    "an expression that is another's": (
        replace(THREES, expression=JOINED.expression),
        "~, & and | are pointwise on ticks",
        "The operators go by its expression",
    ),
    "a text that is another's": (
        replace(THREES, expression=every(updates=4).expression),
        "its text builds it again",
        "built from its text, it",
    ),
    "a text that nobody reads": (
        memoryless(Expression("sometimes"), lambda tick: False, soon),
        "its text builds it again",
        "'sometimes' is no schedule",
    ),
    "a predicate that is no value": (
        where(Identical()),
        "its copies are equal to it and answer alike",
        "instance of a frozen dataclass",
    ),
    "a predicate without a hash": (
        where(Unequal(3)),
        "its copies are equal to it and answer alike",
        "unhashable",
    ),
    "marks that are divisibility": (
        asking(divisible),
        "marks are additive, and passed by updates alone",
        "parted at",
    ),
    "marks at zero": (
        asking(marks_from_zero),
        "marks are additive, and passed by updates alone",
        "Compare the marks passed",
    ),
}


@pytest.mark.usefixtures("unshrunk")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_schedule_is_caught_by_its_law(name: str) -> None:
    schedule, claim, finding = BROKEN[name]
    law = f"{schedule} breaks the law of schedules that {claim}: "
    with pytest.raises(AssertionError, match=re.escape(law)) as error:
        check_schedule(schedule)
    assert finding in str(error.value)


def test_every_law_catches_one() -> None:
    assert {claim for _, claim, _ in BROKEN.values()} == set(CLAIMS)


def test_a_broken_part_is_caught_within_the_whole() -> None:
    with pytest.raises(AssertionError, match="asked again it answers alike"):
        check_schedule(every(epochs=1) | after(updates=1) & hidden_counter())


# ---------------------------------------------------------------- what is told


def test_the_shortest_run_that_shows_it_is_told_tick_by_tick() -> None:
    with pytest.raises(AssertionError) as error:
        check_schedule(where(resumed))
    _, run, *ticks = str(error.value).splitlines()
    assert run.strip().startswith("The run, its horizon")
    assert [line.split()[0] for line in ticks] == ["start", "update", "start", "update"]
    assert re.search("session 2  epoch .  update 2  sample 2  0 s  tokens 0$", ticks[-1])


def test_a_long_run_is_told_from_its_end() -> None:
    case = Case(THREES, Walk(steady(30), 1, 5), never, (0, 0, 0), paced=True)
    lines = told(case, LAWS[0], Finding(24, "it fell silent")).splitlines()
    assert lines[0].startswith("every(updates=3) breaks the law of schedules that")
    assert lines[2].strip() == "..."
    assert "update 25" in lines[-1]
    assert len(lines) == 2 + 20


def test_metrics_are_those_a_predicate_looks_at() -> None:
    fragile = where(lambda tick: 1 / max(tick.metrics.get("cost", 1), 0) > 2)
    check_schedule(fragile, max_examples=30)
    with pytest.raises(AssertionError, match="ZeroDivisionError") as error:
        check_schedule(fragile, metrics=["cost"])
    assert "cost=0.0" in str(error.value)
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_the_law_is_told_without_the_machinery() -> None:
    with pytest.raises(AssertionError) as caught:
        check_schedule(hidden_counter())
    assert not getattr(caught.value, "__notes__", [])
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("value", "way_out"),
    [
        (3, "Give one, every(epochs=1) say."),
        ("every(epochs=1)", "parse(text)"),
        (odd, "where(predicate)"),
        (hook(odd), "Give its schedule"),
    ],
)
def test_only_schedules_are_checked(value: Any, way_out: str) -> None:
    with pytest.raises(TypeError, match=re.escape(way_out)):
        check_schedule(value)


def test_metrics_are_a_list_of_names() -> None:
    with pytest.raises(TypeError, match="give a list"):
        check_schedule(always, metrics="loss/val")
