from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether import every
from noether.config.hints import Mistake
from noether.config.structure import parameters, structured
from tests import sample_project as sample

EVERYTHING = parameters(sample.everything)


def no_kinds(entry: Mapping[str, Any]) -> tuple[Any, list[Mistake]]:
    return None, [Mistake(("kind",), f"no kind {entry['kind']}")]


def bound(function: Callable[..., Any], **options: Any) -> tuple[dict[str, Any], list[str]]:
    values, mistakes = structured(parameters(function), options, no_kinds)
    return values, [f"{'.'.join(map(str, m.path))}: {m.message}" for m in mistakes]


@pytest.mark.parametrize(
    ("option", "given", "expected"),
    [
        ("flag", True, True),
        ("count", 3, 3),
        ("share", 3, 3),
        ("share", 0.25, 0.25),
        ("word", "false", "false"),
        ("maybe", None, None),
        ("maybe", 2, 2),
        ("several", [1, 2], [1, 2]),
        ("pair", [1, 0.5], (1, 0.5)),
        ("many", ["a"], ("a",)),
        ("mode", "max", "max"),
        ("weights", {"a": 1}, {"a": 1}),
        ("either", False, False),
        ("either", {"progress": False}, {"progress": False}),
        ("path", "a/b", Path("a/b")),
        ("colour", "blue", sample.Colour.BLUE),
        ("window", {"low": 2}, sample.Window(2)),
        ("when", "every(updates=2)", every(updates=2)),
        ("when", every(updates=2), every(updates=2)),
        ("anything", [{"a": None}, "x", 1.5], [{"a": None}, "x", 1.5]),
        ("unhinted", {"a": [1]}, {"a": [1]}),
    ],
)
def test_what_a_hint_takes(option: str, given: object, expected: object) -> None:
    values, mistakes = bound(sample.everything, **{option: given})
    assert mistakes == []
    assert values == {option: expected}
    assert type(values[option]) is type(expected)


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("flag", "false", "flag: expected true or false, found 'false'"),
        ("flag", 1, "flag: expected true or false, found 1"),
        ("count", 1.7, "count: expected an integer, found 1.7"),
        ("count", "3", "count: expected an integer, found '3'"),
        ("count", True, "count: expected an integer, found true"),
        ("count", None, "count: expected an integer, found null"),
        ("share", "3", "share: expected a number, found '3'"),
        ("share", False, "share: expected a number, found false"),
        ("word", 5, "word: expected text, found 5"),
        ("maybe", "2", "maybe: expected an integer, found '2'"),
        ("several", "12", "several: expected a list, found '12'"),
        ("several", 3, "several: expected a list, found 3"),
        ("several", [1, "2", None], "several.1: expected an integer, found '2'"),
        ("pair", [1.0], "pair: expected 2 values, found 1"),
        ("pair", {"a": 1}, "pair: expected a list, found a mapping"),
        ("mode", "mn", "mode: expected 'min' or 'max', found 'mn'; Did you mean min?"),
        ("mode", ["min"], "mode: expected 'min' or 'max', found a list"),
        ("weights", {"a": "1"}, "weights.a: expected a number, found '1'"),
        ("weights", [1], "weights: expected a mapping, found a list"),
        ("either", {"progress": 0}, "either.progress: expected true or false, found 0"),
        ("either", 3, "either: expected true or false or a mapping, found 3"),
        ("path", 3, "path: expected a Path as a mapping with a `kind`, found 3"),
        ("colour", "green", "colour: expected 'red' or 'blue', found 'green'"),
        ("window", {"low": 1.5}, "window.low: expected an integer, found 1.5"),
        ("window", {}, "window.low: missing; expected a value"),
        ("window", {"low": 1, "hihg": 2}, "window.hihg: unknown option; Did you mean high?"),
        ("when", 3, "when: expected a schedule such as every(epochs=1), found 3"),
        ("when", "evry(updates=2)", "when: Schedule text, column 1: 'evry' is no schedule."),
        ("transform", "abs", "transform: expected a mapping with a `kind`"),
        ("transform", {"kind": "abs"}, "transform.kind: no kind abs"),
        ("anything", [{"kind": "x"}], "anything.0.kind: no kind x"),
        ("unhinted", {"a": {"kind": "x"}}, "unhinted.a.kind: no kind x"),
        ("cuont", 3, "cuont: unknown option; Did you mean count?"),
    ],
)
def test_what_a_hint_refuses(option: str, given: object, said: str) -> None:
    values, mistakes = bound(sample.everything, **{option: given})
    assert values == {}
    assert mistakes[0].startswith(said)


def test_all_mistakes_of_an_entry_come_at_once_and_what_is_right_stays() -> None:
    options = {"several": [1, "2", None], "count": 1.5, "word": "kept", "wrod": 1, "flag": "no"}
    values, mistakes = bound(sample.everything, **options)
    assert values == {"word": "kept"}
    assert sorted(mistakes) == [
        "count: expected an integer, found 1.5",
        "flag: expected true or false, found 'no'",
        "several.1: expected an integer, found '2'",
        "several.2: expected an integer, found null",
        "wrod: unknown option; Did you mean word?",
    ]


def test_required_options_are_named() -> None:
    assert bound(sample.scheduled_reader) == ({}, ["metric: missing; expected text"])


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
OF_TYPE = {"flag": (bool,), "count": (int,), "share": (float, int), "word": (str,)}


@given(st.sampled_from(sorted(OF_TYPE)), SCALARS)
def test_scalars_are_taken_by_their_exact_type_and_never_converted(name: str, value: Any) -> None:
    values, mistakes = structured({name: EVERYTHING[name]}, {name: value}, no_kinds)
    assert (not mistakes) == (type(value) in OF_TYPE[name])
    assert all(kept is value for kept in values.values())


def test_torch_optimizers_are_checked_by_their_signature() -> None:
    values, mistakes = bound(torch.optim.AdamW, params=None, lr=1, betas=[0.9, 0.99])
    assert mistakes == ["params: expected a list, found null"]
    assert values == {"lr": 1, "betas": (0.9, 0.99)}
    _, mistakes = bound(torch.optim.SGD, params=[], momentun=0.9, nesterov="yes")
    assert sorted(mistakes) == [
        "momentun: unknown option; Did you mean momentum?",
        "nesterov: expected true or false, found 'yes'",
    ]


def test_a_hint_that_only_type_checkers_can_read_takes_anything() -> None:
    values, mistakes = bound(torch.optim.lr_scheduler.ChainedScheduler, schedulers=[1])
    assert (values, mistakes) == ({"schedulers": [1]}, [])
