"""Schedules from text, without `eval`: the expression that builds one is also its YAML form."""

import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from reprlib import repr as shown
from typing import Any, NoReturn

from noether.errors import suggestion
from noether.schedules.algebra import conjunction, disjunction, negation
from noether.schedules.schedule import Schedule
from noether.schedules.terms import CONSTANTS, FACTORIES

LONGEST = 10_000
DEEPEST = 50

TOKEN = re.compile(
    r"""\s*(?:
    (?P<name>[^\W\d]\w*)
  | (?P<number>(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?)
  | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
  | (?P<mark>[&|~()\[\],=/+-])
    )""",
    re.VERBOSE | re.DOTALL,
)

VALUES = {"True": True, "False": False, "None": None}
PYTHON = {"and": "&", "or": "|", "not": "~"}


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text: its kind (a mark is its own) and the column it begins at, from 1."""

    kind: str
    text: str
    column: int


Tokens = deque[Token]


def parse(text: str) -> Schedule:
    """The schedule that a text writes; every mistake in it is a ValueError that names its column.

    `~` binds tighter than `&`, and `&` tighter than `|`. At most 10,000 characters, nested at
    most 50 deep. `where` has no text.

    >>> parse("every(updates=1_000) & ~until(epochs=2) | once_at_end")
    every(updates=1000) & ~until(epochs=2) | once_at_end
    """
    if not isinstance(text, str):
        raise ValueError(f"{shown(text)} is no text. Write a schedule, 'every(epochs=1)' say.")
    if len(text) > LONGEST:
        raise ValueError(f"The schedule has {len(text)} characters. Write at most {LONGEST}.")
    tokens = tokenized(text)
    schedule = union(tokens, 0)
    if tokens[0].kind != "end":
        refuse(tokens[0], "&, | or the end")
    return schedule


def tokenized(text: str) -> Tokens:
    """The tokens of a text, and an `end`."""
    tokens: Tokens = deque()
    position, end = 0, len(text.rstrip())
    while position < end:
        match = TOKEN.match(text, position)
        if match is None:
            rest = text[position:].lstrip()
            stray = Token(rest[0], rest[0], len(text) - len(rest) + 1)
            raise problem(stray, f"found {rest[0]!r}, which begins nothing. Close quoted strings.")
        kind = str(match.lastgroup)
        found = match[kind]
        tokens.append(Token(found if kind == "mark" else kind, found, match.start(kind) + 1))
        position = match.end()
    tokens.append(Token("end", "the end", end + 1))
    return tokens


def problem(token: Token, message: str) -> ValueError:
    return ValueError(f"Schedule text, column {token.column}: {message}")


def refuse(token: Token, expected: str) -> NoReturn:
    found = token.text if token.kind == "end" else shown(token.text)
    hint = f" Did you mean {PYTHON[token.text]}?" if token.text in PYTHON else ""
    raise problem(token, f"found {found}, expected {expected}.{hint}")


def take(tokens: Tokens, kind: str) -> Token:
    if tokens[0].kind != kind:
        refuse(tokens[0], kind)
    return tokens.popleft()


def union(tokens: Tokens, depth: int) -> Schedule:
    return chained(tokens, depth, "|", intersection, disjunction)


def intersection(tokens: Tokens, depth: int) -> Schedule:
    return chained(tokens, depth, "&", operand, conjunction)


def chained(
    tokens: Tokens,
    depth: int,
    mark: str,
    read: Callable[[Tokens, int], Schedule],
    join: Callable[..., Schedule],
) -> Schedule:
    parts = [read(tokens, depth)]
    while tokens[0].kind == mark:
        tokens.popleft()
        parts.append(read(tokens, depth))
    return parts[0] if len(parts) == 1 else join(*parts)


def operand(tokens: Tokens, depth: int) -> Schedule:
    """A term, `~` and an operand, or a schedule in parentheses."""
    token = tokens.popleft()
    if depth > DEEPEST:
        raise problem(token, f"nested more than {DEEPEST} deep. Write it flatter.")
    if token.kind == "~":
        return negation(operand(tokens, depth + 1))
    if token.kind == "(":
        schedule = union(tokens, depth + 1)
        take(tokens, ")")
        return schedule
    if token.kind != "name" or token.text in PYTHON:
        refuse(token, "a schedule")
    return term(token, tokens, depth)


def term(name: Token, tokens: Tokens, depth: int) -> Schedule:
    """A constant, or a factory with its arguments."""
    called = tokens[0].kind == "("
    if name.text == "where":
        raise problem(name, "where(...) has no form in text, as it holds a function. Use Python.")
    if name.text in CONSTANTS and not called:
        return CONSTANTS[name.text]
    if name.text in CONSTANTS:
        raise problem(tokens[0], f"{name.text} takes no arguments. Write {name.text} alone.")
    if name.text not in FACTORIES:
        known = {*CONSTANTS, *FACTORIES} - {"where"}
        raise problem(name, f"{shown(name.text)} is no schedule. {suggestion(name.text, known)}")
    if not called:
        raise problem(name, f"{name.text} needs arguments. Write {name.text}(...).")
    positional, options = arguments(tokens, depth + 1)
    try:
        return FACTORIES[name.text](*positional, **options)
    except (TypeError, ValueError) as error:
        raise problem(name, str(error)) from error


def arguments(tokens: Tokens, depth: int) -> tuple[list[Any], dict[str, Any]]:
    """What stands in the parentheses of a call."""
    positional: list[Any] = []
    options: dict[str, Any] = {}
    take(tokens, "(")
    while tokens[0].kind != ")":
        if tokens[0].kind == "name" and tokens[1].kind == "=":
            name = tokens.popleft()
            tokens.popleft()
            if name.text in options:
                raise problem(name, f"{name.text} is given twice. Give it once.")
            options[name.text] = value(tokens, depth)
        elif options:
            refuse(tokens[0], "a name and =, as above")
        else:
            positional.append(value(tokens, depth))
        separate(tokens, ")")
    take(tokens, ")")
    return positional, options


def separate(tokens: Tokens, closing: str) -> None:
    """Step over a comma, which may be missing before the closing bracket."""
    if tokens[0].kind != closing:
        if tokens[0].kind != ",":
            refuse(tokens[0], f", or {closing}")
        tokens.popleft()


def value(tokens: Tokens, depth: int) -> Any:
    """An argument: a literal, a list or tuple of literals, or a schedule."""
    token = tokens[0]
    if token.kind == "name" and token.text in VALUES:
        return VALUES[tokens.popleft().text]
    if token.kind == "[" or (token.kind == "(" and tokens[1].kind not in ("name", "~", "(")):
        return sequence(tokens)
    if token.kind in ("name", "~", "("):
        return union(tokens, depth)
    return literal(tokens)


def sequence(tokens: Tokens) -> tuple[Any, ...]:
    closing = {"[": "]", "(": ")"}[tokens.popleft().kind]
    values = []
    while tokens[0].kind != closing:
        values.append(literal(tokens))
        separate(tokens, closing)
    tokens.popleft()
    return tuple(values)


def literal(tokens: Tokens) -> Any:
    """A string, or a number with its sign, or one number over another."""
    if tokens[0].kind == "string":
        return string(tokens.popleft())
    signs = {"-": -1, "+": 1}
    sign = signs[tokens.popleft().kind] if tokens[0].kind in signs else 1
    numerator = number(tokens)
    if tokens[0].kind != "/":
        return sign * numerator
    slash = tokens.popleft()
    try:
        return sign * numerator / number(tokens)
    except ArithmeticError as error:
        raise problem(slash, f"{error}. Give a number other than 0.") from error


def number(tokens: Tokens) -> int | float:
    token = tokens[0]
    if token.kind != "number":
        refuse(token, "a number, a string or a schedule")
    tokens.popleft()
    try:
        return int(token.text) if token.text.replace("_", "").isdecimal() else float(token.text)
    except ValueError as error:
        raise problem(token, f"{shown(token.text)} is no number. Write 1000 or 0.1.") from error


def string(token: Token) -> str:
    """The value of a quoted string, with the escapes that JSON and Python share."""
    body = token.text[1:-1]
    if token.text[0] == "'":
        turned = {"\\'": "'", '"': '\\"'}
        body = re.sub(r'\\.|"', lambda m: turned.get(m[0], m[0]), body, flags=re.DOTALL)
    try:
        return str(json.loads(f'"{body}"', strict=False))
    except ValueError as error:
        raise problem(token, f"{shown(token.text)} has a bad escape. Double the \\.") from error
