"""A small run as a process of its own: SERIES RESUME OPTIONS, the options as JSON.

Prints at the end what the run came to, as one line of JSON.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import noether
from noether import Callback, Log, TrainState, chain, every, hooks, once_at_end
from tests.strategies import net, samples, squared_error


def remember(state: TrainState, total: float) -> tuple[float, Log]:
    total += float(state.losses["total"]) if state.losses else 0.0
    return total, Log({"mine": total})


def die(update: int) -> Callback:
    """A callback that kills the process in the tick of an update, after what it does itself."""

    def kill(state: TrainState) -> None:
        if state.now.update == update:
            os.kill(os.getpid(), signal.SIGKILL)

    return Callback("die", after_update=kill)


def run(series: Path, resume: str, *, updates: int = 300, kill_at: int = 0, save: int = 5) -> Any:
    """Train; gives what the run came to."""
    torch.set_num_threads(1)
    model = net()
    final = noether.train(
        model,
        samples(23),
        loss=squared_error,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        until={"updates": updates},
        batch_size=4,
        accumulate=2,
        callbacks=chain(
            hooks.checkpoint(schedule=every(updates=save) | once_at_end),
            every(updates=3)(hooks.online_loss()),
            Callback("mine", init=lambda state: 0.0, on_schedule=remember, writes=("mine",)),
            every(updates=7)(hooks.offline_loss(dataset="val")),
            hooks.best_checkpoint(metric="loss/val/total"),
            die(kill_at),
        ),
        datasets={"val": samples(5, seed=2)},
        run_dir=series,
        resume=resume,
        defaults=False,
    )
    weights = hashlib.sha256()
    for name, value in model.state_dict().items():
        weights.update(name.encode() + value.numpy().tobytes())
    return {
        "update": final.now.update,
        "weights": weights.hexdigest(),
        "metrics": dict(final.metrics),
        "reason": final.reason,
    }


if __name__ == "__main__":
    ended = run(Path(sys.argv[1]), sys.argv[2], **json.loads(sys.argv[3]))
    print(json.dumps(ended), flush=True)
