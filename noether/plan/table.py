"""A plan as text for a terminal: the order with its dataflow, the calendar, the time line."""

from collections.abc import Sequence
from itertools import islice

from noether.forecast import Forecast
from noether.lines import aligned
from noether.plan.bars import bars
from noether.plan.calendar import Entry, busiest, calendar
from noether.plan.planning import Plan

FIRST = 12
"""Ticks of the calendar that are shown."""
TOGETHER = 5
"""Ticks shown of those at which most callbacks coincide."""
SEARCHED = 20_000
"""Ticks of the calendar among which they are looked for."""


def table(plan: Plan, width: int = 100, *, ascii: bool = False) -> str:
    """The plan in lines: order, calendar, coincidences, time line, and what is not known."""
    parts = [
        order(plan),
        first(plan),
        coincidences(plan),
        ["time line", *(f"  {row}" for row in bars(plan, width - 2, ascii=ascii))],
        unknown(plan),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def order(plan: Plan) -> list[str]:
    """The callbacks in the fold's order, with who reads what from whom."""
    head = ("order", "runs", "schedule", "reads", "writes")
    return aligned([head, *(row(found, plan) for found in plan.forecasts)])


def row(found: Forecast, plan: Plan) -> tuple[str, ...]:
    callback = found.callback
    reads = [
        f"{metric} from {', '.join(names)}" if names else metric
        for metric, names in plan.sources(callback).items()
    ]
    schedule = "" if callback.schedule is None else str(callback.schedule)
    writes = [key.replace("{I}", callback.label) for key in callback.writes or ()]
    return callback.name, times(found), schedule, "; ".join(reads), ", ".join(writes)


def times(found: Forecast) -> str:
    """How often it runs: a number, or its bounds."""
    if found.callback.on_schedule is None:
        return "-"
    least, most = found.sure.count, found.possible.count
    return f"{least:,}" if least == most else f"{least:,}..{most:,}"


def first(plan: Plan) -> list[str]:
    """The first ticks of the calendar."""
    last = plan.line.at(plan.line.stop)
    counts = f"{last.epoch:,} epochs, {last.update:,} updates, {last.sample:,} samples"
    found = list(islice(calendar(plan), FIRST + 1))
    more = ["  ..."] if len(found) > FIRST else []
    return [f"calendar of {counts}", *told(found[:FIRST]), *more]


def coincidences(plan: Plan) -> list[str]:
    """The ticks at which most callbacks fire together."""
    found = busiest(plan, TOGETHER, within=SEARCHED)
    if not found:
        return []
    many = sum(forecast.sure.count for forecast in plan.forecasts) > SEARCHED
    of = f", of the first {SEARCHED:,} ticks" if many else ""
    return [f"most at once{of}", *told(sorted(found, key=lambda e: e.now.update))]


def told(entries: Sequence[Entry]) -> list[str]:
    head = ("tick", "epoch", "update", "sample", "fires")
    rows = [
        (e.tick, *(f"{n:,}" for n in (e.now.epoch, e.now.update, e.now.sample)), ", ".join(e.fires))
        for e in entries
    ]
    return [f"  {line}" for line in aligned([head, *rows], right=(1, 2, 3))]


def unknown(plan: Plan) -> list[str]:
    """What can't be known beforehand, and what decides it."""
    found = [found for found in plan.forecasts if found.unknown]
    lines = [(f"  {f.callback.name}", f"by {', '.join(f.unknown)}") for f in found]
    return ["decided as the run goes", *aligned(lines)] if lines else []
