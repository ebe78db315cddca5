"""Lines that say where a run is."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from noether.callback import Callback, factory
from noether.effects import Say
from noether.progress import Progress
from noether.schedules import Schedule, every, once_at_end
from noether.state import TrainState


@factory
def progress(*, max_silence: float = 300, schedule: Schedule | None = None) -> Callback:
    """Say where the run is: share, epoch, update, sample, last losses, pace, time left and end.

    Runs on `schedule`, by default every 50 updates, after `max_silence` seconds in any case, and
    on the closing tick; a terminal that shows all of it anyway is spared the lines. The pace is
    that of this session alone, its first stretch left out as warm-up.

    Raises ValueError for a silence that is not positive.

    >>> str(progress(schedule=every(epochs=1)).schedule)
    'every(epochs=1) | every(seconds=300) | once_at_end'
    """
    if not max_silence > 0:
        raise ValueError(f"progress: max_silence is {max_silence}; expected seconds above 0")
    chosen = every(updates=50) if schedule is None else schedule
    return Callback(
        "progress",
        init=_no_mark,
        on_schedule=_say_progress,
        schedule=chosen | every(seconds=max_silence) | once_at_end,
        reads=(),
        reads_optional=("loss/online/total/*", "loss/*/total", "accuracy/*"),
        writes=(),
        on_error="warn",
    )


def _no_mark(state: TrainState) -> Progress | None:
    return None


def _say_progress(state: TrainState, mark: Progress | None) -> tuple[Progress, Say]:
    return state.now, Say("  ".join(_progress_parts(state, mark)), routine=True)


def _progress_parts(state: TrainState, mark: Progress | None) -> Iterator[str]:
    now, total = state.now, state.total
    if total.update:
        yield f"{min(now.update / total.update, 1):4.0%}"
    yield f"epoch {now.epoch}  update {now.update}  sample {now.sample}"
    for name in _shown(state.metrics):
        yield f"{name} {state.metrics[name]:.4g}"
    if mark is None or mark.session != now.session or now.update <= mark.update:
        return
    pace = (now.seconds - mark.seconds) / (now.update - mark.update)
    yield f"{pace * 1000:.3g} ms/update"
    if total.update:
        left = max(total.update - now.update, 0) * pace
        end = datetime.now().astimezone() + timedelta(seconds=left)
        yield f"{timedelta(seconds=round(left))} left, till {end:%a %H:%M %Z}"


def _shown(metrics: Mapping[str, float]) -> list[str]:
    """Total losses and accuracies, those now; of several online intervals the longest."""
    names = [name for name in metrics if "/at_best/" not in name]
    online = [name for name in names if name.startswith("loss/online/total/")]
    totals = [n for n in names if n.startswith("loss/") and n.endswith("/total")]
    others = [*totals, *(n for n in names if n.startswith("accuracy/"))]
    return sorted(online, key=lambda name: (len(name), name))[-1:] + sorted(others)
