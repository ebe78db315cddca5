"""Where the time of training goes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import add, gt

from noether.callback import Callback, factory
from noether.effects import Effect, Log, Say
from noether.schedules import Schedule, every
from noether.state import TrainState

PARTS = ("data_wait", "forward", "backward", "update", "getitem", "collate")
ALWAYS = 4
"""How many of them every update has."""
Times = tuple[float, ...]
"""Seconds of the first so many of these parts: of those that are known."""


def _times(timings: Mapping[str, float]) -> Times:
    """An update's; `update` is all of it but the wait for data."""
    forward, backward = timings.get("forward", 0.0), timings.get("backward", 0.0)
    update = forward + backward + timings.get("step", 0.0)
    wait = timings.get("data_wait", 0.0)
    if "getitem" not in timings:
        return wait, forward, backward, update
    if "collate" not in timings:
        return wait, forward, backward, update, timings["getitem"]
    return wait, forward, backward, update, timings["getitem"], timings["collate"]


@dataclass(frozen=True, slots=True)
class Spent:
    """Sums and maxima since the last firing, and the sums of all before it.

    Of all updates since the last firing the same parts are known.
    """

    sums: Times = (0.0,) * ALWAYS
    most: Times = (0.0,) * ALWAYS
    count: int = 0
    totals: Times = (0.0,) * ALWAYS


def _all_sums(spent: Spent) -> Times:
    return tuple(map(sum, zip_longest(spent.totals, spent.sums, fillvalue=0.0)))


def _anew(spent: Spent, parts: int) -> Spent:
    """Nothing spent on the first so many parts; what was spent is in the totals."""
    nothing = (0.0,) * parts
    return Spent(nothing, nothing, totals=_all_sums(spent))


@factory
def train_time() -> Callback:
    """Log `train_time/{part}/mean/{I}` and `/max/{I}`, seconds an update; totals at the end.

    The parts are `data_wait`, `forward`, `backward`, and `update`: forward, backward and the
    optimizer's step. Measured without waiting for the device, so that on a GPU the parts tell when
    work was handed over, and only their sum over many updates how long it took. At the end
    `train_time/{part}/total` is the sum over all sessions. Over ranks: the mean of means, the
    largest maximum.

    Two more are of an update's samples on this rank, wherever they were loaded: `getitem`, what
    the data set took for them (of an iterable, going through it), and `collate`. In workers both
    pass while training goes on, so they may be longer than `data_wait`. The rows of a
    TensorDataset are gathered at once: that is `getitem`, and there is no `collate`. What a
    DataLoader of your own does is not known: neither is logged. Where a resume brings data with
    other parts, means and maxima begin anew.

    >>> train_time().writes
    ('train_time/*/mean/{I}', 'train_time/*/max/{I}', 'train_time/*/total')
    """
    return Callback(
        "train_time",
        init=_nothing_spent,
        after_update=_spend,
        on_schedule=_log_times,
        after_training=_log_totals,
        reads=(),
        writes=("train_time/*/mean/{I}", "train_time/*/max/{I}", "train_time/*/total"),
        on_error="warn",
    )


def _nothing_spent(state: TrainState) -> Spent:
    return Spent()


def _spend(state: TrainState, spent: Spent) -> tuple[Spent, None]:
    times = _times(state.timings)
    if len(times) != len(spent.sums):
        spent = _anew(spent, len(times))
    sums, most = tuple(map(add, spent.sums, times)), spent.most
    if any(map(gt, times, most)):  # rare, and asked for in half the time that `max` takes
        most = tuple(map(max, most, times))
    return Spent(sums, most, spent.count + 1, spent.totals), None


def _log_times(state: TrainState, spent: Spent) -> tuple[Spent, list[Log]]:
    if not spent.count:
        return spent, []
    means = zip(PARTS, (total / spent.count for total in spent.sums), strict=False)
    most = zip(PARTS, spent.most, strict=False)
    return _anew(spent, len(spent.sums)), [
        Log({f"train_time/{part}/mean/{{I}}": value for part, value in means}),
        Log({f"train_time/{part}/max/{{I}}": value for part, value in most}, over_ranks="max"),
    ]


def _log_totals(state: TrainState, spent: Spent) -> tuple[Spent, Log]:
    totals = zip(PARTS, _all_sums(spent), strict=False)
    named = {f"train_time/{part}/total": value for part, value in totals}
    return spent, Log(named, summary=True)


