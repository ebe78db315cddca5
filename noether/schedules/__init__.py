"""When things happen: schedules, their algebra and their text.

Think of marks on the time line: a schedule fires when a tick passes a mark. Windows only drop
marks. `every` and `at` set them, `after`, `until` and `between` are the windows.
"""

from noether.schedules.counting import at, every
from noether.schedules.events import always, each_session, never, once_at_end, once_at_start
from noether.schedules.firings import cooldown, first, skip
from noether.schedules.metrics import on_improvement, on_plateau, when
from noether.schedules.predicates import where
from noether.schedules.schedule import Schedule, Tick
from noether.schedules.text import parse
from noether.schedules.windows import after, between, until

__all__ = [
    "Schedule",
    "Tick",
    "after",
    "always",
    "at",
    "between",
    "cooldown",
    "each_session",
    "every",
    "first",
    "never",
    "on_improvement",
    "on_plateau",
    "once_at_end",
    "once_at_start",
    "parse",
    "skip",
    "until",
    "when",
    "where",
]
