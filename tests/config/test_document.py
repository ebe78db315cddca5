import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noether.config.document import (
    DEEPEST,
    LARGEST,
    MOST,
    Document,
    dump,
    open_document,
    read,
    scalar,
)
from noether.errors import ConfigurationError


def value(text: str) -> object:
    return read(text, "f.yaml").value


def refusals(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(text, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


# ---------------------------------------------------------------- scalars


def digits(text: str) -> bool:
    return text != "" and set(text) <= set("0123456789")


def without_sign(text: str) -> str:
    return text[1:] if text[:1] in ("+", "-") else text


def core_rules(text: str) -> object:
    """The tables of YAML 1.2, section 10.3.2, by hand."""
    tables: dict[str, object] = {"": None, "~": None}
    tables |= dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)
    for word, meaning in {"null": None, "true": True, "false": False}.items():
        tables |= {word: meaning, word.upper(): meaning, word.capitalize(): meaning}
    if text in tables:
        return tables[text]
    body = without_sign(text)
    if body in (".inf", ".Inf", ".INF"):
        return -math.inf if text[0] == "-" else math.inf
    if digits(body):
        return int(text)
    if text.startswith("0o") and text[2:] and set(text[2:]) <= set("01234567"):
        return int(text[2:], 8)
    if text.startswith("0x") and text[2:] and set(text[2:]) <= set("0123456789abcdefABCDEF"):
        return int(text[2:], 16)
    mantissa, e, exponent = body.replace("E", "e").partition("e")
    whole, _, fraction = mantissa.partition(".")
    number = all(digits(part) for part in (whole, fraction) if part) and (whole or fraction)
    return float(text) if number and (not e or digits(without_sign(exponent))) else text


@given(st.text("0123456789eEx.+-_o~nulltrfasT:", max_size=8) | st.text(max_size=4))
@example(".nan")
@example(".NaN")
@example(".NAN")
def test_plain_scalars_follow_the_core_rules(text: str) -> None:
    found, expected = scalar(text), core_rules(text)
    assert type(found) is type(expected)
    assert found == expected or (found != found and expected != expected)  # both NaN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("no", "no"),
        ("on", "on"),
        ("0o17", 15),
        ("017", 17),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2026-01-01", "2026-01-01"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!", "!"),
        ("Infinity", "Infinity"),
        ("-.inf", -math.inf),
        ("", None),
    ],
)
def test_values_that_other_rules_read_otherwise(text: str, expected: object) -> None:
    if text == "!":
        assert refusals("!") == ["f.yaml:1:1: the tag '!' is refused; write the plain value"]
    else:
        assert value(text) == expected


def test_nan_is_a_number() -> None:
    assert math.isnan(scalar(".nan"))


# ---------------------------------------------------------------- structure


def trees(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[object]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | numbers | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )


TREES = trees(st.floats(allow_nan=False))
JSON = trees(st.floats(allow_nan=False, allow_infinity=False))
"""JSON has no word for infinity; Python's `json` writes one all the same."""


def same(one: object, other: object) -> bool:
    return one == other and repr(one) == repr(other)


@given(TREES)
def test_what_is_dumped_reads_back_equal(tree: object) -> None:
    assert same(value(dump(tree)), tree)


@given(st.dictionaries(st.text("abc", min_size=1), JSON, max_size=4))
def test_printable_json_is_read_as_json_reads_it(tree: object) -> None:
    text = json.dumps(tree, ensure_ascii=False, allow_nan=False)
    if text.isprintable() and "\\u" not in text:
        assert same(value(text), json.loads(text))


def test_text_that_older_readers_take_for_something_else_is_dumped_quoted() -> None:
    assert dump(["no", "1e-3", "val", ""]) == '- "no"\n- "1e-3"\n- val\n- ""\n'


def test_what_yaml_has_no_form_for_is_not_dumped() -> None:
    with pytest.raises(TypeError, match="YAML has no form for"):
        dump({"a": object()})


def test_every_part_has_its_line() -> None:
    text = "a: 1\nb:\n  - c: 2\n\n  - [3,\n     4]\n"
    assert read(text, "f.yaml") == Document(
        {"a": 1, "b": [{"c": 2}, [3, 4]]},
        {
            (): 1,
            ("a",): 1,
            ("b",): 2,
            ("b", 0): 3,
            ("b", 0, "c"): 3,
            ("b", 1): 5,
            ("b", 1, 0): 5,
            ("b", 1, 1): 6,
        },
    )


