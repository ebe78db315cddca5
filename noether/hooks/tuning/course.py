"""Learning rate and weight decay as functions of how far the run is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from noether.callback import Callback, factory
from noether.effects import Say, Set
from noether.hooks.tuning.shapes import Shape, shapes
from noether.progress import Progress
from noether.state import TrainState

Unit = Literal["update", "epoch"]
Curve = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Course:
    """Where the values begin, by parameter group, and the length of the way."""

    base: Mapping[str, float]
    length: int | None


@factory
def lr_schedule(
    *,
    shape: Shape | Curve = "cosine",
    warmup: int = 0,
    min_lr: float = 0.0,
    by: Unit = "update",
    groups: Sequence[str] | None = None,
    power: float = 1.0,
    gamma: float = 0.1,
    steps: int = 3,
) -> Callback:
    """Move the learning rate from its configured value to `min_lr` over the run.

    After k updates (epochs, with `by="epoch"`) of n, the rate is min_lr + (base - min_lr) * f:
    (k + 1) / warmup during the first `warmup` of them, then the shape's f of the share
    s = (k - warmup) / (n - warmup). cosine: (1 + cos(pi s)) / 2, as in SGDR (Loshchilov and Hutter
    2017); linear: 1 - s; polynomial: (1 - s) ** power; step: `gamma` more often times itself in
    each of `steps` equal stairs; constant: 1; or a function of s of your own.

    Runs after every update, for the next one. The base rate of each group and n are those of the
    run's start, also in a resumed one; a run that is longer now is told so, and stays at the end
    of the shape. `groups`: the parameter groups that are moved, by default all. Together with
    `lr_scheduler=` both would move the rate: use one.

    Raises ValueError for numbers out of range; and at the start for a run whose length is not
    known, or a group that is not there.

    >>> lr_schedule(warmup=100).name
    'lr_schedule'
    """
    curve = _curve("lr_schedule", shape, power, gamma, steps)
    return _moving("lr_schedule", "lr", curve, warmup, min_lr, by, groups)


@factory
def weight_decay_schedule(
    *,
    end: float,
    shape: Shape | Curve = "cosine",
    warmup: int = 0,
    by: Unit = "update",
    groups: Sequence[str] | None = None,
    power: float = 1.0,
    gamma: float = 0.1,
    steps: int = 3,
) -> Callback:
    """Move the weight decay from its configured value to `end`, which may be above it.

    When, shapes and options as for `lr_schedule`, `end` in the place of `min_lr`.

    >>> weight_decay_schedule(end=0.4).name
    'weight_decay_schedule'
    """
    curve = _curve("weight_decay_schedule", shape, power, gamma, steps)
    return _moving("weight_decay_schedule", "weight_decay", curve, warmup, end, by, groups)


def _curve(who: str, shape: Shape | Curve, power: float, gamma: float, steps: int) -> Curve:
    if power <= 0 or not 0 < gamma <= 1 or steps < 1:
        raise ValueError(
            f"{who}: power {power}, gamma {gamma}, steps {steps}; expected a positive power, a "
            "gamma between 0 and 1, and 1 step or more"
        )
    if callable(shape):
        return shape
    if shape not in get_args(Shape):
        known = ", ".join(get_args(Shape))
        raise ValueError(f"{who}: shape is {shape!r}; expected one of {known}, or a function")
    return shapes(power, gamma, steps)[shape]


def _moving(
    who: str,
    key: str,
    curve: Curve,
    warmup: int,
    end: float,
    by: Unit,
    groups: Sequence[str] | None,
) -> Callback:
    if warmup < 0 or end < 0 or by not in get_args(Unit):
        raise ValueError(
            f"{who}: warmup {warmup}, end {end}, by {by!r}; expected 0 or more, 0 or more, and one "
            f"of {get_args(Unit)}"
        )

    def begin(state: TrainState) -> Course:
        chosen = tuple(state.hyper) if groups is None else tuple(groups)
        if strange := [name for name in chosen if key not in state.hyper.get(name, ())]:
            known = sorted(name for name, values in state.hyper.items() if key in values)
            raise ValueError(f"{who}: no group {strange[0]!r} has a {key}; those that do: {known}")
        return Course({name: state.hyper[name][key] for name in chosen}, _count(state.total, by))

    def values(state: TrainState, course: Course) -> list[Set]:
        if course.length is None:
            until = f"until={{'{by}s': 100}}, say"
            raise ValueError(f"{who} needs a run of a known number of {by}s: {until}")
        factor = _factor(_count(state.now, by) or 0, course.length, warmup, curve)
        wanted = {name: end + (base - end) * factor for name, base in course.base.items()}
        return [
            Set(f"{key}/{name}", value, told=False)
            for name, value in wanted.items()
            if value != state.hyper[name][key]
        ]

    def start(state: TrainState, course: Course) -> tuple[Course, list[Set | Say]]:
        length = _count(state.total, by)
        said = f"{who} goes on for {course.length} {by}s as it began, of {length} now"
        return course, [*values(state, course), *([Say(said)] if length != course.length else [])]

    def move(state: TrainState, course: Course) -> tuple[Course, list[Set]]:
        return course, values(state, course)

    return Callback(who, init=begin, before_training=start, after_update=move, reads=(), writes=())


def _count(progress: Progress, by: Unit) -> int | None:
    return progress.update if by == "update" else progress.epoch


def _factor(done: int, length: int, warmup: int, curve: Curve) -> float:
    """What the base is multiplied with after so many are done.

    >>> [_factor(done, 6, 2, lambda share: 1 - share) for done in range(7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if done < warmup:
        return (done + 1) / warmup
    return curve(min((done - warmup) / max(length - warmup, 1), 1.0))
