"""What a page about runs says, as plain values: sentences, curves, firings, times, settings."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from noether.live import span
from noether.plain import flat
from noether.report.reading import History, Series, settings

GROUPS = (
    "loss",
    "accuracy",
    "optim",
    "norms",
    "gradient",
    "throughput",
    "time",
    "system",
    "memory",
)
"""First parts of metrics' names, in the order of their plots; all others come after."""
APART = ("train_time", "time", "ds_stats", "param_count")
"""Those that no curve is drawn of: sizes, and times that have bars of their own."""
KEPT_OUT = "/at_best/"


def document(histories: Sequence[History]) -> dict[str, Any]:
    """The page's data: of each run what is told and drawn, and in what the runs differ."""
    told = [_run(made, name) for made, name in zip(histories, names(histories), strict=True)]
    return {"runs": told, "groups": _groups(histories), "differences": differences(histories)}


def names(histories: Sequence[History]) -> list[str]:
    """A short name for each run, unlike all others."""
    paths = [made.run.resolve() for made in histories]
    for parts in range(2, max(len(path.parts) for path in paths) + 1):
        found = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(found)) == len(found):
            return found
    return [f"{'/'.join(path.parts[-2:])} ({i})" for i, path in enumerate(paths, 1)]


def _run(made: History, name: str) -> dict[str, Any]:
    told = [f"{by} at update {at}: {why}" for by, at, why in made.stops]
    return {
        "name": name,
        "state": str(made.status.get("state", "unknown")),
        "headline": headline(made),
        "facts": facts(made),
        # A single one of a run that is done stands in the headline.
        "stops": told if made.status.get("state") != "done" or len(told) > 1 else [],
        "failed": [
            f"{by}: {times} times" for by, times in (made.status.get("failed") or {}).items()
        ],
        "sessions": made.sessions[1:],
        "series": {key: _curve(each) for key, each in made.series.items() if drawn(key)},
        "firings": [
            {"name": by, "count": each.count, "at": list(each)} for by, each in made.firings.items()
        ],
        "saves": sorted({at for each in made.saves.values() for at in each}),
        "clock": _clock(made),
        "evaluations": made.evaluations,
        "parts": _part_times(made),
        "hooks": _hook_times(made),
        "rows": made.rows,
        "config": made.config,
        "traceback": made.traceback if made.status.get("state") == "failed" else "",
    }


def headline(made: History) -> str:
    """What happened, and why it stopped, in a sentence or two."""
    state, reason = made.status.get("state", "unknown"), made.status.get("reason")
    at = made.position.get("update", 0)
    begun = {
        "done": f"Done at update {at}",
        "failed": f"Failed at update {at}",
        "preempted": f"Interrupted at update {at}; it can go on from there",
        "running": f"Running, at update {at}",
        "killed": f"Its process is gone, after update {at}; it can go on from a checkpoint",
    }.get(state, f"Its status is unknown; the last row is of update {at}")
    by = f" (asked by {made.stops[-1][0]})" if made.stops and state == "done" else ""
    return f"{begun}{f': {reason}' if reason else ''}{by}"


def facts(made: History) -> list[tuple[str, str]]:
    """Counts, time and the best values, each with what it is."""
    now = made.position
    found = [(name, f"{now[name]:,}") for name in ("epoch", "update", "sample") if name in now]
    if isinstance(now.get("seconds"), int | float):
        found.append(("training time", span(now["seconds"])))
    found.append(("sessions", str(len(made.sessions))))
    for name, each in made.series.items():
        if each.best is not None and name.count("/") and KEPT_OUT not in name and _total(name):
            at, value = each.best
            found.append((f"best {name}", f"{value:.4g} at update {at:,}"))
    return found


def _total(name: str) -> bool:
    """Whether a metric is a main one: no part of a loss, and not what training itself sees."""
    return "/online/" not in name and (not name.startswith("loss") or name.endswith("/total"))


def drawn(name: str) -> bool:
    """Whether a curve is drawn of a metric."""
    return name.split("/")[0] not in APART


def _curve(series: Series) -> dict[str, Any]:
    points = series.thinned.points()
    return {
        "x": [at for at, _ in points],
        "y": [value for _, value in points],
        "count": series.thinned.count,
        "best": series.best,
        "broken": list(series.broken),
    }


def _clock(made: History) -> dict[str, list[float]]:
    """Counts and seconds at some updates, between which they grow evenly."""
    points = made.clock.points()
    return {
        "update": [at for at, _ in points],
        "sample": [samples for _, (samples, _) in points],
        "seconds": [seconds for _, (_, seconds) in points],
    }


def _groups(histories: Iterable[History]) -> list[dict[str, Any]]:
    """Plots, each with its metrics."""
    keys = sorted({key for made in histories for key, each in made.series.items() if drawn(key)})
    keys = [
        key
        for key in keys
        if any(made.series[key].thinned.count for made in histories if key in made.series)
    ]
    firsts = sorted({key.split("/")[0] for key in keys}, key=lambda first: (_rank(first), first))
    return [
        {"title": first, "keys": [k for k in keys if k.split("/")[0] == first]} for first in firsts
    ]


def _rank(first: str) -> int:
    return GROUPS.index(first) if first in GROUPS else len(GROUPS)


def _part_times(made: History) -> dict[str, float]:
    """Seconds of each part of the loop over all of the run, where `train_time` logged them."""
    wanted = ("data_wait", "getitem", "collate", "forward", "backward", "update")
    found = {part: made.series.get(f"train_time/{part}/total") for part in wanted}
    told = {part: each.last for part, each in found.items() if each and math.isfinite(each.last)}
    if {"forward", "backward", "update"} <= told.keys():
        told["optimizer"] = told.pop("update") - told["forward"] - told["backward"]
    return told


def _hook_times(made: History) -> dict[str, float]:
    """Seconds of each callback at its last count, where `hook_times` logged them."""
    begin = "time/hook/"
    found = {
        key.removeprefix(begin): s.last for key, s in made.series.items() if key.startswith(begin)
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def differences(histories: Sequence[History]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all runs, with their values in each."""
    told = [flat(settings(made)) for made in histories]
    keys = dict.fromkeys(key for each in told for key in each)
    rows = [(key, [each.get(key, "not set") for each in told]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
