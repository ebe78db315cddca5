"""The results of the suite as an SVG picture that stands alone."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any
from xml.sax.saxutils import escape

from report import number

ROW, BAR, MARGIN, HEAD = 20, 12, 16, 44
NAMES, WIDTH, NUMBERS = 330, 330, 60
"""How wide the columns are: of names, of bars, and of the numbers after them."""

STYLE = (
    "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1f2430}"
    ".title{font-weight:bold}.dim{fill:#6b7280}.line{stroke:#c9ced6}.reach{stroke:#1f2430}"
    ".other{fill:#b6bcc8}.ours{fill:#2563eb}.paper{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.dim{fill:#9ca3af}.line{stroke:#4b5563}"
    ".reach{stroke:#e5e7eb}.other{fill:#5b6472}.ours{fill:#60a5fa}.paper{fill:#111827}}"
)

Bar = tuple[str, list[float]]


def svg(results: Mapping[str, Any]) -> str:
    """A panel of bars for each group of rows that has the column its scenario shows."""
    top, body = float(MARGIN), list[str]()
    for title, column, bars in panels(results):
        body += panel(title, column, bars, top)
        top += HEAD + ROW * len(bars)
    width = 2 * MARGIN + NAMES + WIDTH + NUMBERS
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top:g}" '
        f'width="{width}" height="{top:g}" role="img">\n'
        f"<title>Benchmarks of noether</title>\n<style>{STYLE}</style>\n"
        '<rect class="paper" width="100%" height="100%"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def panels(results: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Bar]]]:
    """What each panel is called, which column it shows, and its bars."""
    for name, found in results.items():
        for group, rows in groupby(found["rows"], key=lambda row: row["group"]):
            column = found["drawn"]
            bars = [(row["way"], row["values"].get(column)) for row in rows]
            title = ": ".join(filter(None, (f"{name} {found['title']}", group)))
            if all(value is not None for _, value in bars):
                yield title, column, bars


def panel(title: str, column: str, bars: Sequence[Bar], top: float) -> Iterator[str]:
    """The bars of a group, each as long as its median; a line marks the first, the base."""
    left, scale = MARGIN + NAMES, WIDTH / max(high for _, (_, _, high) in bars)
    yield text(MARGIN, top + 12, title, "title")
    yield text(left + WIDTH + NUMBERS, top + 12, column, "dim", "end")
    first = left + scale * bars[0][1][1]
    bottom = top + ROW * (len(bars) + 1)
    yield stroke("line", first, first, top + ROW, bottom)
    for place, (way, value) in enumerate(bars):
        yield from bar(way, value, scale, top + ROW * (place + 1.5))


def bar(way: str, value: Sequence[float], scale: float, middle: float) -> Iterator[str]:
    """A name, its bar with a stroke between the quartiles, and its median."""
    low, median, high = (MARGIN + NAMES + scale * part for part in value)
    kind = "ours" if "noether" in way else "other"
    yield text(MARGIN, middle + 4, way)
    yield (
        f'<rect class="{kind}" x="{MARGIN + NAMES}" y="{middle - BAR / 2:g}" '
        f'width="{median - MARGIN - NAMES:.1f}" height="{BAR}"/>'
    )
    yield stroke("reach", low, high, middle, middle)
    yield text(max(high, median) + 6, middle + 4, number(value[1]))


def stroke(kind: str, start: float, stop: float, top: float, bottom: float) -> str:
    ends = f'x1="{start:.1f}" x2="{stop:.1f}" y1="{top:g}" y2="{bottom:g}"'
    return f'<line class="{kind}" {ends}/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:g}" class="{kind}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(words)}</text>"
