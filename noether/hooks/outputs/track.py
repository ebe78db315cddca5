"""What the loss function returns beside the loss, over the updates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from typing import Any, Literal

from noether.callback import Callback, factory
from noether.effects import Effect, Log, Say, Write
from noether.hooks.outputs.names import chosen, number, stamp, texts
from noether.state import TrainState

Values = Mapping[str, Any]
Sums = Mapping[str, tuple[Any, int]]
"""Sums of an output's numbers, still on the device, and how many they are."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """Sums over the updates since the last firing, and over the one under way."""

    whole: Sums
    update: Sums


@factory
def track_outputs(
    *,
    keys: Sequence[str] | None = None,
    patterns: Sequence[str] | None = None,
    reduce: Literal["mean", "last"] = "mean",
    verbose: bool = False,
    log_output: bool = True,
    save_output: bool = False,
) -> Callback:
    """Log `{key}/{I}`: outputs of the loss function, of these `keys` or containing a pattern.

    `mean` is over all numbers that the micro-batches since the last firing gave, `last` over those
    of the firing update's last one; both leave out updates skipped for being non-finite. Ranks are
    averaged. Outputs that are no mapping have the key `outputs`. With `verbose` they are said too,
    with `save_output` written as `update_outputs/{key}_{I}_E{e}_U{u}_S{s}`: the mean, or the whole
    output that was the last.

    Raises ValueError where neither keys nor patterns are given, or nothing is to be done with them;
    LookupError, with the names there are, in an update without one of the keys.

    >>> track_outputs(keys=["residual"], patterns=["head"]).writes
    ('residual/{I}', '*head*/{I}')
    """
    wanted = texts("track_outputs: keys", keys), texts("track_outputs: patterns", patterns)
    _check(wanted, reduce, log_output=log_output, save_output=save_output)
    found = (*(escape(key) for key in wanted[0]), *(f"*{escape(part)}*" for part in wanted[1]))
    rest: Any = {
        "reads": (),
        "writes": tuple(f"{name}/{{I}}" for name in found) if log_output else (),
        "on_error": "warn",
    }

    def pick(state: TrainState) -> dict[str, Any]:
        return chosen(state.outputs, *wanted, "track_outputs")

    def report(state: TrainState, means: Values, kept: Values) -> list[Effect]:
        logged = [Log({f"{key}/{{I}}": m for key, m in means.items()})]
        said = [_said(state, key, mean) for key, mean in means.items()] if verbose else []
        saved = [Write(_file(state, key), value) for key, value in kept.items()]
        return [*(logged if log_output and means else ()), *said, *(saved if save_output else ())]

    return _last(pick, report, rest) if reduce == "last" else _mean(pick, report, rest)


Pick = Callable[[TrainState], dict[str, Any]]
Report = Callable[[TrainState, Values, Values], list[Effect]]


def _mean(pick: Pick, report: Report, rest: Mapping[str, Any]) -> Callback:
    def add(state: TrainState, tracked: Tracked) -> tuple[Tracked, None]:
        numbers = {key: number(key, output) for key, output in pick(state).items()}
        sums = {key: (found.sum(), found.numel()) for key, found in numbers.items()}
        return Tracked(tracked.whole, _added(tracked.update, sums)), None

    def report_mean(state: TrainState, tracked: Tracked) -> tuple[Tracked, list[Effect]]:
        means = {key: total / count for key, (total, count) in tracked.whole.items() if count}
        return Tracked({}, {}), report(state, means, means)

    return Callback(
        "track_outputs",
        init=_nothing,
        after_accumulation_step=add,
        after_update=_settle,
        on_schedule=report_mean,
        **rest,
    )


def _settle(state: TrainState, tracked: Tracked) -> tuple[Tracked, None]:
    """Keep what an update gave, unless it was skipped."""
    kept = _added(tracked.whole, tracked.update) if state.performed else tracked.whole
    return Tracked(kept, {}), None


def _added(one: Sums, other: Sums) -> Sums:
    return {**one, **{key: _both(one.get(key, (0.0, 0)), part) for key, part in other.items()}}


def _both(one: tuple[Any, int], other: tuple[Any, int]) -> tuple[Any, int]:
    return one[0] + other[0], one[1] + other[1]


def _nothing(state: TrainState) -> Tracked:
    return Tracked({}, {})


def _last(pick: Pick, report: Report, rest: Mapping[str, Any]) -> Callback:
    def report_last(state: TrainState) -> list[Effect]:
        if state.event != "update" or not state.performed:
            return []
        found = pick(state)
        numbers = {key: number(key, output) for key, output in found.items()}
        means = {key: held.mean() for key, held in numbers.items() if held.numel()}
        return report(state, means, found)

    return Callback("track_outputs", on_schedule=report_last, **rest)


def _said(state: TrainState, key: str, mean: Any) -> Say:
    # The one place where a due tick waits for the device; the mean over ranks is known later.
    here = "" if state.world_size == 1 else " on rank 0"
    return Say(f"{key} {float(mean):.4g}{here}")


def _file(state: TrainState, key: str) -> str:
    return f"update_outputs/{key.replace('/', '.')}_{{I}}_{stamp(state)}"


def _check(
    wanted: tuple[Sequence[str], Sequence[str]], reduce: str, *, log_output: bool, save_output: bool
) -> None:
    if not any(wanted):
        raise ValueError("track_outputs: keys and patterns are empty; expected one at least")
    if reduce not in ("mean", "last"):
        raise ValueError(f"track_outputs: reduce is {reduce!r}; expected 'mean' or 'last'")
    if not log_output and not save_output:
        raise ValueError("track_outputs: log_output and save_output are false; set one at least")
