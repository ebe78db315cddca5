"""The laws of schedules have teeth: each catches a fault that was planted for it.

A fault is a function of `noether.schedules` with a stretch of its source replaced. Its code takes
the place of the original's, so that everybody who holds the function runs the faulty one.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from textwrap import dedent
from types import CodeType, FunctionType
from typing import Any, TypeAlias

import pytest
from hypothesis import Phase, is_hypothesis_test, settings

from tests.laws import test_agenda
from tests.laws import test_schedules as laws

Law: TypeAlias = Callable[..., Any]

SETTINGS = "_hypothesis_internal_use_settings"
"""Where a law keeps its settings."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake that someone could make."""

    claim: str
    where: str
    """The function, by its module in `noether.schedules` and its name."""
    old: str
    new: str
    laws: tuple[Law, ...]
    """Each of them must catch it."""
    raises: type[Exception] = AssertionError


MARKS = (
    Fault(
        "every is a modulo of where the tick ends",
        "counting.growing",
        "passed > (count(tick.before) - first) // period",
        "(count(tick.now) - first) % period == 0",
        (laws.test_every_of_samples_is_growth_of_the_quotient, laws.test_marks_are_additive),
    ),
    Fault(
        "every loses its first mark",
        "counting.growing",
        "passed >= 0",
        "passed > 0",
        (
            laws.test_every_on_a_unit_counter_is_divisibility,
            laws.test_every_of_samples_is_growth_of_the_quotient,
        ),
    ),
    Fault(
        "every forgets its start",
        "counting.every",
        "n if start is None else start)",
        "n)",
        (laws.test_every_fires_where_a_multiple_is_passed,),
    ),
    Fault(
        "every begins a period after its start",
        "counting.every",
        "n if start is None else start)",
        "n if start is None else start + n)",
        (laws.test_every_fires_where_a_multiple_is_passed,),
    ),
    Fault(
        "every fires before its start",
        "counting.growing",
        "passed >= 0 and",
        "",
        (laws.test_every_fires_where_a_multiple_is_passed,),
    ),
    Fault(
        "every fires at 0",
        "counting.growing",
        "(count(tick.before) - first)",
        "((count(tick.before) or -1) - first)",
        (laws.test_every_fires_where_a_multiple_is_passed,),
    ),
    Fault(
        "every is mute in a resumed session",
        "counting.growing",
        "passed >= 0",
        "passed >= 0 and tick.now.session == 1",
        (laws.test_a_restart_changes_no_firing,),
    ),
    Fault(
        "seconds are sums of floats",
        "units.nanoseconds",
        "int((2 * NANOSECONDS * numerator + denominator) // (2 * denominator))",
        "int(progress.seconds * NANOSECONDS)",
        (laws.test_every_of_seconds_neither_drifts_nor_bursts,),
    ),
    Fault(
        "a tenth of a second is the float beside it",
        "units.scaled",
        "exact(amount)",
        "Fraction(amount)",
        (laws.test_every_of_seconds_neither_drifts_nor_bursts,),
    ),
    Fault(
        "at takes the mark a tick begins at for the one it ends at",
        "counting.passing",
        "count(tick.before) < mark <= count(tick.now)",
        "count(tick.before) <= mark < count(tick.now)",
        (
            laws.test_at_fires_exactly_once_when_its_point_is_reached,
            laws.test_at_fires_in_the_ticks_that_pass_its_points,
        ),
    ),
    Fault(
        "at of several points takes them for windows",
        "counting.passing",
        "> bisect_right(marks, count(tick.before))",
        "> 0",
        (laws.test_at_fires_in_the_ticks_that_pass_its_points,),
    ),
    Fault(
        "at remembers in a hidden place that it has fired",
        "counting.passing",
        "return lambda tick: bool(count(tick.before) < mark <= count(tick.now))",
        "spent: list[int] = []\n"
        "        return lambda tick: bool(not spent and count(tick.before) < mark <= "
        "count(tick.now) and not spent.append(1))",
        (laws.test_what_remembers_nothing_answers_from_the_tick_alone,),
    ),
)

