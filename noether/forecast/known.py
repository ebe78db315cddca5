"""What is sure of a schedule beforehand, and what possible, where metrics or the clock decide."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from operator import or_

from noether.callback import Callback
from noether.schedules import Schedule, always, each_session, every, never
from noether.schedules.expression import units
from noether.schedules.terms import OPERATORS
from noether.schedules.units import CLOCK, PREDICTED

Production = Mapping[str, Schedule]
"""The metrics of a pipeline, each with the schedule of the ticks that may produce it."""


def surely(schedule: Schedule, production: Production) -> Schedule:
    """A schedule of counts that fires no oftener, whatever the metrics and the clock will say.

    >>> from noether import when
    >>> surely(every(updates=50) | when("loss") | every(hours=1), {})
    every(updates=50) | never | never
    """
    return bounded(schedule, sure=True, production=production)


def possibly(schedule: Schedule, production: Production) -> Schedule:
    """A schedule of counts that fires at least as often, whatever the metrics and the clock say.

    >>> from noether import after, when
    >>> possibly(when("loss") & after(epochs=2), {"loss": every(epochs=1)})
    every(epochs=1) & after(epochs=2)
    """
    return bounded(schedule, sure=False, production=production)


def bounded(schedule: Schedule, *, sure: bool, production: Production) -> Schedule:
    if schedule.predicted:
        return schedule
    expression = schedule.expression
    if expression.term == "~":
        return ~bounded(expression.arguments[0], sure=not sure, production=production)
    if expression.term in OPERATORS:
        parts = [bounded(p, sure=sure, production=production) for p in expression.arguments]
        return OPERATORS[expression.term](*parts)
    if sure:
        return never
    inner = [part for part in expression.arguments if isinstance(part, Schedule)]
    if inner:  # first, skip and cooldown fire no oftener than what they are of
        return bounded(inner[0], sure=False, production=production)
    if expression.term in ("every", "at"):  # whose marks are passed by updates only
        return every(updates=1)
    metrics = [production.get(metric, always) for metric in schedule.reads]
    return metrics[0] if metrics else always


def reporting(callback: Callback) -> Schedule:
    """The ticks at which a callback may report its metrics, going by the hooks that it has."""
    schedule = always if callback.schedule is None else callback.schedule
    each = (callback.after_update, callback.before_update, callback.after_accumulation_step)
    found = [
        (schedule, callback.on_schedule),
        (every(updates=1), any(each)),
        (every(epochs=1), callback.after_epoch),
        (each_session, callback.before_training),
    ]
    times = [when for when, there in found if there]
    return reduce(or_, times) if times else never


def union(schedules: Iterable[Schedule]) -> Schedule:
    """The ticks of any of them, whatever the metrics and the clock say."""
    found = [possibly(schedule, {}) for schedule in schedules]
    return reduce(or_, found) if found else never


def unknowns(schedule: Schedule) -> Iterator[str]:
    """What decides beside epochs, updates and samples: metrics, the clock, counters, functions.

    >>> from noether import cooldown, when
    >>> list(unknowns(cooldown(when("loss"), hours=1) | every(tokens=1000)))
    ['loss', 'the clock', 'tokens']
    """
    if schedule.predicted:
        return
    expression = schedule.expression
    inner = [part for part in expression.arguments if isinstance(part, Schedule)]
    for part in inner:
        yield from unknowns(part)
    if expression.term == "where":
        yield str(schedule)
    elif schedule.reads and not inner:
        yield from schedule.reads
    else:
        own = replace(expression, arguments=())
        foreign = (unit for unit in units(own) if unit not in PREDICTED)
        yield from ("the clock" if unit in CLOCK else unit for unit in foreign)
