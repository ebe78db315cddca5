"""What a person sees of a run at one look: where it is, how fast, how well, what comes next."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from noether.lines import printable
from noether.progress import Progress
from noether.schedules.metrics import direction, improves
from noether.state import UNKNOWN

BAR = 12
MOST_METRICS, MOST_FIRINGS = 8, 4


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of a metric that this session has seen, and at which update."""

    value: float
    update: int


@dataclass(frozen=True, slots=True)
class View:
    """One look at a run."""

    now: Progress | None = None
    """None: there is no run, only what is done beside one."""
    total: Progress = UNKNOWN
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, Best] = field(default_factory=dict)
    pace: float | None = None
    """Seconds of an update, pauses included."""
    samples: float | None = None
    """Samples a second."""
    waiting: float | None = None
    """The share of the updates' time that waits for data."""
    coming: Sequence[tuple[int, str]] = ()
    """Updates, and the callbacks that are due in them."""
    doing: str = ""
    """What training stands still for."""
    done: float | None = None
    """The share of it that is done, where that is known."""


def with_best(
    best: Mapping[str, Best], fresh: Iterable[str], metrics: Mapping[str, float], update: int
) -> dict[str, Best]:
    """The best values, these ones considered too; of names that don't tell what is better, none.

    >>> with_best({"loss": Best(2.0, 1)}, ["loss", "size"], {"loss": 1.0, "size": 3.0}, 5)
    {'loss': Best(value=1.0, update=5)}
    """
    found = dict(best)
    for name in fresh:
        known = found.get(name)
        if better(metrics[name], None if known is None else known.value, name):
            found[name] = Best(metrics[name], update)
    return found


def better(value: float, best: float | None, name: str) -> bool:
    """Whether a metric's value is better than the best; False where its name doesn't tell."""
    try:
        return improves(value, best, direction(name))
    except ValueError:
        return False


def readings(view: View) -> list[str]:
    """The metrics that are shown: total losses, then what else has a best value, never too many.

    Of several intervals of the online loss, and of what was at best, the plain ones.
    """
    online = sorted((n for n in view.metrics if n.startswith("loss/online/total/")), key=len)[-1:]
    others = (n for n in view.best if "/at_best/" not in n and not n.startswith("loss/online/"))
    named = sorted(others, key=lambda name: (not name.endswith("/total"), name))
    return [*online, *(name for name in named if name in view.metrics)][:MOST_METRICS]


def line(view: View) -> str:
    """Bar, counts, the last loss, and the time left.

    >>> line(View(Progress(1, 50, 3200), Progress(2, 100, 6400), pace=0.1))
    '[######......]  50%  epoch 1/2  update 50/100  0:00:05 left'
    """
    if view.doing or view.now is None:
        return view.doing
    parts, share = [_counts(view.now, view.total)], _share(view)
    if share is not None:
        filled = round(share * BAR)
        parts.insert(0, f"[{'#' * filled}{'.' * (BAR - filled)}] {share:4.0%}")
    losses = [v for k, v in view.metrics.items() if k.startswith("loss/online/total/")]
    parts += [f"loss {loss:.4g}" for loss in losses[:1]]
    return "  ".join([*parts, *_left(view)])


def panel(view: View) -> Any:
    """The same as a block for `rich`, with rates, metrics and what comes next."""
    from rich.console import Group
    from rich.text import Text

    rows: list[Any] = [] if view.now is None else [_head(view, view.now)]
    if rates := "  ".join(_rates(view)):
        rows.append(Text(rates, style="dim"))
    if shown := readings(view):
        rows.append(_table(view, shown))
    if view.coming:
        due = ", ".join(f"{printable(name)} at {at}" for at, name in view.coming[:MOST_FIRINGS])
        rows.append(Text(f"next: {due}", style="dim", no_wrap=True, overflow="ellipsis"))
    if view.doing:
        rows.append(_below(view))
    return Group(*rows)


def can_draw() -> bool:
    """Whether there is a library to draw the block with."""
    return find_spec("rich") is not None


def _head(view: View, now: Progress) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    share = _share(view)
    head = Table.grid(padding=(0, 2))
    cells: list[Any] = [] if share is None else [ProgressBar(1.0, share, width=24), f"{share:.0%}"]
    head.add_row(*cells, _counts(now, view.total), *_left(view))
    return head


def _below(view: View) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    below = Table.grid(padding=(0, 2))
    bars = [] if view.done is None else [ProgressBar(1.0, view.done, width=24)]
    below.add_row(*bars, Text(printable(view.doing), style="cyan"))
    return below


def _table(view: View, shown: Sequence[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for title, side in (("metric", "left"), ("now", "right"), ("best", "right"), ("at", "right")):
        table.add_column(title, justify=side)  # type: ignore[arg-type]
    for name in shown:
        best, value = view.best.get(name), view.metrics[name]
        style = "bold green" if best is not None and value == best.value else ""
        told = ("", "") if best is None else (f"{best.value:.4g}", str(best.update))
        # As text: a string may hold what the library takes for a style.
        table.add_row(Text(printable(name)), f"{value:.4g}", *told, style=style)
    return table


def _rates(view: View) -> Iterator[str]:
    if view.pace:
        yield f"{1 / view.pace:,.3g} updates/s"
    if view.samples:
        yield f"{view.samples:,.4g} samples/s"
    if view.waiting is not None:
        yield f"waits for data {view.waiting:.0%}"


def _share(view: View) -> float | None:
    if view.now is None or not view.total.update:
        return None
    return min(view.now.update / view.total.update, 1.0)


def _left(view: View) -> Iterator[str]:
    if view.now is not None and view.total.update and view.pace is not None:
        yield f"{span(view.pace * max(view.total.update - view.now.update, 0))} left"


def _counts(now: Progress, total: Progress) -> str:
    return f"epoch {now.epoch}{_of(total.epoch)}  update {now.update}{_of(total.update)}"


def span(seconds: float) -> str:
    """Seconds as H:MM:SS."""
    return str(timedelta(seconds=round(seconds)))


def _of(count: int | None) -> str:
    return "" if count is None else f"/{count}"