SHARES = (
    Fault(
        "the last share is missing",
        "shares.every_share",
        "most = int(1 / part)",
        "most = int(1 / part) - 1",
        (laws.test_a_share_of_one_mth_fires_m_times_and_last_at_the_end,),
    ),
    Fault(
        "shares are rounded down",
        "shares.every_share",
        "int(update // (part * total))",
        "math.ceil((update + 1) / (part * total)) - 1",
        (laws.test_shares_are_exact_ratios,),
    ),
    Fault(
        "shares are counted in floats",
        "shares.every_share",
        "update // (part * total)",
        "update // float(part * total)",
        (
            laws.test_a_share_of_one_mth_fires_m_times_and_last_at_the_end,
            laws.test_shares_are_exact_ratios,
        ),
    ),
    Fault(
        "a share is the float, not the ratio it was meant to be",
        "shares.share",
        "return exact(part)",
        "return Fraction(part)",
        (laws.test_shares_are_exact_ratios,),
    ),
)

WINDOWS = (
    Fault(
        "after holds at its edge",
        "windows.after",
        "scaled(unit, k) // 1 + 1",
        "scaled(unit, k) // 1",
        (laws.test_until_is_what_after_is_not, laws.test_a_window_never_shifts_the_phase),
    ),
    Fault(
        "until ends before its edge",
        "windows.until",
        "(None, scaled(unit, k))",
        "(None, scaled(unit, k) - 1)",
        (laws.test_until_is_what_after_is_not, laws.test_a_window_never_shifts_the_phase),
    ),
    Fault(
        "between leaves out its first count",
        "windows.inside",
        "first <= count(tick.now) <= last",
        "first < count(tick.now) <= last",
        (laws.test_a_window_holds_where_all_its_counts_are_inside,),
    ),
    Fault(
        "between looks at where the tick begins",
        "windows.inside",
        "first <= count(tick.now) <= last",
        "first <= count(tick.before) <= last",
        (laws.test_a_window_holds_where_all_its_counts_are_inside,),
    ),
    Fault(
        "a window looks at the first of its units only",
        "windows.window",
        "all_of(tests)",
        "tests[0]",
        (laws.test_a_window_holds_where_all_its_counts_are_inside,),
    ),
    Fault(
        "marks are counted from the window's entrance",
        "algebra.conjunction",
        'parts = flat("&", schedules)',
        'parts = flat("&", schedules)\n'
        '    if [part.term for part in parts] == ["every", "after"]:\n'
        "        from noether.schedules.counting import every\n"
        "        [[(unit, n)], [(_, k)]] = [part.arguments for part in parts]\n"
        "        parts = (every(start=n + k, **{unit: n}), parts[1])",
        (laws.test_a_window_never_shifts_the_phase,),
    ),
)

ALGEBRA = (
    Fault(
        "and is or",
        "algebra.all_of",
        "left(tick) and right(tick)",
        "left(tick) or right(tick)",
        (
            laws.test_operators_are_pointwise,
            laws.test_boolean_algebra,
            laws.test_windows_only_drop_marks,
        ),
    ),
    Fault(
        "or is exclusive",
        "algebra.any_of",
        "left(tick) or right(tick)",
        "left(tick) != right(tick)",
        (laws.test_operators_are_pointwise, laws.test_boolean_algebra),
    ),
    Fault(
        "not goes through and without turning it",
        "algebra.negation",
        'return joined("~"',
        'if schedule.term == "&":\n'
        "        return conjunction(*map(negation, schedule.arguments))\n"
        '    return joined("~"',
        (laws.test_boolean_algebra,),
    ),
    Fault(
        "and nests instead of joining",
        "algebra.flat",
        "schedule.expression.arguments if same else (schedule,)",
        "(schedule,)",
        (laws.test_joining_is_associative,),
    ),
    Fault(
        "what remembers isn't stepped once the answer is clear",
        "algebra.stepped",
        "stepped = [part.step(tick, kept) for part, kept in zip(parts, memory, strict=True)]",
        "stepped, clear = [], False\n"
        "        for part, kept in zip(parts, memory, strict=True):\n"
        "            stepped.append((False, kept) if clear else part.step(tick, kept))\n"
        "            clear = clear or stepped[-1][0] is {'&': False, '|': True}.get("
        "expression.term)",
        (laws.test_what_remembers_is_stepped_whatever_the_others_say,),
    ),
    Fault(
        "or is and where something remembers",
        "algebra.stepped",
        '"|": any',
        '"|": all',
        (laws.test_what_remembers_is_stepped_whatever_the_others_say,),
    ),
    Fault(
        "the opening tick is that of any session",
        "events.opens_run",
        " and tick.now.session == 1",
        "",
        (laws.test_events_name_their_ticks,),
    ),
)

