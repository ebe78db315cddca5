"""The check of a schedule: all laws put to it, over invented runs."""

from collections.abc import Collection

from hypothesis import strategies as st

from noether.callback import Callback
from noether.schedules import Schedule, first
from noether.testing.cases import Case, Finding, told
from noether.testing.laws import BrokenLaw, examined
from noether.testing.schedule_laws import LAWS
from noether.testing.terms import constants, everies, windows
from noether.testing.walks import METRICS, Walk, names, progress_walks


def check_schedule(
    schedule: Schedule, *, max_examples: int = 100, metrics: Collection[str] | None = None
) -> None:
    """Put every law of schedules to a schedule, over invented runs; silent where all hold.

    The runs produce the metrics that its terms are about, and `metrics`: name those that a
    predicate of `where` looks at. Raises AssertionError naming the law that is broken, with the
    shortest run found that shows it.

    >>> from noether import every, where
    >>> def odd(tick):
    ...     return tick.now.update % 2 == 1
    >>> check_schedule(every(updates=3) | where(odd), max_examples=20)
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"check_schedule: {schedule!r} is no schedule. {_way_out(schedule)}")
    produced = names((*sorted(schedule.reads), *(METRICS if metrics is None else names(metrics))))
    examined(_cases(schedule, progress_walks(metrics=produced)), _check, max_examples)


def _way_out(value: object) -> str:
    if isinstance(value, Callback):
        return "Give its schedule, or put check_callback to it."
    if isinstance(value, str):
        return "Give parse(text) of it."
    return "Give where(predicate)." if callable(value) else "Give one, every(epochs=1) say."


OTHERS = constants | everies() | windows() | everies().map(lambda part: first(2, part))
"""What the schedule is joined with."""


PLACES = st.tuples(*[st.integers(0, 40)] * 3)


@st.composite
def _cases(draw: st.DrawFn, schedule: Schedule, runs: st.SearchStrategy[Walk]) -> Case:
    walk = draw(runs)
    # Drawn apart from the run's length, so that runs are shortened easily.
    a, b, c = sorted(n % len(walk.ticks) for n in draw(PLACES))
    return Case(schedule, walk, draw(OTHERS), (a, b, c), draw(st.booleans()))


def _check(case: Case) -> None:
    for law in LAWS:
        try:
            finding = law.broken(case)
        except Exception as error:
            finding = Finding(len(case.ticks) - 1, f"{type(error).__name__}: {error}", error)
        if finding is not None:
            raise BrokenLaw(told(case, law, finding)) from finding.cause
