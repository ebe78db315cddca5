"""A plan as JSON, written in pieces: the calendar of a long run has one line for each tick."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from noether.callback import HOOKS
from noether.forecast import Forecast
from noether.plan.calendar import calendar
from noether.plan.planning import Plan


def document(plan: Plan) -> Iterator[str]:
    """The pieces of a JSON document: order, callbacks, calendar, horizon and warnings.

    `count` is null where metrics or the clock decide; then `at_least` and `at_most` bound it and
    `unknown` says what decides. The calendar holds what is sure.
    """
    last = plan.line.at(plan.line.stop)
    head = {
        "order": [found.callback.name for found in plan.forecasts],
        "total": {"epoch": last.epoch, "update": last.update, "sample": last.sample},
        "warnings": [{"callback": name, "message": why} for name, why in plan.warnings],
        "callbacks": [described(found, plan) for found in plan.forecasts],
    }
    yield json.dumps(head, indent=1)[:-2] + ',\n "calendar": ['
    separator = "\n  "
    for line in entries(plan):
        yield separator + line
        separator = ",\n  "
    yield "]\n}\n"


def described(found: Forecast, plan: Plan) -> dict[str, Any]:
    """A callback and what is known of its firings."""
    callback = found.callback
    sources = plan.sources(callback)
    return {
        "name": callback.name,
        "schedule": None if callback.schedule is None else str(callback.schedule),
        "hooks": [hook for hook in HOOKS if getattr(callback, hook) is not None],
        "reads": list(sources),
        "reads_from": sources,
        "writes": [key.replace("{I}", callback.label) for key in callback.writes or ()],
        "count": found.count,
        "at_least": found.sure.count,
        "at_most": found.possible.count,
        "unknown": list(found.unknown),
    }


def entries(plan: Plan) -> Iterator[str]:
    """The lines of the calendar; a list of names is written once, however often it comes again."""
    names = cache(lambda fires: json.dumps(list(fires)))
    for entry in calendar(plan):
        now = entry.now
        yield (
            f'{{"tick": "{entry.tick}", "epoch": {now.epoch}, "update": {now.update}, '
            f'"sample": {now.sample}, "fires": {names(entry.fires)}}}'
        )