FIRINGS = (
    Fault(
        "first stops one too early",
        "firings.numbered",
        "count < n)",
        "count < n - early)",
        (laws.test_first_and_skip_part_the_firings_at_the_nth,),
    ),
    Fault(
        "skip lets one too many through",
        "firings.numbered",
        "count < n)",
        "count < n - (not early))",
        (laws.test_first_and_skip_part_the_firings_at_the_nth,),
    ),
    Fault(
        "first counts ticks, not firings",
        "firings.numbered",
        "return False, (count, kept)",
        "return False, (min(count + 1, n), kept)",
        (laws.test_first_and_skip_part_the_firings_at_the_nth,),
    ),
    Fault(
        "a cooldown is a tick too long",
        "firings.cooldown",
        "now - last < distance",
        "now - last <= distance",
        (laws.test_a_cooldown_takes_each_firing_that_is_far_from_those_taken,),
    ),
    Fault(
        "a cooldown remembers its first firing only",
        "firings.cooldown",
        "return True, (now, kept)",
        "return True, (now if last is None else last, kept)",
        (laws.test_a_cooldown_takes_each_firing_that_is_far_from_those_taken,),
    ),
    Fault(
        "a cooldown begins anew with each firing it drops",
        "firings.cooldown",
        "return False, (last, kept)",
        "return False, (now if fires else last, kept)",
        (laws.test_a_cooldown_takes_each_firing_that_is_far_from_those_taken,),
    ),
    Fault(
        "memory is hidden, not handed out",
        "schedule.remembering",
        "parts = tuple(parts)",
        "parts, pure, hidden = tuple(parts), step, [initial]\n"
        "    def step(tick, memory):\n"
        "        fires, hidden[0] = pure(tick, hidden[0])\n"
        "        return fires, hidden[0]",
        (laws.test_a_split_run_fires_as_the_unbroken_one,),
    ),
    Fault(
        "memory is a list",
        "firings.numbered",
        "(min(count + 1, n), kept)",
        "[min(count + 1, n), kept]",
        (laws.test_memory_is_made_of_plain_values,),
    ),
)

METRICS = (
    Fault(
        "when alone fires on stale values",
        "metrics.when",
        "lambda tick: metric in tick.fresh",
        "lambda tick: metric in tick.metrics",
        (laws.test_when_alone_fires_where_its_metric_is_produced,),
    ),
    Fault(
        "when compares stale values",
        "metrics.when",
        "metric in tick.fresh and",
        "metric in tick.metrics and",
        (laws.test_when_compares_the_values_produced,),
    ),
    Fault(
        "NaN improves",
        "metrics.improves",
        "not math.isfinite(value)",
        "math.isinf(value)",
        (laws.test_an_improvement_is_a_new_best,),
    ),
    Fault(
        "an equal value improves",
        "metrics.improves",
        "> min_delta",
        ">= min_delta",
        (laws.test_an_improvement_is_a_new_best,),
    ),
    Fault(
        "an improvement is over the last value, not the best",
        "metrics.on_improvement",
        "return False, memory",
        "return False, (tick.metrics.get(metric, memory[0]),)",
        (laws.test_an_improvement_is_a_new_best,),
    ),
    Fault(
        "a plateau counts stale values",
        "metrics.on_plateau",
        "metric not in tick.fresh",
        "metric not in tick.metrics",
        (laws.test_a_plateau_is_each_nth_value_since_the_last_best,),
    ),
    Fault(
        "a plateau never begins anew",
        "metrics.on_plateau",
        "(stale + 1) % patience",
        "stale + 1",
        (laws.test_a_plateau_is_each_nth_value_since_the_last_best,),
    ),
    Fault(
        "a plateau goes on through an improvement",
        "metrics.on_plateau",
        "(tick.metrics[metric], 0)",
        "(tick.metrics[metric], stale)",
        (laws.test_a_plateau_is_each_nth_value_since_the_last_best,),
    ),
)

