"""The page about runs: one file with all that it needs, which asks for nothing elsewhere."""

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from noether.errors import ConfigurationError
from noether.plain import plain
from noether.report.document import document
from noether.report.reading import History

AGAIN = 5
"""Seconds after which a page about a run that goes on is read again."""


def page(histories: Sequence[History], *, live: bool = False) -> str:
    """The page as HTML; a `live` one reads itself again every few seconds.

    Raises ConfigurationError where the library that draws is missing.
    """
    told = document(histories)
    title = ", ".join(run["name"] for run in told["runs"])
    parts = {
        "TITLE": html.escape(title),
        "AGAIN": f'<meta http-equiv="refresh" content="{AGAIN}">' if live else "",
        "STYLE": _asset("page.css"),
        "DATA": embedded(told),
        "PLOTLY": _plotly(),
        "SCRIPT": _asset("page.js"),
    }
    made = _asset("page.html")
    head, *pieces = made.split("{{")
    return head + "".join(_filled(piece, parts) for piece in pieces)


def _filled(piece: str, parts: dict[str, str]) -> str:
    name, _, rest = piece.partition("}}")
    return parts[name] + rest


def embedded(told: Any) -> str:
    """Values as JSON that can stand in a script element: nothing in them can end it."""
    text = json.dumps(plain(told), allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return files("noether.report").joinpath("assets", name).read_text(encoding="utf-8")


def _plotly() -> str:
    """The library's own script, which draws in the browser."""
    script = library() / "package_data" / "plotly.min.js"
    return script.read_text(encoding="utf-8").replace("</script", "<\\/script")


def library() -> Path:
    """Where the library that draws is; raises ConfigurationError where it is missing."""
    found = find_spec("plotly")
    if found is None or found.origin is None:
        raise ConfigurationError(
            [
                "a report is drawn with plotly, which is not installed: "
                "pip install 'noether-callbacks[report]'"
            ]
        )
    return Path(found.origin).parent
