"""What was found, as lines for a terminal of any width, and as JSON."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from noether.checkpoint.manifest import Claim
from noether.inspection.asking import Inspected
from noether.inspection.records import Best, Checkpoint, InspectedRun, InspectedSeries, Leftover
from noether.lines import aligned, printable, told
from noether.plain import plain
from noether.progress import Progress
from noether.rundir import Owner

KINDS = {InspectedRun: "run", InspectedSeries: "series", Checkpoint: "checkpoint"}
HEAD = ("checkpoint", "update", "epoch", "sample", "size", "files", "written", "", "")
NUMBERS = (1, 2, 3, 4, 5)


def document(found: Inspected) -> dict[str, Any]:
    """All of it as `json.dumps` takes it, with `default=str` for paths; `kind` says what it is."""
    made: dict[str, Any] = plain({"kind": KINDS[type(found)], **asdict(found)})
    return made


def text(found: Inspected, width: int) -> str:
    """Lines of at most `width` characters, but for words that are longer."""
    match found:
        case InspectedRun():
            return "\n".join(run(found, width))
        case InspectedSeries():
            return "\n".join(series(found, width))
    return "\n".join([*table([found], width), *sizes(found.files)])


# ---------------------------------------------------------------- a run


def run(found: InspectedRun, width: int) -> Iterator[str]:
    """A run: how it stands, its checkpoints, what lies beside them, what a resume would take."""
    yield from wrapped(f"{found.path}: {standing(found)}", width)
    for name, value in facts(found):
        yield from wrapped(f"{name:<10}{value}", width, "  ", 12)
    yield ""
    yield from table(found.checkpoints, width) if found.checkpoints else ["no checkpoint"]
    if found.leftovers:
        yield "beside them"
    for each in found.leftovers:
        yield from wrapped(leftover(each), width, "  ")
    yield ""
    number, others = len(found.checkpoints), len(found.leftovers)
    yield from wrapped(
        f"total: {told(found.bytes)}; checkpoints: {number}, others: {others}", width
    )
    yield from wrapped(f"resume: {found.resume.says}", width)


def standing(found: InspectedRun) -> str:
    """State and committed update in a few words."""
    state = found.state or "no status"
    gone = found.owner is not None and found.owner.owns is False
    died = ", but its process is gone" if state == "running" and gone else ""
    return f"{state}{'' if found.update is None else f' at update {found.update}'}{died}"


def facts(found: InspectedRun) -> Iterator[tuple[str, str]]:
    if found.reason is not None:
        yield "reason", found.reason
    if found.owner is not None:
        yield "process", process(found.owner)
    if found.heartbeat_age is not None:
        yield "heartbeat", f"{ago(found.heartbeat_age)}, at update {found.at_update}"
    if found.progress is not None:
        yield "progress", counts(found.progress, found.until)
    if found.journal is not None:
        torn = ", and a torn end" if found.journal.torn else ""
        line = found.journal.damaged
        damaged = "" if line is None else f"; line {line} is damaged"
        yield "journal", f"rows: {found.journal.rows}{torn}{damaged}"
    yield from (("note", note) for note in found.notes)


def process(owner: Owner) -> str:
    how = {True: "owns it now", False: "owns it no more", None: "can't be asked from here"}
    return f"pid {owner.pid} on {owner.host} {how[owner.owns]}"


def counts(now: Progress, until: Mapping[str, float]) -> str:
    """What a run has come to, and its limits."""
    named = {"epoch": now.epoch, "update": now.update, "sample": now.sample}
    parts = [f"{name} {count}" for name, count in named.items() if count is not None]
    if now.seconds is not None:
        parts.append(f"{duration(now.seconds)} trained")
    if now.session > 1:
        parts.append(f"session {now.session}")
    limits = ", ".join(f"{limit:g} {unit}" for unit, limit in until.items())
    return ", ".join(parts) + (f"; until {limits}" if limits else "")


def leftover(found: Leftover) -> str:
    reason = "" if found.reason is None else f": {found.reason}"
    return f"{found.name}  {found.kind}, {told(found.bytes)}{reason}"


# ---------------------------------------------------------------- checkpoints


def table(found: Sequence[Checkpoint], width: int) -> Iterator[str]:
    """Checkpoints under each other, each with who asked for it; in paragraphs if need be."""
    rows = [tuple(map(printable, row(each))) for each in found]
    head, *lines = aligned([HEAD, *rows], NUMBERS)
    wide = max(map(len, [head, *lines])) <= width
    if wide:
        yield head
    for each, cells, line in zip(found, rows, lines, strict=True):
        yield from [line] if wide else paragraph(cells, width)
        for more in asked(each):
            yield from wrapped(more, width, "    ", 6)


def row(found: Checkpoint) -> tuple[str, ...]:
    marks = {"LATEST": found.latest, "best": found.best}
    numbers = (found.update, found.progress.epoch, found.progress.sample)
    return (
        found.path.resolve().name,
        *("-" if n is None else str(n) for n in numbers),
        told(found.bytes),
        str(len(found.files)),
        moment(found.committed),
        verdict(found),
        ", ".join(mark for mark, holds in marks.items() if holds),
    )


def verdict(found: Checkpoint) -> str:
    if not found.valid:
        return "NOT VALID"
    return "valid" if found.verified else "complete"


def paragraph(cells: tuple[str, ...], width: int) -> Iterator[str]:
    """A row of the table where the terminal is too narrow for it."""
    name, *rest = cells
    named = zip(HEAD[1:], rest, strict=True)
    yield from wrapped(f"{name}  {', '.join(f'{n} {c}'.strip() for n, c in named if c)}", width)


def asked(found: Checkpoint) -> Iterator[str]:
    """Why it is not valid, and who asked for it."""
    if found.reason is not None:
        yield found.reason
    for claim in found.claims:
        yield f"{claimed(claim)}{'  (best)' if claim.tag in found.best else ''}"


def claimed(claim: Claim) -> str:
    """A claim in a line.

    >>> claimed(Claim("last", "checkpoint", keep_last=2))
    'last, by checkpoint, keep_last=2'
    """
    kept = {"keep_last": claim.keep_last, "keep_best": claim.keep_best}
    parts = [claim.tag, *([f"by {claim.by}"] if claim.by else [])]
    parts += [f"{name}={count}" for name, count in kept.items() if count is not None]
    if claim.metric is not None:
        parts.append(f"{claim.metric}={claim.value}")
    return ", ".join(parts)


def sizes(files: Mapping[str, Any]) -> list[str]:
    """Its files and their bytes."""
    rows = [(f"  {printable(name)}", printable(str(size))) for name, size in files.items()]
    return aligned([("  file", "bytes"), *rows], right=(1,))


# ---------------------------------------------------------------- a series


def series(found: InspectedSeries, width: int) -> Iterator[str]:
    """A line for each run, newest first."""
    head = ("run", "state", "update", "checkpoints", "best")
    rows = [tuple(map(printable, summary(each))) for each in found.runs]
    lines = aligned([head, *rows], right=(0, 2, 3))
    if max(map(len, lines)) <= width:
        yield from lines
    else:
        for cells in rows:
            named = (f"{n} {c}" for n, c in zip(head, cells, strict=True) if c)
            yield from wrapped(", ".join(named), width)
    yield ""
    newest = found.runs[0]
    yield from wrapped(
        f"noether inspect {newest.path} shows the checkpoints of a run, and verifies them", width
    )
    yield from wrapped(f"resume: run {newest.path.name}: {newest.resume.says}", width)


def summary(found: InspectedRun) -> tuple[str, ...]:
    valid = sum(each.valid for each in found.checkpoints)
    all_valid = valid == len(found.checkpoints)
    update = found.at_update if found.update is None else found.update
    gone = found.state == "running" and found.owner is not None and found.owner.owns is False
    return (
        found.path.name,
        f"{found.state or '-'}{', process gone' if gone else ''}",
        "-" if update is None else str(update),
        str(valid) if all_valid else f"{valid} of {len(found.checkpoints)}",
        ", ".join(map(valued, found.best)),
    )


def valued(best: Best) -> str:
    value = "" if best.value is None else f" {best.value:.6g}"
    return f"{best.metric or best.tag}{value} at {best.update}"


# ---------------------------------------------------------------- words


def wrapped(line: str, width: int, indent: str = "", hanging: int = 4) -> list[str]:
    """A line in as many as it needs; what is no text in it is spelt out."""
    return textwrap.wrap(
        printable(line),
        max(width, 20),
        initial_indent=indent,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def moment(seconds: float | None) -> str:
    """A time on this machine's clock."""
    try:
        return "-" if seconds is None else datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return "-"


def duration(seconds: float) -> str:
    """Seconds as H:MM:SS, with days before it."""
    try:
        return str(timedelta(seconds=round(seconds)))
    except OverflowError:
        return f"{seconds:g} s"


def ago(seconds: float) -> str:
    """How long ago; a clock that is behind is no reason for numbers below zero.

    >>> ago(12.3), ago(3700), ago(-5)
    ('12 s ago', '1:01:40 ago', '0 s ago')
    """
    seconds = max(seconds, 0.0)
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{duration(seconds)} ago"