# ---------------------------------------------------------------- waiting


@dataclass(frozen=True, slots=True)
class Waited:
    """Seconds waited for data and in all since the last firing; whether it was warned."""

    wait: float = 0.0
    whole: float = 0.0
    warned: bool = False


@factory
def data_wait(*, warn_above: float = 0.2, schedule: Schedule | None = None) -> Callback:
    """Log `time/data_wait_fraction`: the share of the updates' time that was a wait for data.

    Runs on `schedule`, by default every 100 updates, over the updates since. A share above
    `warn_above` is said once in a run: more `workers` may help.

    Raises ValueError for a share that is not between 0 and 1.

    >>> str(data_wait().schedule)
    'every(updates=100)'
    """
    if not 0 <= warn_above <= 1:
        raise ValueError(f"data_wait: warn_above is {warn_above}; expected a share from 0 to 1")

    def add(state: TrainState, waited: Waited) -> tuple[Waited, None]:
        wait, _, _, update, *_ = _times(state.timings)
        more = replace(waited, wait=waited.wait + wait, whole=waited.whole + wait + update)
        return more, None

    def log(state: TrainState, waited: Waited) -> tuple[Waited, list[Effect]]:
        if not waited.whole:
            return waited, []
        share = waited.wait / waited.whole
        said = f"training waits for data {share:.0%} of its time; more workers may help"
        warned = waited.warned or share > warn_above
        told = [Say(said)] if warned and not waited.warned else []
        return Waited(warned=warned), [Log({"time/data_wait_fraction": share}), *told]

    return Callback(
        "data_wait",
        init=_not_waited,
        after_update=add,
        on_schedule=log,
        schedule=every(updates=100) if schedule is None else schedule,
        reads=(),
        writes=("time/data_wait_fraction",),
        on_error="warn",
    )


def _not_waited(state: TrainState) -> Waited:
    return Waited()


# ---------------------------------------------------------------- ranks


SIDES = ("time/slowest_rank", "time/fastest_rank")


@factory
def slow_rank(*, factor: float = 1.2, schedule: Schedule | None = None) -> Callback:
    """Log `time/slowest_rank` and `time/fastest_rank`: seconds of an update before ranks wait.

    That is the wait for data and the forward pass, which no other rank takes part in, as the mean
    over the updates since the last firing; on `schedule`, by default every 100 updates.

    An update after each firing, or at the end, `time/rank_spread` is the one divided by the other,
    1 where all ranks are equally fast: what they are over all ranks is known only then. A spread
    above `factor` is said.

    Raises ValueError for a factor that is not above 1.

    >>> slow_rank().writes
    ('time/slowest_rank', 'time/fastest_rank', 'time/rank_spread')
    """
    if not factor > 1:
        raise ValueError(f"slow_rank: factor is {factor}; expected more than 1")

    def spend(state: TrainState, spent: Spent) -> tuple[Spent, Iterable[Effect]]:
        more, _ = _spend(state, spent)
        return more, compare(state, spent)[1]

    def compare(state: TrainState, spent: Spent) -> tuple[Spent, Iterable[Effect]]:
        return spent, () if spent.count else _compared(state.metrics, factor)

    return Callback(
        "slow_rank",
        init=_nothing_spent,
        after_update=spend,
        on_schedule=_log_sides,
        after_training=compare,
        schedule=every(updates=100) if schedule is None else schedule,
        reads=(),
        reads_optional=SIDES,
        writes=(*SIDES, "time/rank_spread"),
        on_error="warn",
    )


def _log_sides(state: TrainState, spent: Spent) -> tuple[Spent, list[Log]]:
    if not spent.count:
        return spent, []
    own = (spent.sums[0] + spent.sums[1]) / spent.count
    slowest, fastest = SIDES
    return Spent(), [Log({slowest: own}, over_ranks="max"), Log({fastest: own}, over_ranks="min")]


def _compared(metrics: Mapping[str, float], factor: float) -> Iterator[Effect]:
    slow, fast = (metrics.get(side, 0.0) for side in SIDES)
    if fast > 0:
        yield Log({"time/rank_spread": slow / fast})
    if slow > factor * fast > 0:
        yield Say(f"the slowest rank needs {slow / fast:.1f} times as long as the fastest")
