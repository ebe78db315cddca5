"""Training in stages: which parameters stand still."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from noether.callback import Callback, factory
from noether.effects import Effect, Set
from noether.schedules import Schedule, once_at_start
from noether.state import TrainState


@factory
def freeze(*, patterns: Sequence[str], schedule: Schedule | None = None) -> Callback:
    """Train these parameters no more: names of parameters, with `*`, or of parameter groups.

    By default from the start of the run on. They get no gradients any more, and an optimizer
    leaves them where they are, its momentum and decay included. What is frozen is so after a
    resume.

    Raises ValueError at the start for a pattern that fits nothing; a parameter of two names goes
    by its first.

    >>> str(freeze(patterns=["encoder.*"]).schedule)
    'once_at_start'
    """
    checked = _checked("freeze", patterns)

    def check(state: TrainState) -> None:
        _check_fit("freeze", checked, state)

    def stop(state: TrainState) -> list[Set]:
        return [Set(f"trainable/{pattern}", value=False) for pattern in checked]

    return Callback(
        f"freeze/{'+'.join(checked)}",
        before_training=check,
        on_schedule=stop,
        schedule=once_at_start if schedule is None else schedule,
        reads=(),
        writes=(),
        critical=True,
    )


@factory
def unfreeze(*, patterns: Sequence[str], lr_scale: float | None = None) -> Callback:
    """Train these parameters from when the schedule fires, `at(epochs=2)` say.

    `patterns` as for `freeze`; of the parameters that they fit those are trained that the
    optimizer holds. lr_scale: what the learning rates of the patterns that are names of parameter
    groups are multiplied with, the first time it fires; an `lr_schedule` of these groups would
    overrule it.

    Raises ValueError for a scale that is not positive, and at the start for a pattern that fits
    nothing, or a scale where none is the name of a group.

    >>> from noether import at
    >>> at(epochs=2)(unfreeze(patterns=["encoder.*"])).schedule
    at(epochs=2)
    """
    checked = _checked("unfreeze", patterns)
    if lr_scale is not None and not lr_scale > 0:
        raise ValueError(f"unfreeze: lr_scale is {lr_scale}; expected a positive number")

    def check(state: TrainState, woken: bool) -> tuple[bool, None]:  # noqa: FBT001 a memory
        _check_fit("unfreeze", checked, state)
        if lr_scale is not None and not any(pattern in state.hyper for pattern in checked):
            found = f"unfreeze: lr_scale is given, and none of {list(checked)} is a group"
            raise ValueError(f"{found}; groups: {sorted(state.hyper)}")
        return woken, None

    def go_on(state: TrainState, woken: bool) -> tuple[bool, list[Effect]]:  # noqa: FBT001
        scaled = [name for name in checked if name in state.hyper and lr_scale and not woken]
        rates = [Set(f"lr/{name}", state.hyper[name]["lr"] * (lr_scale or 1)) for name in scaled]
        return True, [*(Set(f"trainable/{pattern}", value=True) for pattern in checked), *rates]

    return Callback(
        f"unfreeze/{'+'.join(checked)}",
        init=_asleep,
        before_training=check,
        on_schedule=go_on,
        reads=(),
        writes=(),
        critical=True,
    )


def _asleep(state: TrainState) -> bool:
    return False


def _checked(who: str, patterns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(patterns, str) or not patterns or not all(patterns):
        raise ValueError(f"{who}: patterns is {patterns!r}; expected a list of names, * allowed")
    return tuple(patterns)


def _check_fit(who: str, patterns: Sequence[str], state: TrainState) -> None:
    """Raise ValueError for a pattern that is no group's name and fits no parameter's."""
    names = list(state.model.parameters)
    for pattern in patterns:
        if pattern not in state.hyper and not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, [*names, *state.hyper], n=1)
            hint = f"Did you mean {near[0]}?" if near else f"The first of them is {names[0]}."
            raise ValueError(f"{who}: {pattern!r} is no parameter's name and no group's. {hint}")
