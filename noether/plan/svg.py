"""The time line as an SVG picture that stands alone: no script, no font, nothing to fetch."""

from collections.abc import Iterator
from itertools import pairwise
from xml.sax.saxutils import escape

from noether.forecast import Firings, Forecast
from noether.plan.planning import Plan

ROW, BAR, MARGIN = 26, 16, 16
LETTER = 7.3
"""Width of a character, in the units of the picture."""
WIDTH = 720
"""Width of the time line."""
STROKES = 240
"""More firings than these are drawn as bands, of columns of this number."""
SINGLE = 60
"""More epochs, or updates, than these are not marked one by one."""

STYLE = (
    "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1f2430}"
    ".dim{fill:#6b7280}.line{stroke:#c9ced6}.epoch{stroke:#e4e7ec}"
    ".sure{fill:#2563eb}.perhaps{fill:none;stroke:#d97706}.paper{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.dim{fill:#9ca3af}.line{stroke:#4b5563}"
    ".epoch{stroke:#374151}.sure{fill:#60a5fa}.perhaps{stroke:#fbbf24}.paper{fill:#111827}}"
)


def svg(plan: Plan) -> str:
    """The picture: a row for each callback with a scheduled hook, marks where it fires.

    Marks of what is sure are solid, of what only may fire hollow in another colour; the first
    and the last mark, set off, are the opening and the closing tick.
    """
    found = [forecast for forecast in plan.forecasts if forecast.callback.on_schedule is not None]
    left = MARGIN + LETTER * max((len(f.callback.name) for f in found), default=0) + 30
    width, height = left + WIDTH + 36, 2 * MARGIN + ROW * len(found) + 22
    body = [*epochs(plan, left, height), *scale(plan, left, height)]
    for place, forecast in enumerate(found):
        body += row(forecast, plan, left, MARGIN + ROW * place)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img">\n'
        f"<title>{legible(', '.join(f.callback.name for f in found))}</title>\n"
        f"<style>{STYLE}</style>\n"
        f'<rect class="paper" width="100%" height="100%"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def legible(text: str) -> str:
    """Text as XML takes it, which has no place for control characters."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def across(update: float, plan: Plan) -> float:
    """The place of an update on the time line."""
    start, stop = plan.line.start, plan.line.stop
    return WIDTH * (update - start) / max(stop - start, 1)


def epochs(plan: Plan, left: float, height: float) -> Iterator[str]:
    """A faint line at the end of each epoch, unless there are too many."""
    line = plan.line
    if not 0 < line.total.epoch <= SINGLE:
        return
    length = line.feed.updates_per_epoch
    for update in range(-(-line.start // length) * length, line.stop + 1, length):
        x = left + across(update, plan)
        yield (
            f'<line class="epoch" x1="{x:.1f}" x2="{x:.1f}" y1="{MARGIN / 2:g}" '
            f'y2="{height - MARGIN - 18:g}"/>'
        )


def scale(plan: Plan, left: float, height: float) -> Iterator[str]:
    """The first and the last update, under the rows."""
    y = height - MARGIN
    yield f'<text class="dim" x="{left:.1f}" y="{y:g}">update {plan.line.start:,}</text>'
    yield (
        f'<text class="dim" x="{left + WIDTH:.1f}" y="{y:g}" text-anchor="middle">'
        f"{plan.line.stop:,}</text>"
    )


def row(found: Forecast, plan: Plan, left: float, top: float) -> Iterator[str]:
    """A callback's name, its line and its marks; its schedule is shown when pointed at."""
    middle = top + ROW / 2
    callback = found.callback
    said = "every tick" if callback.schedule is None else str(callback.schedule)
    title = said if callback.name == said else f"{callback.name}: {said}"
    yield f"<g><title>{legible(title)}</title>"
    yield f'<text x="{MARGIN}" y="{middle + 4:g}">{legible(callback.name)}</text>'
    ends = f'x1="{left:.1f}" x2="{left + WIDTH:.1f}" y1="{middle:g}" y2="{middle:g}"'
    yield f'<line class="line" {ends}/>'
    yield from ticks(plan, left, middle)
    for kind, firings in (("perhaps", found.possible), ("sure", found.sure)):
        if kind == "sure" or found.unknown:
            for start, stop in spans(firings, plan):
                x = left + across(start, plan) - 1.5
                width = across(stop, plan) - across(start, plan) + 3
                yield mark(kind, x, middle, width)
            yield from boundaries(kind, firings, left, middle)
    yield "</g>"


def boundaries(kind: str, firings: Firings, left: float, middle: float) -> Iterator[str]:
    """The marks of the opening and the closing tick, beside the line."""
    if firings.opening:
        yield mark(kind, left - 17, middle, 3)
    if firings.closing:
        yield mark(kind, left + WIDTH + 14, middle, 3)


def mark(kind: str, x: float, middle: float, width: float) -> str:
    y = middle - BAR / 2
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{BAR}"/>'


def spans(firings: Firings, plan: Plan) -> Iterator[tuple[float, float]]:
    """Single firings, or, where they are many, the columns that have one, joined."""
    if len(firings) <= STROKES:
        yield from ((update, update) for update in firings)
        return
    start, stop = plan.line.start, plan.line.stop
    edges = [start + (stop - start) * i // STROKES for i in range(STROKES + 1)]
    begun: int | None = None
    for first, last in pairwise(edges):
        if firings.within(first + 1, last):
            begun = first if begun is None else begun
        elif begun is not None:
            yield begun, first
            begun = None
    if begun is not None:
        yield begun, stop


def ticks(plan: Plan, left: float, middle: float) -> Iterator[str]:
    """A short stroke for each update, where they are few enough to be told apart."""
    line = plan.line
    if line.stop - line.start <= SINGLE:
        ends = f'y1="{middle - 3:g}" y2="{middle + 3:g}"'
        for update in range(line.start, line.stop + 1):
            x = left + across(update, plan)
            yield f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" {ends}/>'
