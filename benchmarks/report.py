"""The results of the suite as a page."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

INTRODUCTION = """\
# Benchmarks

What noether costs, beside the same training by hand in bare PyTorch and, where they have the
like, beside PyTorch Ignite, Lightning and the Hugging Face Trainer.

All ways of a scenario alternate within one process on one thread, and each round begins with
another way; those of S7 and S8 have processes of their own. A ratio is that to the way of the
table's first row in the same round; of ratios and speeds the median is given, and the quartiles
in brackets, of everything else the median. CPU is processor time; wall is what a clock on the
wall shows, which other work on the machine disturbs. Warming up, starting and ending count only
where it says so.

```sh
make bench                                     # everything; sets up .venv with the other libraries
make bench OPTIONS="S1 S7 --rounds 9"          # two scenarios; their rows replace the earlier ones
make bench OPTIONS="S8 --updates 1000000"
```

A library that does not import is left out. Files are written into the system's folder for
temporary ones, or where `TMPDIR` says. `benchmarks.json` has all numbers; this page and the
picture are made from it. `python benchmarks/dispatch.py` measures a tick and a plan alone.

![The main ratio of each scenario](benchmarks.svg)
"""


def page(results: Mapping[str, Any]) -> str:
    """The page of all scenarios."""
    sections = [section(name, found) for name, found in results.items()]
    return "\n".join([INTRODUCTION, machines(results), *sections])


def machines(results: Mapping[str, Any]) -> str:
    """What the scenarios were measured on."""
    names: dict[str, list[str]] = {}
    for name, found in results.items():
        names.setdefault(found["machine"], []).append(name)
    lines = [f"Measured on {machine}: {', '.join(those)}." for machine, those in names.items()]
    return "\n".join(f"{line}\n" for line in lines)


def section(name: str, found: Mapping[str, Any]) -> str:
    """What is said of one scenario."""
    times = counted(found["rounds"], "round")
    if found["updates"]:
        times += f", {counted(found['updates'], 'update')} each"
    head = f"## {name}: {found['title']}\n\n{found['text']} Measured in {times}.\n"
    return "\n".join([head, *tables(found["rows"])])


def counted(number: int, what: str) -> str:
    """The number with its noun."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A table for each group of rows."""
    for group, several in groupby(rows, key=lambda row: row["group"]):
        yield table(group, list(several))


def table(group: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each way."""
    titles = [group, *rows[0]["values"]]
    lines = [line(titles), line(["---", *["--:"] * (len(titles) - 1)])]
    lines += [line([row["way"], *map(cell, row["values"].values())]) for row in rows]
    return "\n".join(lines) + "\n"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cell(value: Any) -> str:
    """A word, a number, or a median with its quartiles."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return number(value)
    low, middle, high = map(number, value)
    return middle if low == high else f"{middle} ({low} to {high})"


def number(value: float) -> str:
    """Three digits that count, and all before the point; of tiny ones two."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    places = 1 if abs(value) >= 10 else 2
    return f"{value:.{places}f}" if abs(value) >= 0.1 else f"{value:.2g}"
