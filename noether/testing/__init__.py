"""For users' own tests: invented runs, schedules and snapshots, and the laws to put to one's own.

`check_schedule` and `check_callback` put every law there is to a schedule or a callback;
`progress_walks`, `schedules`, `marks`, `windows` and `snapshots` are hypothesis strategies for
properties of one's own, `steady`, `reports`, `answers`, `fired` and `asked` for plain examples.
"""

from importlib import import_module

try:
    import_module("hypothesis")  # an extra
except ImportError as error:
    raise ImportError(
        "noether.testing needs hypothesis: pip install noether-callbacks[testing]"
    ) from error

from noether.testing.callback_check import check_callback
from noether.testing.playing import asked
from noether.testing.schedule_check import check_schedule
from noether.testing.states import snapshots
from noether.testing.terms import marks, schedules, windows
from noether.testing.walks import Walk, answers, fired, progress_walks, reports, steady

__all__ = [
    "Walk",
    "answers",
    "asked",
    "check_callback",
    "check_schedule",
    "fired",
    "marks",
    "progress_walks",
    "reports",
    "schedules",
    "snapshots",
    "steady",
    "windows",
]
