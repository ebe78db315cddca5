"""The page on the disk: where it goes, and again as long as a run goes on."""

import time
import webbrowser
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from noether.console import Console
from noether.errors import ConfigurationError
from noether.journal import JOURNAL
from noether.report.reading import History, history, renewed
from noether.report.rendering import AGAIN, library, page
from noether.storage import replace_text


def publish(
    paths: Sequence[Path],
    output: str | None,
    console: Console,
    *,
    show: bool = False,
    live: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Write a page about the runs at `paths`; gives where.

    It goes to `output`, by default `report.html` in the run directory, of several runs in the
    present one. `show` opens it in the browser; `live` writes it again until no run goes on.

    Raises ConfigurationError where there is no run, or no place to write to.
    """
    library()  # before minutes of reading
    histories = [_told(partial(history, path), console) for path in paths]
    while True:
        goes_on = live and any(made.status.get("state") == "running" for made in histories)
        target = _target(histories, output)
        _write(target, page(histories, live=goes_on))
        if show:
            webbrowser.open(target.resolve().as_uri())
            show = False
        if not goes_on:
            console.say(str(target))
            return target
        sleep(AGAIN)
        histories = [_told(partial(renewed, made), console) for made in histories]


def _told(reading: Callable[[Callable[[int], None]], History], console: Console) -> History:
    try:
        return reading(partial(console.reading, JOURNAL))
    finally:
        console.wipe()


def _target(histories: Sequence[History], output: str | None) -> Path:
    if output is not None:
        return Path(output)
    folder = histories[0].run if len(histories) == 1 else Path()
    return folder / "report.html"


def _write(target: Path, text: str) -> None:
    try:
        replace_text(target, text)
    except OSError as error:
        raise ConfigurationError(
            [f"{target} cannot be written: {error.strerror}; -o FILE.html names another place"]
        ) from error
