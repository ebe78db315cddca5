"""Profiles and memory snapshots: what the core is asked to do, and when."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import Callback, TrainState, at, every, hooks
from tests.strategies import net, samples, sgd, squared_error

Asked = list[tuple[int, str, Mapping[str, Any]]]
TOOLS = ("start_profile", "stop_profile", "record_memory", "snapshot_memory")


def train(*callbacks: Callback, **options: Any) -> TrainState:
    given = {"loss": squared_error, "optimizer": sgd, "until": {"updates": 12}, "batch_size": 4}
    return noether.train(
        net(), samples(12), callbacks=list(callbacks), defaults=False, **{**given, **options}
    )


def asked(*callbacks: Callback, **options: Any) -> Asked:
    """What a run does for callbacks, each with the number of updates made by then."""
    found: Asked = []
    updates = [0]

    def noted(action: str) -> Any:
        return lambda **given: found.append((updates[0], action, given))

    def count(state: TrainState) -> None:
        updates[0] = state.now.update

    counter = Callback("counter", before_training=count, after_update=count)
    actions = {action: noted(action) for action in TOOLS}
    try:
        train(counter, *callbacks, actions=actions, **options)
    except (RuntimeError, KeyboardInterrupt):
        found.append((updates[0], "failed", {}))
    return found


def interrupt(state: TrainState) -> None:
    raise KeyboardInterrupt


# ---------------------------------------------------------------- profiles


def profiled(found: Asked) -> list[list[int]]:
    """The updates that each profile saw; fails where one is begun within another."""
    windows: list[list[int]] = []
    begun = None
    for update, action, options in found:
        if action == "start_profile":
            assert begun is None
            begun = update
        elif action == "stop_profile":
            assert begun is not None
            assert options == {"name": f"profile_U{begun + 1}-{update}"}
            windows.append(list(range(begun + 1, update + 1)))
            begun = None
    assert begun is None
    return windows


@pytest.mark.filterwarnings("ignore:Profiler won't be using warmup")
@pytest.mark.parametrize("repeat", [1, 2, None])
@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.parametrize("wait", [0, 1, 3])
def test_windows_lie_as_those_of_torch(wait: int, warmup: int, repeat: int | None) -> None:
    made = hooks.profile(wait=wait, warmup=warmup, active=2, repeat=repeat)
    seen = [update for window in profiled(asked(made)) for update in window]
    schedule = torch.profiler.schedule(wait=wait, warmup=warmup, active=2, repeat=repeat or 0)
    off = torch.profiler.ProfilerAction.NONE
    assert seen == [update + 1 for update in range(12) if schedule(update) is not off]


def test_a_trace_holds_the_updates_of_its_window(tmp_path: Path) -> None:
    made = hooks.profile(wait=2, warmup=1, active=2, with_stack=True)
    train(made, run_dir=tmp_path)
    (trace,) = (tmp_path / "1" / "outputs").iterdir()
    assert trace.name == "profile_U3-5.json.gz"
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    assert sum(e.get("name") == "Optimizer.step#SGD.step" for e in events) == 3
    assert any(e.get("cat") == "python_function" for e in events)


def test_a_run_that_ends_within_a_window_writes_what_there_is() -> None:
    made = hooks.profile(wait=5, warmup=1, active=20)
    assert profiled(asked(made)) == [[6, 7, 8, 9, 10, 11, 12]]
    stopper = at(updates=7)(Callback("stopper", on_schedule=interrupt))
    found = asked(made, stopper)
    assert found.pop() == (7, "failed", {})
    assert profiled(found) == [[6, 7]]


def test_a_run_that_goes_on_within_a_window_takes_up_the_rest(tmp_path: Path) -> None:
    made = hooks.profile(wait=2, warmup=0, active=4, repeat=1)
    train(made, hooks.checkpoint(schedule=every(updates=1), keep_last=None), run_dir=tmp_path)
    resume = tmp_path / "1" / "checkpoints" / "step-4"
    found = asked(made, resume=resume, run_dir=tmp_path / "more")
    assert [(update, action) for update, action, _ in found] == [
        (4, "start_profile"),
        (6, "stop_profile"),
    ]


@pytest.mark.parametrize(
    ("option", "value"), [("wait", -1), ("warmup", -1), ("active", 0), ("repeat", 0)]
)
def test_a_bad_window_is_refused(option: str, value: int) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match=f"profile: {option} is {value}; expected"):
        hooks.profile(**options)


# ---------------------------------------------------------------- memory

RECORD = ("record_memory", {"max_entries": 50})
END = ("record_memory", {"max_entries": 0})


def snapshot(first: int, last: int) -> tuple[str, dict[str, str]]:
    return "snapshot_memory", {"name": f"memory_U{first}-{last}"}


@pytest.mark.parametrize(
    ("start", "updates", "expected"),
    [
        (1, 1, [(0, RECORD), (1, snapshot(1, 1)), (1, END)]),
        (3, 4, [(2, RECORD), (6, snapshot(3, 6)), (6, END)]),
        (12, 1, [(11, RECORD), (12, snapshot(12, 12)), (12, END)]),
        (11, 9, [(10, RECORD), (12, snapshot(11, 12)), (12, END)]),
        (13, 2, [(12, RECORD), (12, END)]),
        (14, 1, []),
    ],
)
def test_a_window_of_updates_is_recorded_and_written(
    start: int, updates: int, expected: list[Any]
) -> None:
    made = hooks.memory_snapshot(start=start, updates=updates, max_entries=50)
    assert [(update, (do, given)) for update, do, given in asked(made)] == expected


@pytest.mark.parametrize(("after", "recorded"), [(1, True), (2, True), (3, True), (4, False)])
def test_recording_goes_on_in_a_resumed_run(*, after: int, recorded: bool, tmp_path: Path) -> None:
    made = hooks.memory_snapshot(start=3, updates=2, max_entries=50)
    train(made, hooks.checkpoint(schedule=every(updates=1), keep_last=None), run_dir=tmp_path)
    resume = tmp_path / "1" / "checkpoints" / f"step-{after}"
    found = asked(made, resume=resume, run_dir=tmp_path / "more")
    whole = [(max(after, 2), RECORD), (4, snapshot(3, 4)), (4, END)]
    assert [(u, (do, given)) for u, do, given in found] == (whole if recorded else [])


def full(text: str) -> Any:
    """A loss function that raises in the third update."""
    calls = []

    def loss(model: Any, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 3:
            raise torch.OutOfMemoryError(text)
        return squared_error(model, batch)

    return loss


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("MPS backend Out Of Memory", True),
        ("something else", False),
    ],
)
def test_a_full_memory_is_written_before_the_error_goes_on(*, text: str, written: bool) -> None:
    found = asked(hooks.oom_observer(max_entries=50), loss=full(text))
    snapshot = (2, "snapshot_memory", {"name": "out_of_memory_U2"})
    begun, ended = (0, *RECORD), (2, *END)
    failed: Any = (2, "failed", {})
    assert found == [begun, *([snapshot] if written else []), ended, failed]


def test_the_error_is_the_one_that_was_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        train(hooks.oom_observer(), loss=full("CUDA out of memory. Tried to allocate"))


def test_a_run_that_ends_well_writes_no_snapshot() -> None:
    assert asked(hooks.oom_observer(max_entries=50)) == [(0, *RECORD), (12, *END)]


@pytest.mark.parametrize("option", ["start", "updates", "max_entries"])
def test_a_bad_memory_window_is_refused(option: str) -> None:
    options: dict[str, Any] = {option: 0}
    with pytest.raises(ValueError, match=f"memory_snapshot: {option} is 0; expected 1 or more"):
        hooks.memory_snapshot(**options)
    if option == "max_entries":
        with pytest.raises(ValueError, match="oom_observer: max_entries is 0"):
            hooks.oom_observer(**options)
