"""Training in stages: which parameters stand still."""

from collections.abc import Sequence

from noether.callback import Callback, Hook, factory
from noether.effects import Effect, Set
from noether.schedules import Schedule, once_at_start
from noether.state import TrainState


@factory
def freeze(*, patterns: Sequence[str], schedule: Schedule | None = None) -> Callback:
    """Train these parameters no more: names of parameters, with `*`, or of parameter groups.

    By default from the start of the run on. They get no gradients any more, and an optimizer
    leaves them where they are, its momentum included. What is frozen is so after a resume.

    >>> str(freeze(patterns=["encoder.*"]).schedule)
    'once_at_start'
    """
    checked = _checked("freeze", patterns)

    def stop(state: TrainState) -> list[Set]:
        return [Set(f"trainable/{pattern}", value=False) for pattern in checked]

    return _at("freeze", stop, once_at_start if schedule is None else schedule)


@factory
def unfreeze(*, patterns: Sequence[str], lr_scale: float | None = None) -> Callback:
    """Train these parameters from when the schedule fires, `at(epochs=2)` say.

    `patterns` as for `freeze`. lr_scale: what the learning rates are multiplied with that belong
    to the patterns which are names of parameter groups.

    Raises ValueError for a scale that is not positive.

    >>> from noether import at
    >>> at(epochs=2)(unfreeze(patterns=["encoder.*"])).schedule
    at(epochs=2)
    """
    checked = _checked("unfreeze", patterns)
    if lr_scale is not None and not lr_scale > 0:
        raise ValueError(f"unfreeze: lr_scale is {lr_scale}; expected a positive number")

    def go_on(state: TrainState) -> list[Effect]:
        groups = [name for name in checked if name in state.hyper] if lr_scale else []
        rates = [Set(f"lr/{name}", state.hyper[name]["lr"] * (lr_scale or 1)) for name in groups]
        return [*(Set(f"trainable/{pattern}", value=True) for pattern in checked), *rates]

    return _at("unfreeze", go_on, None)


def _checked(who: str, patterns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(patterns, str) or not patterns or not all(patterns):
        raise ValueError(f"{who}: patterns is {patterns!r}; expected a list of names, * allowed")
    return tuple(patterns)


def _at(name: str, hook: Hook, schedule: Schedule | None) -> Callback:
    return Callback(name, on_schedule=hook, schedule=schedule, reads=(), writes=(), critical=True)
