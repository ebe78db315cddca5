"""Learning rate and weight decay as functions of how far the run is."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from noether.callback import Callback, factory
from noether.effects import Say, Set
from noether.hooks.tuning.shapes import Shape, shapes
from noether.state import TrainState

Unit = Literal["update", "epoch"]
Curve = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Course:
    """Where the values began, by parameter group, and the length of the run then."""

    base: Mapping[str, float]
    updates: int | None
    epochs: float | None


@dataclass(frozen=True, slots=True)
class Way:
    """How the values move, as the options say it."""

    who: str
    key: str
    curve: Curve
    warmup: int
    end: float
    by: Unit
    groups: tuple[str, ...] | None
    endless: bool
    """Whether the length of the run is of no account."""


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

    After k updates (epochs, with `by="epoch"`) of n, the rate is base * f + min_lr * (1 - f) with
    f = (k + 1) / warmup during the first `warmup` of them, then the shape's f of the share
    s = (k - warmup) / (n - warmup). cosine: (1 + cos(pi s)) / 2, as in SGDR (Loshchilov and Hutter
    2017); linear: 1 - s; polynomial: (1 - s) ** power; step: `gamma` more often times itself in
    each of `steps` equal stairs; constant: 1; or a function of s of your own.

    Runs after every update, skipped ones too, for the next one. `groups`: the parameter groups
    that are moved, by default all whose rate is not 0. Their base rates and n are those of the
    run's start, also in a resumed one, where other options count from then on: one that is longer
    now, or has other rates in its configuration, is told so. What comes after n updates is made
    with the last rate of the shape. An `lr_scheduler=` would be overruled after each update, and
    `reduce_on_plateau` too: use one of them.

    Raises ValueError for numbers out of range, and for those that are of another shape; and at the
    start for a run whose length is not known (but with `constant`) or is all warmup, a group that
    is not there, and a `min_lr` above its rate.

    >>> lr_schedule(warmup=100).name
    'lr_schedule'
    >>> lr_schedule(shape="linear", groups=["head"]).name
    'lr_schedule/head'
    """
    curve = _curve("lr_schedule", shape, power, gamma, steps)
    return _moving("lr_schedule", "lr", shape, curve, warmup, min_lr, by, groups)


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

    When, shapes and options as for `lr_schedule`, `end` in the place of `min_lr`. A group without
    decay, of biases say, stays so unless `groups` names it.

    >>> weight_decay_schedule(end=0.4).name
    'weight_decay_schedule'
    """
    curve = _curve("weight_decay_schedule", shape, power, gamma, steps)
    return _moving("weight_decay_schedule", "weight_decay", shape, curve, warmup, end, by, groups)


def _curve(who: str, shape: Shape | Curve, power: float, gamma: float, steps: int) -> Curve:
    if power <= 0 or not 0 < gamma <= 1 or steps < 1:
        raise ValueError(
            f"{who}: power {power}, gamma {gamma}, steps {steps}; expected a positive power, a "
            "gamma between 0 and 1, and 1 step or more"
        )
    if not callable(shape) and shape not in get_args(Shape):
        known = ", ".join(get_args(Shape))
        raise ValueError(f"{who}: shape is {shape!r}; expected one of {known}, or a function")
    if (power != 1 and shape != "polynomial") or ((gamma, steps) != (0.1, 3) and shape != "step"):
        raise ValueError(
            f"{who}: shape is {shape!r}; power is for polynomial, gamma and steps are for step"
        )
    return shape if callable(shape) else shapes(power, gamma, steps)[shape]


def _moving(
    who: str,
    key: str,
    shape: Shape | Curve,
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
    if isinstance(groups, str) or (groups is not None and not groups):
        raise ValueError(f"{who}: groups is {groups!r}; expected a list of names, or None for all")
    chosen = None if groups is None else tuple(groups)
    way = Way(who, key, curve, warmup, end, by, chosen, shape == "constant")

    def begin(state: TrainState) -> Course:
        base = {name: values[key] for name, values in state.hyper.items() if key in values}
        return Course(base, state.total.update, state.total.epoch)

    def start(state: TrainState, course: Course) -> tuple[Course, list[Set | Say]]:
        _check(way, course)
        said = _told(way, state, course) if state.now.session > 1 else []
        return course, [*_sets(way, state, course), *map(Say, said)]

    def move(state: TrainState, course: Course) -> tuple[Course, list[Set]]:
        return course, _sets(way, state, course)

    name = who if chosen is None else f"{who}/{'+'.join(chosen)}"
    return Callback(name, init=begin, before_training=start, after_update=move, reads=(), writes=())


def _check(way: Way, course: Course) -> None:
    """Raise ValueError for what the options ask of a run that it cannot do."""
    length = _length(way, course)
    if not way.endless and 0 < length <= way.warmup:
        raise ValueError(f"{way.who}: warmup is {way.warmup} {way.by}s; the run has {length}")
    for name in _chosen(way, course):
        if way.key == "lr" and course.base[name] < way.end:
            rate = f"{course.base[name]:g}, the rate of group {name!r}"
            raise ValueError(f"{way.who}: min_lr is {way.end:g}; expected no more than {rate}")


def _chosen(way: Way, course: Course) -> Sequence[str]:
    """The groups that are moved."""
    chosen = [n for n, value in course.base.items() if value] if way.groups is None else way.groups
    if not chosen:
        found = f"{way.who}: no group has a {way.key} other than 0"
        raise ValueError(f"{found}; give the optimizer one, or name the groups")
    if strange := [name for name in chosen if name not in course.base]:
        known = sorted(course.base)
        raise ValueError(
            f"{way.who}: no group {strange[0]!r} has a {way.key}; those that do: {known}"
        )
    return chosen


def _length(way: Way, course: Course) -> float:
    """The length of the way; 0 where it is of no account."""
    length = course.updates if way.by == "update" else course.epochs
    if length is None and not way.endless:
        until = f"until={{'{way.by}s': 100}}, say"
        raise ValueError(f"{way.who} needs a run of a known number of {way.by}s: {until}")
    return length or 0


def _wanted(way: Way, state: TrainState, course: Course) -> dict[str, float]:
    """The values of the coming update."""
    factor = _factor(getattr(state.now, way.by), _length(way, course), way.warmup, way.curve)
    base = {name: course.base[name] for name in _chosen(way, course)}
    values = {name: value * factor + way.end * (1 - factor) for name, value in base.items()}
    for name, value in values.items():
        if not 0 <= value < math.inf:
            found = f"{way.who}: shape gave {factor!r}, which makes the {way.key} of {name} {value}"
            raise ValueError(f"{found}; expected 0 or more")
    return values


def _sets(way: Way, state: TrainState, course: Course) -> list[Set]:
    return [
        Set(f"{way.key}/{name}", value, told=False)
        for name, value in _wanted(way, state, course).items()
        if value != state.hyper[name][way.key]
    ]


def _told(way: Way, state: TrainState, course: Course) -> Iterator[str]:
    """What is otherwise in a session that goes on."""
    length, now = _length(way, course), getattr(state.total, way.by)
    if length != now and not way.endless:
        yield f"{way.who} goes on for {length} {way.by}s as it began, of {now} now"
    for name, value in _wanted(way, state, course).items():
        if value != (found := state.hyper[name][way.key]):
            began = f"as it goes by {course.base[name]:g}, which it began with"
            yield f"{way.who}: {way.key} of {name} is {value:g} and not {found:g}, {began}"


def _factor(done: int, length: float, warmup: int, curve: Curve) -> float:
    """What the base is multiplied with after so many are done.

    >>> [_factor(done, 6, 2, lambda share: 1 - share) for done in range(7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if done < warmup:
        return (done + 1) / warmup
    return curve(min((done - warmup) / max(length - warmup, 1), 1.0))
