"""A schedule's run as a law sees it, what the law finds there, and how that is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from noether.schedules import Schedule, Tick
from noether.testing.walks import Walk


@dataclass(frozen=True, slots=True)
class Case:
    """A schedule, a run to put it through, and what its laws draw beside."""

    schedule: Schedule
    walk: Walk
    other: Schedule
    places: tuple[int, int, int]
    """Ticks of the run, in order."""
    paced: bool
    """Whether looking ahead knows the pace of the run."""

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """The ticks of the run."""
        return self.walk.ticks

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001
        printer.text(f"Case({self.schedule})")  # hypothesis would write out the run


@dataclass(frozen=True, slots=True)
class Finding:
    """What breaks a law, and the place of the tick at which it shows."""

    place: int
    text: str
    cause: Exception | None = None


@dataclass(frozen=True, slots=True)
class Law:
    """A claim, the function that looks for what breaks it, and the way out."""

    claim: str
    broken: Callable[[Case], Finding | None]
    way_out: str


def stepped(schedule: Schedule, ticks: Sequence[Tick], memory: Any) -> tuple[list[bool], list[Any]]:
    """What a schedule says tick by tick, and its memory before the first and after each.

    As in training, the opening tick of a resumed session changes no memory.
    """
    said: list[bool] = []
    memories = [memory]
    for tick in ticks:
        fires, later = schedule.step(tick, memories[-1])
        resumed = tick.event == "start" and tick.now.session > 1
        said.append(fires)
        memories.append(memories[-1] if resumed else later)
    return said, memories


def differs(
    case: Case, said: Sequence[bool], expected: Sequence[bool], how: str, start: int = 0
) -> Finding | None:
    """The first tick, from `start` on, of which `said` isn't as `expected`."""
    for place, (one, other) in enumerate(zip(said, expected, strict=True), start=start):
        if one != other:
            text = f"{how}, it {word(fires=one)} at {named(case.ticks[place])}"
            return Finding(place, f"{text}, where otherwise it {'does' if other else 'does not'}")
    return None


def word(*, fires: bool) -> str:
    """What it does in a tick."""
    return "fires" if fires else "does not fire"


def named(tick: Tick) -> str:
    """A tick by its event and update."""
    events = {"start": "the opening tick at update", "end": "the closing tick at update"}
    return f"{events.get(tick.event, 'update')} {tick.now.update}"


def told(case: Case, law: Law, finding: Finding) -> str:
    """The schedule, the law, what breaks it, the way out, and the run up to there."""
    first = f"{case.schedule} breaks the law of schedules that {law.claim}: {finding.text}."
    shown = [_line(tick) for tick in case.ticks[: finding.place + 1]]
    lines = shown if len(shown) <= LONGEST else ["...", *shown[1 - LONGEST :]]
    total = case.ticks[0].total
    length = "not known" if total is None or total.update is None else f"{total.update} updates"
    return "\n  ".join([f"{first} {law.way_out}", f"The run, its horizon {length}:", *lines])


LONGEST = 20
"""Ticks that are shown, at most."""


def _line(tick: Tick) -> str:
    now = tick.now
    counts = f"session {now.session}  epoch {now.epoch}  update {now.update}  sample {now.sample}"
    others = [f"{name} {count}" for name, count in now.counters.items()]
    produced = [f"{name}={tick.metrics[name]!r}" for name in sorted(tick.fresh)]
    return "  ".join([f"{tick.event:6}", counts, f"{now.seconds:g} s", *others, *produced])
