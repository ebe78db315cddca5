"""Where the time of an update goes: traces of a few of them."""

from noether.callback import Callback, factory
from noether.effects import Do
from noether.schedules import every, until
from noether.state import TrainState


@factory
def profile(
    *,
    wait: int = 10,
    warmup: int = 2,
    active: int = 3,
    repeat: int | None = 1,
    with_stack: bool = False,
) -> Callback:
    """Write a trace of torch.profiler, for Perfetto or Chrome, of a few updates.

    A window is `wait` updates without the profiler, then `warmup + active` with it, `repeat` times
    (None: all through the run), the windows lying as those of `torch.profiler.schedule`. The trace
    `profile_U{first}-{last}.json.gz` begins with the `warmup` updates, in which the profiler
    itself settles: look at those after them. `with_stack` adds the lines of Python, which takes
    time.

    A run that ends within a window writes what there is; one that goes on there takes up the rest.

    Raises ValueError for a count below 0, and for `active` or `repeat` below 1.

    >>> str(profile(wait=5, warmup=1, active=4).schedule)
    '(every(updates=10, start=5) | every(updates=10)) & until(updates=10)'
    """
    times = 1 if repeat is None else repeat
    _check(wait=(wait, 0), warmup=(warmup, 0), active=(active, 1), repeat=(times, 1))
    period = wait + warmup + active
    marks = every(updates=period, start=wait or period) | every(updates=period)

    def runs(update: int) -> bool:
        """Whether the profiler runs after this update."""
        return update % period >= wait and (repeat is None or update < repeat * period)

    def begin(state: TrainState) -> list[Do]:
        return [Do("start_profile", {"with_stack": with_stack})] if runs(state.now.update) else []

    def switch(state: TrainState) -> list[Do]:
        ended = [] if state.now.update % period else [_written(state.now.update, warmup + active)]
        return ended + begin(state)

    def end(state: TrainState) -> list[Do]:
        update = state.now.update
        return [_written(update, update % period - wait)] if runs(update) else []

    return Callback(
        "profile",
        before_training=begin,
        on_schedule=switch,
        after_training=end,
        schedule=marks if repeat is None else marks & until(updates=repeat * period),
        reads=(),
        writes=(),
        on_error="warn",
    )


def _check(**given: tuple[int, int]) -> None:
    for option, (value, least) in given.items():
        if value < least:
            raise ValueError(f"profile: {option} is {value}; expected {least} or more")


def _written(update: int, updates: int) -> Do:
    return Do("stop_profile", {"name": f"profile_U{update - updates + 1}-{update}"})
