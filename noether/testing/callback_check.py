"""The check of a callback: it is folded over invented runs, whole and broken, and compared."""

import pickle
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st

from noether import fold as folding
from noether.callback import HOOKS, Callback, Hook, chain
from noether.dataflow import matches, needed, writes
from noether.effects import Log
from noether.fold import Outcome
from noether.schedules import Schedule
from noether.state import TrainState
from noether.testing.hook_laws import check_call
from noether.testing.laws import BrokenLaw, examined
from noether.testing.models import squared_error
from noether.testing.playing import Part, folded, parted, played, restored, stored
from noether.testing.states import States, snapshots
from noether.testing.traces import trace
from noether.testing.walks import names
from noether.testing.watching import Raises, told, watched
from noether.turn import Carry, Failure

OTHERS = ("other/loss", "other/accuracy")
"""Metrics that are reported beside those that a callback declares to read."""

Results = Mapping[str, Any] | st.SearchStrategy[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """A callback, the ticks of a run, and the place of the one before which it breaks off."""

    callback: Callback
    parts: Sequence[Part]
    cut: int
    raises: Raises

    @property
    def states(self) -> list[TrainState]:
        """All snapshots."""
        return [state for part in self.parts for state in part.states]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001
        printer.text(f"Case({self.callback})")  # hypothesis would write out the run


def check_callback(
    callback: Callback | Hook,
    *,
    max_examples: int = 50,
    results: Results | None = None,
    metrics: Collection[str] = OTHERS,
    raises: Raises = (),
    model: torch.nn.Module | None = None,
    loss: Callable[[Any, Any], Any] = squared_error,
) -> None:
    """Fold a callback over invented runs and put every law of callbacks to it; silent if all hold.

    The runs report the metrics that it reads, and `metrics`. `results` is what its data pass
    gives: a mapping, or a hypothesis strategy of them. `raises` are the errors that it raises on
    purpose; `model` and `loss` replace the small network of `snapshots`. Raises AssertionError
    naming the law that is broken, hook and progress.

    >>> from noether import Log, every
    >>> check_callback(every(updates=2)(lambda state: Log({"a": state.now.sample})), max_examples=5)
    """
    callback = _single(callback)
    given = _results(callback, results)
    reported = _reported(callback, names(metrics))
    within = any(getattr(callback, point) for point in WITHIN) or callback.point != "tick"
    runs = snapshots(within=within, metrics=reported, model=model, loss=loss)
    _check_copies(callback)
    folded(callback, ())  # which tells what no run would take
    examined(_cases(callback, runs, given, raises), _check, max_examples)


WITHIN = ("after_accumulation_step", "before_update")


def _single(callback: Callback | Hook) -> Callback:
    """The one callback that is checked."""
    if isinstance(callback, Schedule):
        raise TypeError(f"check_callback: {callback} is a schedule; use check_schedule")
    if isinstance(callback, tuple | list):
        raise TypeError("check_callback takes one callback, not a pipeline; check each of them")
    (single,) = chain(callback)
    return single


def _results(callback: Callback, results: Results | None) -> st.SearchStrategy[Mapping[str, Any]]:
    """What the callback's data pass gives, drawn for each tick."""
    if callback.data is None and results is not None:
        raise ValueError(f"{callback.name!r} has no data pass; leave results out")
    if callback.data is not None and results is None:
        raise ValueError(
            f"{callback.name!r} has a data pass over {callback.data.dataset!r}; "
            "give what it comes to: results={...}, or a hypothesis strategy of that"
        )
    return results if isinstance(results, st.SearchStrategy) else st.just(results or {})


def _reported(callback: Callback, others: tuple[str, ...]) -> list[str]:
    """The metrics that other callbacks report: what it reads, an instance of each glob, more."""
    optional = (re.sub(r"\*|\?|\[[^]]*\]", "x", name) for name in callback.reads_optional)
    return [m for m in (*needed(callback), *optional, *others) if not matches(m, writes(callback))]


def _check_copies(callback: Callback) -> None:
    """A callback of a known origin is a value."""
    law = "a callback with an origin is equal to its pickled copy"
    way_out = "Let its factory take plain values, and make equal callbacks of equal ones."
    try:
        again = _twin(callback)
    except Exception as error:
        finding = f"{type(error).__name__}: {error}"
        raise AssertionError(told(callback, "", law, finding, way_out)) from error
    if again != callback or hash(again) != hash(callback):
        finding = f"{again!r} is not {callback!r}"
        raise AssertionError(told(callback, "", law, finding, way_out))


def _twin(callback: Callback) -> Callback:
    """The callback as another process makes it, from its origin; itself where it has none."""
    if callback.origin is None:
        return callback
    # Schedules are values of their own, with a check of their own.
    made: Callback = pickle.loads(pickle.dumps(replace(callback, schedule=None)))
    return replace(made, schedule=callback.schedule)


@st.composite
def _cases(
    draw: st.DrawFn,
    callback: Callback,
    runs: st.SearchStrategy[States],
    results: st.SearchStrategy[Mapping[str, Any]],
    raises: Raises,
) -> Case:
    states = draw(runs)
    ticks = [state for state in states if state.event in ("start", "update", "end")]
    parts = parted(states, [draw(results) for _ in ticks])
    # Drawn apart from the run's length, so that runs are shortened easily.
    return Case(callback, parts, draw(st.integers(0, 40)) % len(parts), raises)


# ---------------------------------------------------------------- one run


def _check(case: Case) -> None:
    callback = watched(case.callback, case.raises, check_call)
    fold = folded(callback, case.states)
    begun = _accepted(case, folding.begin(fold, case.states[0], Carry()))
    # Stored at once: memories may be changed in place by the ticks to come.
    carry, saved, straight = begun.carry, _saved(case, begun.carry), []
    for place, outcome in enumerate(played(fold, case.parts, carry), start=1):
        carry = _accepted(case, outcome).carry
        saved = _saved(case, carry) if place == case.cut else saved
        straight.append((_trace(case, outcome), _asked(case, outcome)))
    _check_resumed(case, saved, straight)
    _check_elsewhere(case, callback, carry)


def _saved(case: Case, carry: Carry) -> bytes:
    """What a checkpoint keeps; memories have been found storable, schedules have not."""
    try:
        return stored(carry)
    except TypeError as error:
        law, way_out = "its schedule's memory can be stored", "Put check_schedule to it."
        raise BrokenLaw(told(case.callback, "schedule", law, str(error), way_out)) from error


def _asked(case: Case, outcome: Outcome) -> list[Any]:
    """Who asked for what in a tick."""
    return [(r.hook, r.effect) for r in outcome.requests if r.by == case.callback.name]


def _trace(case: Case, outcome: Outcome) -> Any:
    """What a resumed run must repeat."""
    failed = [str(failure.error) for failure in outcome.failures]
    memory = outcome.carry.memories.get(case.callback.name)
    return trace((_asked(case, outcome), failed, memory))


def _accepted(case: Case, outcome: Outcome) -> Outcome:
    """The outcome, found without a broken law."""
    for failure in outcome.failures:
        _check_failure(case, failure, outcome.state)
    for request in outcome.requests:
        if request.by == case.callback.name and isinstance(request.effect, Log):
            _check_log(case, request.hook, request.effect, outcome.state)
    return outcome


def _check_failure(case: Case, failure: Failure, state: TrainState) -> None:
    error = failure.error
    if isinstance(error, BrokenLaw):
        raise error
    if isinstance(error, case.raises):
        return
    law, way_out = "what a hook asks for can be served", "Log numbers, of metrics of its own."
    if failure.hook == "schedule":
        law, way_out = "its schedule answers on every tick", "Put check_schedule to it."
    where = f"{failure.hook}, {_at(state)}"
    finding = f"{type(error).__name__}: {error}"
    raise BrokenLaw(told(case.callback, where, law, finding, way_out)) from error


def _check_log(case: Case, hook: str, log: Log, state: TrainState) -> None:
    declared = writes(case.callback)
    stray = [metric for metric in log.metrics if not matches(metric, declared)]
    if case.callback.writes is not None and stray:
        law = "a hook logs what it declares to write"
        finding = f"{', '.join(stray)} is not among {', '.join(declared) or 'nothing'}"
        way_out = "Declare it in writes; globs are allowed."
        raise BrokenLaw(told(case.callback, f"{hook}, {_at(state)}", law, finding, way_out))


def _at(state: TrainState) -> str:
    return f"at update {state.now.update} (epoch {state.now.epoch}, {state.event})"


def _check_resumed(case: Case, saved: bytes, straight: Sequence[Any]) -> None:
    """Broken off and resumed from what was stored, the run goes on as it did."""
    callback = _twin(case.callback)
    fold = folded(callback, case.states)
    carry = folding.begin(fold, case.states[0], restored(callback, saved)).carry
    rest, cut = case.parts[case.cut :], "before the opening tick"
    if case.cut:
        opening = _opening(case.parts[case.cut - 1])
        cut = f"after update {opening.tick.now.update}"
        carry = next(played(fold, [opening], carry)).carry
    for outcome, (expected, asked) in zip(
        played(fold, rest, carry), straight[case.cut :], strict=True
    ):
        if _trace(case, outcome) != expected:
            again = _asked(case, outcome)
            asks = f"asks for {again}, unbroken for {asked}"
            same = "remembers something else than unbroken"
            finding = f"resumed {cut}, it {same if trace(again) == trace(asked) else asks}"
            law = "a split run goes on as the unbroken one"
            raise BrokenLaw(told(case.callback, _at(outcome.state), law, finding, HIDDEN))


def _opening(last: Part) -> Part:
    """The opening tick of a session that goes on after a tick."""
    now = replace(last.tick.now, session=last.tick.now.session + 1)
    start = replace(last.tick, event="start", before=now, now=now, fresh=frozenset(), losses={})
    return Part((start,), last.results)


HIDDEN = (
    "What is kept outside its memory is lost on resume; an opening tick's memory is dropped then, "
    "but for what it changes in place."
)


def _check_elsewhere(case: Case, callback: Callback, carry: Carry) -> None:
    """The hooks that no tick of training runs."""
    part = case.parts[-1]
    if callback.on_exception is not None:
        failed = replace(part.tick, reason=None, exception="RuntimeError: out of memory")
        fold = folded(callback, case.states)
        _accepted(case, folding.leave(fold, failed, carry, "on_exception"))
    if callback.at_evaluation is not None:
        alone: dict[str, Any] = dict.fromkeys(HOOKS)
        alone |= {"on_schedule": callback.at_evaluation, "schedule": None, "point": "tick"}
        fold = folded(replace(callback, **alone), case.states)
        for outcome in played(fold, [part], carry):
            _accepted(case, outcome)
