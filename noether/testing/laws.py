"""A law put to invented examples: the least one that breaks it is what is told."""

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

T = TypeVar("T")


class BrokenLaw(AssertionError):
    """A law that an example breaks; the text is what its user reads."""


def examined(cases: st.SearchStrategy[T], check: Callable[[T], None], max_examples: int) -> None:
    """Put a check to drawn cases; raises AssertionError with what it says of the least that fails.

    All else is as the hypothesis profile says: seed, whether to shrink. A check that fails and
    then passes for the same case counts as failed: something is kept in a hidden place.
    """
    broken: list[BrokenLaw] = []
    phases = [phase for phase in settings().phases if phase in (Phase.generate, Phase.shrink)]

    @settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        phases=phases,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(case=cases)
    def put(case: T) -> None:
        try:
            check(case)
        except BrokenLaw as error:
            broken.append(error)
            raise

    try:
        put()
    except (BrokenLaw, Flaky):
        if not broken:
            raise
        raise AssertionError(str(broken[-1])) from broken[-1].__cause__
