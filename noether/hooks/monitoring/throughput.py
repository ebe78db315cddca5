"""How much a run gets done in a second."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from noether.callback import Callback, factory
from noether.effects import Log
from noether.hooks.monitoring import devices
from noether.schedules import Schedule, every
from noether.state import TrainState

PEAKS: Mapping[str, float] = {
    r"\bH200\b(?!.*NVL)": 989e12,
    r"\bH100\b(?!.*(PCIe|NVL))": 989e12,
    r"\bA100\b": 312e12,
    r"\bL40S\b": 362e12,
    r"\bL4\b": 121e12,
    r"\bA10\b": 125e12,
    r"\bV100\b": 125e12,
    r"\bT4\b": 65e12,
}
"""Operations a second of 16 bit matrix products, dense, by what the device's name holds: the data
sheets of its maker."""


@dataclass(frozen=True, slots=True)
class Done:
    """What was done in some updates."""

    updates: int = 0
    samples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """The updates of the last complete stretch and of the present one, in this session."""

    last: Done = Done()
    now: Done = Done()
    session: int = 0
    seen: int = 0
    """Updates of this session so far."""


@factory
def throughput(
    *,
    window: int = 100,
    warmup: int = 10,
    flops_per_sample: float | None = None,
    peak_flops: float | None = None,
    schedule: Schedule | None = None,
) -> Callback:
    """Log `throughput/samples_per_second`, `/updates_per_second`, `/samples_per_second_per_device`.

    Over the last one to two times `window` updates of this session, its first `warmup` left out,
    without the time of evaluation and saving; on `schedule`, by default every `window` updates.
    With `flops_per_sample`, forward and backward, also `throughput/mfu`: the share of the devices'
    `peak_flops`, which is known by the names of some.

    Raises ValueError for numbers out of range.

    >>> str(throughput(window=50).schedule)
    'every(updates=50)'
    """
    _check(window, warmup, flops_per_sample, peak_flops)

    def add(state: TrainState, seen: Window) -> tuple[Window, None]:
        session = state.now.session
        seen = seen if seen.session == session else Window(session=session)
        now = _with(seen.now, state) if seen.seen >= warmup else seen.now
        full = now.updates == window
        halves = (now, Done()) if full else (seen.last, now)
        return Window(*halves, session, seen.seen + 1), None

    def log(state: TrainState, seen: Window) -> tuple[Window, Log | None]:
        seconds = seen.last.seconds + seen.now.seconds
        if seconds <= 0 or seen.session != state.now.session:
            return seen, None
        samples = (seen.last.samples + seen.now.samples) / seconds
        each = samples / state.world_size
        found = {
            "samples_per_second": samples,
            "updates_per_second": (seen.last.updates + seen.now.updates) / seconds,
            "samples_per_second_per_device": each,
        }
        peak = _peak(state) if peak_flops is None else peak_flops
        if flops_per_sample is not None and peak is not None:
            found["mfu"] = each * flops_per_sample / peak
        return seen, Log({f"throughput/{name}": value for name, value in found.items()})

    return Callback(
        "throughput",
        init=_empty,
        after_update=add,
        on_schedule=log,
        schedule=every(updates=window) if schedule is None else schedule,
        reads=(),
        writes=("throughput/*",),
        on_error="warn",
    )


def _check(window: int, warmup: int, flops: float | None, peak: float | None) -> None:
    if window < 1 or warmup < 0 or any(n is not None and n <= 0 for n in (flops, peak)):
        raise ValueError(
            f"throughput: window {window}, warmup {warmup}, flops_per_sample {flops}, peak_flops "
            f"{peak}; expected 1 or more, 0 or more, and positive numbers"
        )


def _empty(state: TrainState) -> Window:
    return Window()


def _with(done: Done, state: TrainState) -> Done:
    """With one more update."""
    # On several ranks the clock is heard a tick late, after the pause: only sums are right.
    passed = state.now.seconds - state.before.seconds - state.timings.get("pause", 0.0)
    samples = state.now.sample - state.before.sample
    return Done(done.updates + 1, done.samples + samples, done.seconds + passed)


def _peak(state: TrainState) -> float | None:
    device = devices.gpu(state)
    if device is None:
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """The peak of a device of that name, where it is known.

    >>> peak_of("NVIDIA A100-SXM4-80GB"), peak_of("NVIDIA RTX A1000")
    (312000000000000.0, None)
    """
    return next((peak for part, peak in PEAKS.items() if re.search(part, name)), None)
