"""YAML documents as plain values, each with its line; written back so that they read the same.

Composed by PyYAML's safe loader, the values built here by the core rules of YAML 1.2: `1e-3` is a
number, `no` is text. What could run code, grow without bound or be read two ways is refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from reprlib import repr as shown
from typing import Any, NoReturn, TypeAlias

import yaml

from noether.errors import ConfigurationError, Problem

Path: TypeAlias = tuple[str | int, ...]

LARGEST = 256 * 1024
"""Characters, also after aliases are written out; reading that many takes a second at worst."""
MOST = 10_000
"""Values, after aliases are written out."""
DEEPEST = 50

WORDS: Mapping[str, Any] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"))
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
    | dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))
    | {
        sign + word: float(sign + "inf")
        for sign in ("", "+", "-")
        for word in (".inf", ".Inf", ".INF")
    }
)
WHOLE = re.compile(r"[-+]?[0-9]+")
BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
BROKEN = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
TEXT, MAPPING, SEQUENCE = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))
RESOLVER = yaml.resolver.Resolver()
BARE = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Document:
    """A document's value, and the line of each part of it by its path of keys and indices."""

    value: Any
    lines: Mapping[Path, int]
    problems: tuple[Problem, ...] = ()
    """Keys and numbers that had to be left out, found beside whatever else is wrong."""


