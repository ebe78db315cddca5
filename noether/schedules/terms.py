"""All terms by name: what text and pickles are built from."""

from collections.abc import Callable, Mapping
from typing import Any

from noether.schedules.algebra import conjunction, disjunction, negation
from noether.schedules.counting import at, every
from noether.schedules.events import always, each_session, never, once_at_end, once_at_start
from noether.schedules.firings import cooldown, first, skip
from noether.schedules.metrics import on_improvement, on_plateau, when
from noether.schedules.predicates import where
from noether.schedules.schedule import Schedule
from noether.schedules.windows import after, between, until

CONSTANTS: Mapping[str, Schedule] = {
    str(schedule): schedule
    for schedule in (always, each_session, never, once_at_end, once_at_start)
}

FACTORIES: Mapping[str, Callable[..., Schedule]] = {
    factory.__name__: factory
    for factory in (
        after,
        at,
        between,
        cooldown,
        every,
        first,
        on_improvement,
        on_plateau,
        skip,
        until,
        when,
        where,
    )
}

OPERATORS: Mapping[str, Callable[..., Schedule]] = {
    "&": conjunction,
    "|": disjunction,
    "~": negation,
}


def built(term: str, arguments: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> Schedule:
    """The schedule that an expression writes."""
    if term in CONSTANTS:
        return CONSTANTS[term]
    make = OPERATORS.get(term) or FACTORIES[term]
    return make(*arguments, **dict(options))
