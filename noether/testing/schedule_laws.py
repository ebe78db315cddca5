"""The laws that every schedule keeps, each a function that looks for what breaks it in a run."""

import copy
import pickle
from dataclasses import replace
from itertools import pairwise
from typing import Any

from noether.checkpoint.encoding import decode, encode
from noether.schedules import Schedule, Tick, always, never, parse
from noether.state import UNKNOWN
from noether.testing.cases import Case, Finding, Law, differs, named, stepped, word
from noether.testing.walks import answers


def _not_repeated(case: Case) -> Finding | None:
    try:
        said, memories = stepped(case.schedule, case.ticks, case.schedule.initial)
    except Exception:
        return None  # which is another law's
    for place in reversed(range(len(said))):
        again, _ = case.schedule.step(case.ticks[place], memories[place])
        if again != said[place]:
            return differs(case, [again], said[place : place + 1], "asked once more", place)
    second, later = stepped(case.schedule, case.ticks, case.schedule.initial)
    if repr(later) != repr(memories):
        return Finding(len(said) - 1, f"first it remembers {memories[-1]!r}, then {later[-1]!r}")
    return differs(case, second, said, "in a second run")


def _unanswered(case: Case) -> Finding | None:
    memory = case.schedule.initial
    for place, tick in enumerate(case.ticks):
        blind = replace(tick, total=UNKNOWN)
        for moment, which in ((tick, ""), (blind, ", its horizon not known,")):
            finding = _no_answer(case.schedule, moment, memory)
            if finding is not None:
                text, cause = finding
                return Finding(place, f"at {named(tick)}{which} it {text}", cause)
        _, memory = case.schedule.step(tick, memory)
    return None


def _no_answer(schedule: Schedule, tick: Tick, memory: Any) -> tuple[str, Exception | None] | None:
    """What a schedule does instead of answering True or False; None where it does."""
    answer: Any
    try:
        answer, _ = schedule.step(tick, memory)
    except Exception as error:
        return f"raises {type(error).__name__}: {error}", error
    return None if type(answer) is bool else (f"answers {answer!r}", None)


def _not_plain(case: Case) -> Finding | None:
    _, memories = stepped(case.schedule, case.ticks, case.schedule.initial)
    for place, memory in enumerate(memories[1:]):
        if not _plain(memory) or (memory is None) is not (memories[0] is None):
            return Finding(place, f"after {named(case.ticks[place])} it is {memory!r}")
    return None


def _plain(memory: Any) -> bool:
    if type(memory) is tuple:
        return all(map(_plain, memory))
    return memory is None or type(memory) in (bool, int, float, str)


def _not_alone(case: Case) -> Finding | None:
    schedule = case.schedule
    fires = [
        schedule.fires(
            t.before, t.now, event=t.event, total=t.total, metrics=t.metrics, fresh=t.fresh
        )
        for t in case.ticks
    ]
    first = [schedule.step(tick, schedule.initial)[0] for tick in case.ticks]
    return differs(case, fires, first, "asked by fires(...)")


def _split(case: Case) -> Finding | None:
    said, memories = stepped(case.schedule, case.ticks, case.schedule.initial)
    cut = case.places[0]
    stored = pickle.dumps(encode(memories[cut], "the memory"))
    memory = decode(pickle.loads(stored), {})
    resumed, _ = stepped(case.schedule, case.ticks[cut:], memory)
    how = f"resumed before {named(case.ticks[cut])} from its stored memory"
    return differs(case, resumed, said[cut:], how, cut)


def _restarted(case: Case) -> Finding | None:
    said, _ = stepped(case.schedule, case.ticks, case.schedule.initial)
    places = [p for p, tick in enumerate(case.ticks) if p == 0 or tick.event != "start"]
    straight = [_in_one_session(case.ticks[place]) for place in places]
    unbroken, _ = stepped(case.schedule, straight, case.schedule.initial)
    for place, expected in zip(places, unbroken, strict=True):
        if said[place] != expected:
            how = "in a run with restarts"
            return differs(case, said[place : place + 1], [expected], how, place)
    return None


def _in_one_session(tick: Tick) -> Tick:
    before, now = (replace(point, session=1) for point in (tick.before, tick.now))
    return replace(tick, before=before, now=now)


def _slept_through(case: Case) -> Finding | None:
    pace: dict[str, Any] = {"total": case.ticks[0].total}
    if case.paced:
        pace["samples_per_update"] = case.walk.samples_per_update
        pace["updates_per_epoch"] = case.walk.updates_per_epoch
    acts = _acts(case)
    bound = case.schedule.next_update(case.ticks[0].now, **pace)
    for place, tick in enumerate(case.ticks):
        asleep = tick.event == "update" and (bound is None or tick.now.update < bound)
        if asleep and acts[place]:
            return Finding(place, f"it said {bound}, but something happens at {named(tick)}")
        if not asleep:
            bound = case.schedule.next_update(tick.now, **pace)
        if bound is not None and bound <= tick.now.update:
            return Finding(place, f"at {named(tick)} it says {bound}, which isn't ahead")
    return None


def _woken_by_nothing(case: Case) -> Finding | None:
    awaits, acts = case.schedule.awaits, _acts(case)
    for place, tick in enumerate(case.ticks):
        waits = awaits is not None and tick.event == "update" and not awaits & tick.fresh
        if waits and acts[place]:
            return Finding(place, f"it awaits {sorted(awaits or ())}, but acts at {named(tick)}")
    return None