LOOKING_AHEAD = (
    Fault(
        "a union rests till the last of its parts",
        "algebra.resting",
        "min(moments, default=None)",
        "max(moments, default=None)",
        (test_agenda.test_what_waits_for_the_clock_rests_no_longer_than_till_it_fires,),
    ),
    Fault(
        "a union that waits for the clock forgets its counters",
        "algebra.resting",
        "min(updates, default=None), min",
        "None, min",
        (test_agenda.test_what_waits_for_the_clock_rests_no_longer_than_till_it_fires,),
    ),
    Fault(
        "the next multiple is looked for one too late",
        "counting.next_multiple",
        "first + ordinal * period",
        "first + ordinal * period + 1",
        (
            laws.test_next_update_is_exact_for_every,
            laws.test_next_update_skips_no_mark_and_no_entrance,
        ),
    ),
    Fault(
        "the next multiple is looked for at once",
        "counting.next_multiple",
        "max((count(now) - first) // period + 1, 0)",
        "0",
        (
            laws.test_next_update_is_exact_for_every,
            laws.test_next_update_is_exact_for_epochs_of_one_length,
        ),
    ),
    Fault(
        "the next point is looked for one too late",
        "counting.next_point",
        "else marks[passed]",
        "else marks[passed] + 1",
        (
            laws.test_next_update_is_exact_for_at,
            laws.test_next_update_skips_no_mark_and_no_entrance,
        ),
    ),
    Fault(
        "a window is looked for one too late",
        "windows.entrance",
        "reach(unit, first, now, pace)",
        "reach(unit, first, now, pace) + 1",
        (laws.test_next_update_skips_no_mark_and_no_entrance,),
    ),
    Fault(
        "samples are looked for one too late",
        "units.reach",
        "now.update - (-missing // pace.samples_per_update)",
        "now.update - (-missing // pace.samples_per_update) + 1",
        (laws.test_next_update_skips_no_mark_and_no_entrance,),
    ),
    Fault(
        "epochs are looked for one too late",
        "units.epoch_end",
        "in_turn = now.update + 1",
        "in_turn = now.update + 2",
        (
            laws.test_next_update_is_exact_for_epochs_of_one_length,
            laws.test_next_update_skips_no_mark_and_no_entrance,
        ),
    ),
    Fault(
        "every share is looked for one too late",
        "shares.every_share",
        "math.ceil((ordinal + 1) * part * total)",
        "math.ceil((ordinal + 1) * part * total) + 1",
        (laws.test_next_update_skips_no_mark_and_no_entrance,),
    ),
    Fault(
        "a share is looked for one too late",
        "shares.at_shares",
        "math.ceil(parts[ordinal] * total)",
        "math.ceil(parts[ordinal] * total) + 1",
        (laws.test_next_update_skips_no_mark_and_no_entrance,),
    ),
    Fault(
        "what remembers a metric is never asked",
        "metrics.of_metric",
        "initial, soon",
        "initial, lambda now, pace: None",
        (laws.test_next_update_skips_no_firing_and_no_change_of_memory,),
    ),
    Fault(
        "not is asked only where its schedule could fire",
        "algebra.negation",
        "soon)",
        "schedule.ahead)",
        (laws.test_next_update_looks_into_every_part,),
    ),
    Fault(
        "or waits for all of its parts",
        "algebra.earliest",
        "min(bounds",
        "max(bounds",
        (laws.test_next_update_looks_into_every_part,),
    ),
    Fault(
        "and doesn't wait for all of its parts",
        "algebra.latest",
        "max(bounds)",
        "min(bounds)",
        (laws.test_a_conjunction_is_asked_no_sooner_than_any_of_its_parts,),
    ),
    Fault(
        "and leaves its parts that remember unasked",
        "algebra.latest",
        "alone = watched(now, pace)",
        "alone = None",
        (laws.test_next_update_looks_into_every_part,),
    ),
)

