"""Ranks of which one fails, is signalled or disagrees: all end, soon, and agree how.

Run as a script, `python -m tests.test_ranks_failing SCENARIO SERIES`, this file is one rank; its
last line tells as JSON what the run came to there.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import noether
from noether import Callback, DataPass, Log, Stop, TrainState, at, every, hooks, once_at_end
from noether.checkpoint import newest
from noether.journal import read
from noether.rundir import read_status, runs
from tests.group import TIMEOUT, Ended, launch
from tests.strategies import Clock, Samples, net, samples, sgd, squared_error

UPDATES = 20
WRONG = 3
"""The update at which rank 1 does what it should not."""
Options = dict[str, Any]

# ---------------------------------------------------------------- what a rank does


def content(n: int, seed: int = 1) -> Samples:
    made = samples(n, seed)
    return Samples(made.inputs.double(), made.targets.double())


def train(rank: int, series: Path | None, scenario: str, **more: Any) -> TrainState:
    """The run of all scenarios, with what this one makes of it on this rank."""
    options: Options = {
        "model": net(dropout=0.0).double(),
        "train_set": content(12),
        "loss": squared_error,
        "optimizer": sgd,
        "until": {"updates": UPDATES},
        "batch_size": 4,
        "datasets": {"val": content(8, seed=2)},
        "run_dir": series,
        "defaults": False,
        **more,
        **SCENARIOS[scenario](rank),
    }
    saving = hooks.checkpoint(schedule=every(updates=2) | once_at_end)
    callbacks = [*options.pop("callbacks", ()), *([saving] if series else [])]
    return noether.train(
        options.pop("model"), options.pop("train_set"), callbacks=callbacks, **options
    )


def broken(state: TrainState) -> None:
    if state.rank == 1 and state.now.update == WRONG:
        raise ArithmeticError("broken on rank 1")


def opening(state: TrainState) -> None:
    if state.rank == 1:
        raise ArithmeticError("broken on rank 1")


def witness() -> Callback:
    def tell(hook: str) -> Callable[[TrainState], None]:
        return lambda state: print(f"witness of {hook}", file=sys.stderr, flush=True)

    return Callback(
        "witness", after_training=tell("after_training"), on_exception=tell("on_exception")
    )


def hook(point: str) -> Callable[[int], Options]:
    def made(rank: int) -> Options:
        fields: Any = {point: opening if point == "before_training" else broken}
        return {"callbacks": [Callback("breaks", **fields), witness()]}

    return made


@dataclass(slots=True)
class Torn:
    """A data set that fails on rank 1, from a number of samples on."""

    content: Samples
    rank: int
    after: int
    served: int = 0

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, index: int) -> Any:
        self.served += 1
        if self.rank == 1 and self.served > self.after:
            raise OSError("broken on rank 1")
        return self.content[index]


def torn_training(rank: int) -> Options:
    return {"train_set": Torn(content(12), rank, after=2 * WRONG)}


def torn_pass(rank: int) -> Options:
    return {
        "datasets": {"val": Torn(content(8), rank, after=1)},
        "callbacks": [
            Callback(
                "evaluating",
                on_schedule=lambda state: Log({"x": state.results["x"].sum()}),
                schedule=at(updates=WRONG),
                data=DataPass("val", lambda model, batch: {"x": batch[0]}, "sum", 1),
                writes=("x",),
            )
        ],
    }


def signalled(number: int) -> Callable[[int], Options]:
    def send(state: TrainState) -> None:
        if state.rank == 1 and state.now.update == WRONG and state.now.session == 1:
            os.kill(os.getpid(), number)

    return lambda rank: {"callbacks": [Callback("sending", after_update=send)]}


def stopping(rank: int) -> Options:
    def stop(state: TrainState) -> Stop | None:
        return Stop("enough") if state.rank == 1 and state.now.update == WRONG else None

    return {"callbacks": [Callback("stop", after_update=stop)]}


def poisoned(policy: str) -> Callable[[int], Options]:
    """The loss of rank 1 alone is no number, once; on a single rank, that of the whole update."""

    def made(rank: int) -> Options:
        calls: list[int] = []
        single = os.environ.get("WORLD_SIZE", "1") == "1"

        def loss(model: Any, batch: Any) -> torch.Tensor:
            calls.append(len(calls))
            bad = len(calls) == WRONG and (single or rank == 1)
            return squared_error(model, batch) * (float("nan") if bad else 1.0)

        return {"loss": loss, "on_nonfinite": policy, "callbacks": [noting()]}

    return made


def noting() -> Callback:
    """Remembers the updates that were not performed."""

    def note(state: TrainState, skipped: tuple[int, ...]) -> tuple[tuple[int, ...], None]:
        return skipped if state.performed else (*skipped, state.now.update), None

    return Callback("noting", init=lambda state: (), after_update=note)


def observing(rank: int) -> Options:
    return {"callbacks": [Callback("breaks", after_update=broken, on_error="warn"), noting()]}


@dataclass(slots=True)
class Pace:
    """A clock that moves by its own step whenever it is read."""

    step: float
    now: float = 50.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def timed(*steps: float) -> Callable[[int], Options]:
    def made(rank: int) -> Options:
        return {
            "clock": Pace(steps[rank]),
            "until": {"seconds": 6.0, "updates": UPDATES},
            "callbacks": [Callback("note", after_update=lambda state: None)],
        }

    return made


SCENARIOS: Mapping[str, Callable[[int], Options]] = {
    "plain": lambda rank: {"clock": Clock()},
    "before_training": hook("before_training"),
    "after_update": hook("after_update"),
    "before_update": hook("before_update"),
    "training": torn_training,
    "pass": torn_pass,
    "KILL": signalled(signal.SIGKILL),
    "TERM": signalled(signal.SIGTERM),
    "stop": stopping,
    "raise": poisoned("raise"),
    "skip": poisoned("skip"),
    "observer": observing,
    "first clock fast": timed(1.0, 0.001),
    "second clock fast": timed(0.001, 1.0),
}


def main(scenario: str, series: str) -> None:
    torch.set_num_threads(1)
    model = net(dropout=0.0).double()
    final = train(int(os.environ["RANK"]), Path(series), scenario, model=model)
    told = {
        "update": final.now.update,
        "sample": final.now.sample,
        "seconds": final.now.seconds,
        "reason": final.reason,
        "memories": dict(final.memories),
        "weights": [float(x) for value in model.parameters() for x in value.detach().flatten()],
        "joined": torch.distributed.is_initialized(),
    }
    print(json.dumps(told), flush=True)


# ---------------------------------------------------------------- what is expected of all


def started(scenario: str, series: Path) -> list[Ended]:
    """Two ranks; fails where one is still there after the time limit."""
    begun = time.monotonic()
    ended = launch(2, ["-m", "tests.test_ranks_failing", scenario, str(series)])
    took = time.monotonic() - begun
    for rank, end in enumerate(ended):
        assert end.returncode is not None, f"rank {rank} hung: {end.errors[-3000:]}"
    assert took < TIMEOUT
    return ended


def codes(ended: list[Ended]) -> list[int | None]:
    return [end.returncode for end in ended]


def errors(ended: list[Ended]) -> str:
    return "\n".join(f"rank {rank}:\n{end.errors}" for rank, end in enumerate(ended))


def told(ended: list[Ended]) -> list[dict[str, Any]]:
    """What both ranks came to, in a run that ended well."""
    assert codes(ended) == [0, 0], errors(ended)
    return [json.loads(end.lines[-1]) for end in ended]


def committed(series: Path) -> int:
    """The update of the newest valid checkpoint; 0 where there is none."""
    found = newest(runs(series)[0] / "checkpoints")
    return 0 if found is None else int(found.manifest.progress["update"])


def weights(model: torch.nn.Module) -> list[float]:
    return [float(x) for value in model.parameters() for x in value.detach().flatten()]


def alone(series: Path | None, scenario: str = "plain", **options: Any) -> list[float]:
    """The weights after the run of one rank, in this process."""
    model = net(dropout=0.0).double()
    final = train(0, series, scenario, model=model, **options)
    assert final.now.update == UPDATES
    return weights(model)


def near(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-6, abs=1e-9)


def check_goes_on(series: Path) -> None:
    """What was committed goes on to the end of the unbroken run, on one rank."""
    assert alone(series, resume="auto") == near(alone(None))
    assert [run.name for run in runs(series)] == ["1"]
    assert read_status(series / "1")["state"] == "done"
    rows = list(read(series / "1" / "journal.jsonl"))
    updates = [row["update"] for row in rows if row["tick"] == "update"]
    assert updates == sorted(set(updates))
    assert (rows[-1]["tick"], rows[-1]["update"]) == ("end", UPDATES)


# ---------------------------------------------------------------- errors on one rank


@pytest.mark.parametrize("point", ["before_training", "after_update", "before_update"])
def test_a_hook_that_raises_on_one_rank_ends_all_with_an_error(tmp_path: Path, point: str) -> None:
    ended = started(point, tmp_path)
    assert codes(ended) == [1, 1], errors(ended)
    assert "broken on rank 1" in ended[1].errors
    assert "HookError" in ended[1].errors
    assert "'breaks'" in ended[1].errors
    for end in ended:
        assert end.errors.count("witness of on_exception") == 1, errors(ended)
        assert end.errors.count("witness of after_training") == 1, errors(ended)
    status = read_status(tmp_path / "1")
    assert status["state"] == "failed"
    assert status["reason"]
    assert committed(tmp_path) <= WRONG
    assert "end" not in [row["tick"] for row in read(tmp_path / "1/journal.jsonl")]


@pytest.mark.parametrize("where", ["training", "pass"])
def test_a_data_set_that_fails_on_one_rank_ends_all_with_an_error(
    tmp_path: Path, where: str
) -> None:
    ended = started(where, tmp_path)
    assert codes(ended) == [1, 1], errors(ended)
    assert "OSError: broken on rank 1" in ended[1].errors
    assert read_status(tmp_path / "1")["state"] == "failed"
    assert committed(tmp_path) <= WRONG


def test_a_killed_rank_ends_the_others_with_an_error_and_the_run_can_go_on(tmp_path: Path) -> None:
    ended = started("KILL", tmp_path)
    assert codes(ended) == [1, -signal.SIGKILL], errors(ended)
    assert read_status(tmp_path / "1")["state"] == "failed"
    assert committed(tmp_path) in (WRONG - 1, WRONG)
    check_goes_on(tmp_path)


# ---------------------------------------------------------------- one rank knows more


def test_a_signal_to_one_rank_ends_all_a_tick_later_with_a_checkpoint(tmp_path: Path) -> None:
    ended = started("TERM", tmp_path)
    assert codes(ended) == [75, 75], errors(ended)
    update = committed(tmp_path)
    assert update in (WRONG, WRONG + 1)
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("preempted", update)
    assert status["reason"] == "SIGTERM"
    check_goes_on(tmp_path)


def test_a_stop_on_one_rank_ends_all_after_the_next_tick(tmp_path: Path) -> None:
    ended = started("stop", tmp_path)
    first, second = told(ended)
    assert first["update"] == second["update"] == WRONG + 1
    assert first["sample"] == second["sample"] == 4 * (WRONG + 1)
    assert first["weights"] == second["weights"]
    assert first["reason"] is not None
    assert second["reason"] is not None
    status = read_status(tmp_path / "1")
    assert (status["state"], status["update"]) == ("done", WRONG + 1)
    assert committed(tmp_path) == WRONG + 1
    assert [end.lines[-1:] for end in ended[1:]] == [ended[1].lines], "only rank 0 prints"
    assert len(ended[0].lines) > 1
    assert not first["joined"], "what train joined, it leaves"
    assert not second["joined"]


def test_a_loss_that_is_no_number_on_one_rank_fails_on_all(tmp_path: Path) -> None:
    ended = started("raise", tmp_path)
    assert codes(ended) == [1, 1], errors(ended)
    assert all("NonFiniteError" in end.errors for end in ended), errors(ended)
    assert read_status(tmp_path / "1")["state"] == "failed"
    assert committed(tmp_path) == WRONG - 1
    check_goes_on(tmp_path)


def test_a_loss_that_is_no_number_on_one_rank_skips_the_update_on_all(tmp_path: Path) -> None:
    first, second = told(started("skip", tmp_path))
    assert first["memories"] == second["memories"] == {"noting": [WRONG]}
    assert first["update"] == second["update"] == UPDATES
    assert first["weights"] == second["weights"] == near(alone(None, "skip"))
    assert first["weights"] != near(alone(None)), "skipping makes a difference"


def test_an_observer_that_fails_on_one_rank_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    ended = started("observer", tmp_path)
    first, second = told(ended)
    assert first["update"] == second["update"] == UPDATES
    assert first["weights"] == second["weights"] == near(alone(None))
    assert sum(end.errors.count("ArithmeticError: broken on rank 1") for end in ended) == 1
    assert read_status(tmp_path / "1")["state"] == "done"


def test_a_time_limit_is_reached_by_the_clock_of_rank_0(tmp_path: Path) -> None:
    first, second = told(started("first clock fast", tmp_path))
    assert first["update"] == second["update"] < UPDATES
    assert first["seconds"] == second["seconds"] >= 6
    assert first["weights"] == second["weights"]


def test_a_time_limit_is_not_reached_by_the_clock_of_another_rank(tmp_path: Path) -> None:
    first, second = told(started("second clock fast", tmp_path))
    assert first["update"] == second["update"] == UPDATES
    assert first["seconds"] == second["seconds"] < 6


if __name__ == "__main__":
    main(*sys.argv[1:])