def _acts(case: Case) -> list[bool]:
    """By tick, whether it fires or its memory changes."""
    said, memories = stepped(case.schedule, case.ticks, case.schedule.initial)
    changes = [repr(earlier) != repr(later) for earlier, later in pairwise(memories)]
    return [fires or change for fires, change in zip(said, changes, strict=True)]


def _not_pointwise(case: Case) -> Finding | None:
    schedule, other = case.schedule, case.other
    pairs = list(zip(answers(schedule, case.ticks), answers(other, case.ticks), strict=True))
    for joined, expected in (
        (~schedule, [not a for a, _ in pairs]),
        (schedule & other, [a and b for a, b in pairs]),
        (other & schedule, [a and b for a, b in pairs]),
        (schedule | other, [a or b for a, b in pairs]),
        (schedule & always, [a for a, _ in pairs]),
        (schedule | never, [a for a, _ in pairs]),
    ):
        finding = differs(case, answers(joined, case.ticks), expected, f"within {joined}")
        if finding is not None:
            return finding
    return None


def _not_rebuilt(case: Case) -> Finding | None:
    if _holds_a_function(case.schedule):
        return None
    return _no_twin(case, parse(str(case.schedule)), "built from its text")


def _not_copied(case: Case) -> Finding | None:
    hash(case.schedule)
    twins = {
        "copied": copy.deepcopy(case.schedule),
        "pickled and read": _through_a_pickle(case.schedule),
    }
    found = (_no_twin(case, twin, how) for how, twin in twins.items())
    return next((finding for finding in found if finding is not None), None)


def _no_twin(case: Case, twin: Schedule, how: str) -> Finding | None:
    """What tells another build of the same schedule from it."""
    schedule = case.schedule
    if twin != schedule or hash(twin) != hash(schedule) or str(twin) != str(schedule):
        return Finding(0, f"{how}, it is {twin} and not equal to itself")
    expected = answers(schedule, case.ticks)
    return differs(case, answers(twin, case.ticks), expected, how)


def _not_additive(case: Case) -> Finding | None:
    if not _marks(case.schedule):
        return None
    total = case.ticks[0].total
    a, b, c = (case.ticks[place].now for place in case.places)
    whole = case.schedule.fires(a, c, total=total)
    parts = case.schedule.fires(a, b, total=total), case.schedule.fires(b, c, total=total)
    if whole != any(parts):
        text = f"from update {a.update} to {c.update} it {word(fires=whole)}"
        return Finding(case.places[2], f"{text}; parted at {b.update}, it {word(fires=any(parts))}")
    said = answers(case.schedule, case.ticks)
    standing = [
        tick.event == "update" and fires for tick, fires in zip(case.ticks, said, strict=True)
    ]
    return differs(case, said, standing, "where no count grows")


def _marks(schedule: Schedule) -> bool:
    """Whether it is `every`, `at` or a union of them."""
    if schedule.term == "|":
        return all(map(_marks, schedule.arguments))
    return schedule.term in ("every", "at")


def _holds_a_function(schedule: Schedule) -> bool:
    """Whether a `where` is in it."""
    parts = schedule.expression.arguments
    inner = [part for part in parts if isinstance(part, Schedule)]
    return schedule.term == "where" or any(map(_holds_a_function, inner))


def _through_a_pickle(schedule: Schedule) -> Schedule:
    """The schedule as another process gets it; itself where it holds a local function."""
    try:
        stored = pickle.dumps(schedule)
    except Exception:
        if _holds_a_function(schedule):
            return schedule
        raise
    made: Schedule = pickle.loads(stored)
    return made


HIDDEN = (
    "Answer from the tick and the memory handed in alone: what is kept anywhere else is lost "
    "when a run is resumed."
)

LAWS = (
    Law("asked again it answers alike", _not_repeated, HIDDEN),
    Law(
        "it answers True or False on every tick",
        _unanswered,
        "Answer on the opening and the closing tick too, where no count grows, with a horizon "
        "that isn't known, and before a metric was ever produced.",
    ),
    Law(
        "its memory is made of numbers, strings, booleans, None and tuples",
        _not_plain,
        "Nothing else is stored; what remembers begins with something other than None.",
    ),
    Law("fires(...) says what its first step says", _not_alone, "Let both call one function."),
    Law(
        "marks are additive, and passed by updates alone",
        _not_additive,
        "Compare the marks passed at `before` with those passed at `now`.",
    ),
    Law(
        "~, & and | are pointwise on ticks",
        _not_pointwise,
        "The operators go by its expression; let it say what the schedule does.",
    ),
    Law("its text builds it again", _not_rebuilt, "Build it from the terms of noether.schedules."),
    Law(
        "its copies are equal to it and answer alike",
        _not_copied,
        "Give where(...) a function of a module, or an instance of a frozen dataclass.",
    ),
    Law("a split run fires as the unbroken one", _split, HIDDEN),
    Law(
        "a restart changes no firing",
        _restarted,
        "Leave the session out of what decides at updates and at the end.",
    ),
    Law(
        "next_update skips no firing and no change of memory",
        _slept_through,
        "It is a lower bound: say the next update where that isn't known.",
    ),
    Law(
        "what awaits metrics sleeps until one is produced",
        _woken_by_nothing,
        "Let awaits be None, or name all the metrics.",
    ),
)
"""In this order: the first asks before any other could stir up what is hidden."""