TEXT = (
    Fault(
        "text loses parentheses",
        "expression.operand",
        'f"({schedule})" if loose',
        'f"{schedule}" if loose',
        (laws.test_text_round_trip, laws.test_text_is_the_python_that_builds_the_schedule),
    ),
    Fault(
        "text loses the start",
        "expression.call",
        "in expression.options]",
        'in expression.options if name != "start"]',
        (
            laws.test_text_round_trip,
            laws.test_text_is_the_python_that_builds_the_schedule,
        ),
    ),
    Fault(
        "in text, or binds tighter than and",
        "text.union",
        'return chained(tokens, depth, "|", intersection, disjunction)',
        "def loose(tokens, depth):\n"
        '        return chained(tokens, depth, "|", operand, disjunction)\n'
        '    return chained(tokens, depth, "&", loose, conjunction)',
        (laws.test_operators_bind_in_text_as_in_python,),
    ),
    Fault(
        "in text, not binds looser than and",
        "text.operand",
        "negation(operand(tokens, depth + 1))",
        "negation(intersection(tokens, depth + 1))",
        (laws.test_operators_bind_in_text_as_in_python,),
    ),
    Fault(
        "a division by zero escapes from text",
        "text.literal",
        "except ArithmeticError",
        "except OverflowError",
        (laws.test_any_text_is_a_schedule_or_a_value_error,),
        ZeroDivisionError,
    ),
    Fault(
        "pickles lose all options but one",
        "terms.built",
        "dict(options)",
        "dict(options[:1])",
        (laws.test_copies_are_equal_and_answer_alike,),
    ),
)

AWAITING = (
    Fault(
        "a union sleeps until the metric of one part comes",
        "algebra.awaited",
        "names and len(known) == len(names)",
        "known",
        (test_agenda.test_what_awaits_metrics_sleeps_through_the_updates_that_produce_none,),
    ),
    Fault(
        "an intersection lets what remembers sleep with the others",
        "algebra.awaited",
        "tuple(p for p in parts if p.initial is not None) or tuple(able[:1])",
        "tuple(able[:1])",
        (test_agenda.test_what_awaits_metrics_sleeps_through_the_updates_that_produce_none,),
    ),
    Fault(
        "what is not a metric's condition sleeps when the metric is stale",
        "algebra.awaited",
        'operator == "~"',
        "not operator",
        (test_agenda.test_what_awaits_metrics_sleeps_through_the_updates_that_produce_none,),
    ),
)

FAULTS = (
    *(*MARKS, *SHARES, *WINDOWS, *ALGEBRA, *FIRINGS, *METRICS),
    *(*LOOKING_AHEAD, *AWAITING, *TEXT),
)

CATCHES = [
    pytest.param(fault, law, id=f"{fault.claim} - {law.__name__}")
    for fault in FAULTS
    for law in fault.laws
]


def located(where: str) -> FunctionType:
    module, _, name = where.partition(".")
    found = getattr(import_module(f"noether.schedules.{module}"), name)
    assert isinstance(found, FunctionType)
    return found


def code_of(fault: Fault) -> CodeType:
    """The code of the faulty function, which sees the names that the original sees."""
    function = located(fault.where)
    source = dedent(inspect.getsource(function))
    assert source.count(fault.old) == 1, f"{fault.where} should have {fault.old!r} once."
    names = dict(function.__globals__)
    planted = compile(source.replace(fault.old, fault.new), f"<{fault.where}>", "exec")
    exec(planted, names)
    made = names[function.__name__]
    assert isinstance(made, FunctionType)
    return made.__code__


def plant(fault: Fault, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(located(fault.where), "__code__", code_of(fault))


def ask(law: Law, patch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Run a law on the same examples each time, and shrink none of them."""
    own = settings(getattr(law, SETTINGS), phases=(Phase.explicit, Phase.generate), **changes)
    ours = settings(own, database=None, derandomize=True, report_multiple_bugs=False)
    patch.setattr(law, SETTINGS, ours)
    law()


@pytest.mark.parametrize(("fault", "law"), CATCHES)
def test_a_planted_fault_is_caught(fault: Fault, law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(fault, monkeypatch)
    with pytest.raises(fault.raises):
        ask(law, monkeypatch)


PLACES = {(fault.where, law): fault for fault in FAULTS for law in fault.laws}


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        pytest.param(replace(fault, new=fault.old), law, id=f"{where} - {law.__name__}")
        for (where, law), fault in PLACES.items()
    ],
)
def test_planting_what_was_there_breaks_no_law(
    fault: Fault, law: Law, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(fault, monkeypatch)
    ask(law, monkeypatch, max_examples=10)


def test_every_law_catches_a_fault() -> None:
    stated = {law for law in vars(laws).values() if is_hypothesis_test(law)}
    assert stated <= {law for fault in FAULTS for law in fault.laws}


def test_faults_are_told_apart_by_their_claims() -> None:
    assert len({fault.claim for fault in FAULTS}) == len(FAULTS)