def test_an_alias_gives_an_equal_value_of_its_own() -> None:
    tree = read("a: &x {b: [1]}\nc: *x", "f.yaml").value
    assert tree == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert tree["a"]["b"] is not tree["c"]["b"]


# ---------------------------------------------------------------- refusals


def test_every_duplicate_key_is_named() -> None:
    assert refusals("a: 1\nb: {c: 1, c: 2}\na: 3\n'a': 4\n") == [
        "f.yaml:2:11: the key 'c' stands on line 2 already",
        "f.yaml:3:1: the key 'a' stands on line 1 already",
        "f.yaml:4:1: the key 'a' stands on line 1 already",
    ]


def test_every_tag_is_named() -> None:
    assert refusals("a: !!python/object/apply:os.system [x]\nb: !!int 3\nc: !mine {}") == [
        "f.yaml:1:4: the tag 'tag:yaml.org...ply:os.system' is refused; write the plain value",
        "f.yaml:2:4: the tag 'tag:yaml.org,2002:int' is refused; write the plain value",
        "f.yaml:3:4: the tag '!mine' is refused; write the plain value",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2", "f.yaml:1:9: no YAML: while parsing a flow sequence"),
        ("a: b: c", "f.yaml:1:5: no YAML: mapping values are not allowed here"),
        ("a: *b", "f.yaml:1:4: no YAML: found undefined alias"),
        ("a\n\x00", "f.yaml:2:1: no YAML: the character '\\x00' is not allowed"),
        ("1: a", "f.yaml:1:1: expected text as a key, found '1'; quote it"),
        ("? [a]\n: b", "f.yaml:1:3: expected text as a key, found a list or a mapping"),
        ("a: &x {}\nb:\n  <<: *x", "f.yaml:3:3: merge keys are not supported"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: a second document begins here"),
        ("a: &x [*x]", "f.yaml:1:4: nested more than 50 deep, perhaps an alias"),
        ("a: " + "9" * 5000, "f.yaml:1:4: the number has too many digits"),
    ],
)
def test_what_is_refused_has_its_line_and_column(text: str, said: str) -> None:
    [refusal] = refusals(text)
    assert refusal.startswith(said)


def test_a_quoted_merge_key_is_text() -> None:
    assert value("'<<': 1") == {"<<": 1}


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
HOSTILE = {
    "100,000 lists in a line": "[" * 100_000,
    "100,000 mappings in a line": "{a: " * 50_000,
    "100,000 block levels": "- " * 100_000,
    "100,000 keys within keys": "? " * 100_000,
    "indented levels": "".join(f"{' ' * i}a:\n" for i in range(600)),
    "alias bomb": BOMB,
    "alias bomb of text": "a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 5_000 + "]",
    "recursive alias": "&a {b: *a}",
    "many values": "- a\n" * (LARGEST // 4),
    "too large": "#" * (LARGEST + 1),
    "100 MB": "a" * 100_000_000,
    "escapes without end": '"' + "\\n" * (LARGEST // 2 - 2),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_at_once(text: str) -> None:
    began = time.process_time()
    [refusal] = refusals(text)
    assert time.process_time() - began < 1
    assert refusal.split(":")[0] == "f.yaml"
    assert all(part.isdecimal() for part in refusal.split(":")[1:3])
    assert len(refusal) < 200


def test_what_the_limits_allow_is_read() -> None:
    deep = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    assert refusals(f"[[{deep}]]")
    assert value(f"[{deep}]") == [value(deep)]
    assert value("x" * LARGEST) == "x" * LARGEST
    assert len(read("[" + "a, " * (MOST - 1) + "]", "f.yaml").value) == MOST - 1


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: 1\nb: \xff\n", "c.yaml:2:4: expected UTF-8 text, found the byte 0xff"),
        (b"#" * (LARGEST + 1), "c.yaml:1:1: expected at most 262,144 characters, found more"),
    ],
)
def test_files_that_cannot_be_decoded_are_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        open_document(tmp_path / "c.yaml")
    assert str(caught.value) == f"{tmp_path}/{said}"


@pytest.mark.parametrize("name", ["missing.yaml", ".", "no\0name"])
def test_what_is_no_file_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="the configuration cannot be read: ") as caught:
        open_document(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("é: 1", encoding="utf-8-sig")
    assert open_document(tmp_path / "c.yaml").value == {"é": 1}