def open_document(path: str | FilePath) -> Document:
    """The document in a file, with its problems; ConfigurationError says why it cannot be read."""
    try:
        with FilePath(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: no file's name holds a NUL
        reason = getattr(error, "strerror", None) or error
        problem = Problem(f"the configuration cannot be read: {reason}", str(path))
        raise ConfigurationError([problem]) from error
    if len(content) > LARGEST:
        raise ConfigurationError([oversized(str(path))])
    try:
        return composed(content.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        message = f"expected UTF-8 text, found the byte 0x{content[error.start]:02x}"
        raise ConfigurationError([Problem(message, f"{path}:{line}:{column}")]) from error


def oversized(name: str) -> Problem:
    return Problem(f"expected at most {LARGEST:,} characters, found more", f"{name}:1:1")


def read(text: str, name: str) -> Document:
    """The value that `text` writes, with lines; `name` addresses it in errors.

    Raises ConfigurationError with FILE:LINE:COLUMN for what YAML 1.2 or the limits do not allow.

    >>> read("lr: 1e-3", "here").value
    {'lr': 0.001}
    """
    document = composed(text, name)
    if document.problems:
        raise ConfigurationError(document.problems)
    return document


def composed(text: str, name: str) -> Document:
    """As `read`, but what can be left out - a second key, say - is in the document's problems."""
    if len(text) > LARGEST:
        raise ConfigurationError([oversized(name)])
    try:
        found = list(forbidden(text, name))
        if found:
            raise ConfigurationError(found)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigurationError([syntax(error, text, name)]) from error
    reading = Reading(name)
    value = None if node is None else reading.value(node, ())
    return Document(value, reading.lines, tuple(reading.problems))


def address(name: str, mark: Any) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}"


def refuse(message: str, name: str, mark: Any) -> NoReturn:
    raise ConfigurationError([Problem(message, address(name, mark))])


def syntax(error: yaml.YAMLError, text: str, name: str) -> Problem:
    """PyYAML's complaint as a problem of ours."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        said = ", ".join(part for part in (error.context, error.problem) if part)
        return Problem(f"no YAML: {said}", address(name, error.problem_mark))
    position = getattr(error, "position", 0)
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    found = ascii(text[position : position + 1])
    return Problem(f"no YAML: the character {found} is not allowed", f"{name}:{line}:{column}")


def forbidden(text: str, name: str) -> Iterator[Problem]:
    """Every tag and further document; depth and number are limited before anything is built."""
    depth = documents = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        where = address(name, event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > DEEPEST:
            refuse(f"nested more than {DEEPEST} deep; write it flatter", name, event.start_mark)
        if count > 2 * MOST:
            refuse(f"expected at most {MOST:,} values, found more", name, event.start_mark)
        if (tag := getattr(event, "tag", None)) is not None:
            yield Problem(f"the tag {shown(tag)} is refused; write the plain value", where)
        if isinstance(event, yaml.DocumentStartEvent) and documents == 2:
            yield Problem("a second document begins here; a file has one", where)


@dataclass(slots=True)
class Reading:
    """One document being read: lines and mistakes so far, and how much there is of it."""

    name: str
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    size: int = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        """The value of a node that stands at `path`."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        self.size += len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if len(self.lines) > MOST or self.size > LARGEST:
            refuse("aliases make this too large; write less, or fewer aliases", *self.at(node))
        if len(path) > DEEPEST:
            message = f"nested more than {DEEPEST} deep, perhaps an alias of what it stands in"
            refuse(f"{message}; write it flatter", *self.at(node))
        if isinstance(node, yaml.MappingNode):
            return dict(self.items(node, path))
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else self.scalar(node)
        return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]

    def at(self, node: yaml.Node) -> tuple[str, Any]:
        return self.name, node.start_mark

    def items(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = self.key(key)
            if name in seen:
                self.note(f"the key {shown(name)} stands on line {seen[name]} already", key)
            elif name is not None:
                seen[name] = key.start_mark.line + 1
                self.lines[*path, name] = seen[name]
                yield name, self.value(value, (*path, name))

    def key(self, node: yaml.Node) -> str | None:
        """The text of a key, None with a note for any other kind."""
        if not isinstance(node, yaml.ScalarNode):
            self.note("expected text as a key, found a list or a mapping", node)
            return None
        if node.style is None and node.value == "<<":
            self.note("merge keys are not supported; write the options out", node)
            return None
        if node.style is None and not isinstance(self.scalar(node), str):
            self.note(f"expected text as a key, found {shown(node.value)}; quote it", node)
            return None
        return str(node.value)

    def note(self, message: str, node: yaml.Node) -> None:
        self.problems.append(Problem(message, address(*self.at(node))))

    def scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return scalar(node.value)
        except ValueError:  # Python limits the digits of an integer
            self.note("the number has too many digits", node)
            return None


def scalar(text: str) -> Any:
    """The value of a plain scalar by the core rules of YAML 1.2.

    >>> [scalar(text) for text in ("no", "1e-3", "0o17", "1_000", "12:30:00", "~")]
    ['no', 0.001, 15, '1_000', '12:30:00', None]
    """
    if text in WORDS:
        return WORDS[text]
    if WHOLE.fullmatch(text):
        return int(text)
    if BASED.fullmatch(text):
        return int(text, 0)
    return float(text) if BROKEN.fullmatch(text) else text


def dump(value: Any) -> str:
    """YAML that reads back equal to `value`, made of mappings, lists, text, numbers and None.

    >>> dump({"lr": 1e-3, "names": ["no", "val"]})
    'lr: 0.001\\nnames:\\n- "no"\\n- val\\n'
    """
    return str(yaml.serialize(noded(value), Dumper=yaml.SafeDumper, allow_unicode=True, width=100))


def noded(value: Any) -> yaml.Node:
    if isinstance(value, Mapping):
        pairs = [(noded(key), noded(item)) for key, item in value.items()]
        return yaml.MappingNode(MAPPING, pairs, flow_style=not pairs)
    if isinstance(value, list | tuple):
        items = [noded(item) for item in value]
        return yaml.SequenceNode(SEQUENCE, items, flow_style=not items)
    if not isinstance(value, str):
        return bare(worded(value))
    node = bare(value)
    if BARE.fullmatch(value) and value == scalar(value) and node.tag == TEXT:
        return node
    return yaml.ScalarNode(TEXT, value, style='"')


def worded(value: Any) -> str:
    """A number, boolean or None in YAML's words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, int | float):
        raise TypeError(f"YAML has no form for {shown(value)}; use numbers, text, lists, mappings")
    return re.sub(r"^(-?)(nan|inf)$", r"\1.\2", repr(value))


def bare(text: str) -> yaml.ScalarNode:
    """A scalar without quotes; the tag is what PyYAML takes it for, so that none is written."""
    tag = RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return yaml.ScalarNode(tag, text)
