import re

import pytest

from noether.schedules import (
    Schedule,
    after,
    always,
    at,
    between,
    cooldown,
    each_session,
    every,
    first,
    never,
    on_improvement,
    parse,
    until,
    when,
)


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("every(updates=100) & after(epochs=2)", every(updates=100) & after(epochs=2)),
        ("every(updates=1_000,)", every(updates=1000)),
        ("  every ( seconds = 1e-1 )\n", every(seconds=0.1)),
        ("at(epochs=[1, 5, 20])", at(epochs=[1, 5, 20])),
        ("at(epochs=(1, 5, 20))", at(epochs=[1, 5, 20])),
        ("between(updates=(2, 4))", between(updates=(2, 4))),
        ("when('a\\'b\"c', '>', -.5)", when("a'b\"c", ">", -0.5)),
        ('when("a\\n\\u00e9/\\\\")', when("a\né/\\")),
        ('when("m", "<", 1/4)', when("m", "<", 0.25)),
        ("first(2, (always | never))", first(2, always | never)),
        ("cooldown(~each_session, minutes=5)", cooldown(~each_session, minutes=5)),
        ('on_improvement("rmse", mode="min")', on_improvement("rmse", mode="min")),
    ],
)
def test_text_means_what_python_means(text: str, schedule: Schedule) -> None:
    assert parse(text) == schedule


@pytest.mark.parametrize(
    "text",
    [
        "always & never | always",
        "(always | never) & always",
        "~always & ~(never & always) | ~(always | never)",
        "~~always",
        'when("loss/val", "<=", 0.001)',
        "every(epochs=2, start=1)",
        "until(epochs=1, seconds=0.5)",
    ],
)
def test_only_needed_parentheses_are_printed(text: str) -> None:
    assert str(parse(text)) == text


def test_superfluous_parentheses_vanish() -> None:
    assert str(parse("((always) & (never & always)) | (~(never))")) == (
        "always & never & always | ~never"
    )


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "found the end, expected a schedule"),
        ("always &", 9, "found the end, expected a schedule"),
        ("always never", 8, "found 'never', expected &, | or the end"),
        ("always and never", 8, "Did you mean &?"),
        ("not always", 1, "Did you mean ~?"),
        ("evry(updates=1)", 1, "'evry' is no schedule. Did you mean every?"),
        ("always & every(epoch=1)", 10, "Did you mean epochs?"),
        ("every(updates=0)", 1, "0 is too small"),
        ("every(updates=True)", 1, "True is no integer"),
        ("every(updates='3')", 1, "'3' is no integer"),
        ("every(updates=1, updates=2)", 18, "given twice"),
        ("every(5)", 1, "positional"),
        ("every", 1, "every needs arguments"),
        ("always()", 7, "takes no arguments"),
        ("(always", 8, "expected )"),
        ("at(updates=[1, 2)", 17, "expected , or ]"),
        ("at(updates=[[1]])", 13, "expected a number"),
        ("when('m)", 6, 'found "\'"'),
        ("when('\\q')", 6, "bad escape"),
        ("every(updates=1__0)", 15, "'1__0' is no number"),
        ("every(seconds=1/0)", 16, "division by zero"),
        ("every(updates=" + "9" * 5000 + ")", 15, "is no number"),
        ("where(odd)", 1, "no form in text"),
        ("__import__('os')", 1, "is no schedule"),
        ("always; never", 7, "found ';'"),
        ("every(updates=lambda: 3)", 21, "found ':'"),
        ("~" * 5000 + "always", 52, "nested more than 50 deep"),
        ("(" * 9000, 52, "nested more than 50 deep"),
        ("first(1, " * 1000, 460, "nested more than 50 deep"),
    ],
)
def test_a_mistake_is_named_with_its_column(text: str, column: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"column {column}: ")) as caught:
        parse(text)
    assert message in str(caught.value)


def test_length_is_limited() -> None:
    with pytest.raises(ValueError, match="10001 characters"):
        parse("a" * 10_001)
    longest = parse("|".join(["always"] * 1428))
    assert str(longest).count("always") == 1428


@pytest.mark.parametrize("value", [5, None, b"always", ["always"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is no text"):
        parse(value)  # type: ignore[arg-type]


def test_nesting_up_to_the_limit_works() -> None:
    schedule = until(epochs=1)
    for _ in range(25):
        schedule = ~first(1, schedule)
    assert parse(str(schedule)) == schedule
