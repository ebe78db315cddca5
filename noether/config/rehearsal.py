"""All that comes before the first tick, and nothing of what comes after."""

import inspect
from typing import Any

from noether import dataflow
from noether.arguments import checked
from noether.callback import Pipeline
from noether.config.reading import Run
from noether.defaults import with_defaults
from noether.feed import feed, horizon
from noether.machine import machine
from noether.randomness import seed_all
from noether.training import DEFAULTS, FEED, MACHINE, train


def rehearse(run: Run) -> Pipeline:
    """Build model, data, loss, optimizer and pipeline; gives the callbacks in the fold's order.

    Raises what training would raise before its first tick; writes nothing.
    """
    bound = inspect.signature(train).bind(**run.build())
    bound.apply_defaults()
    options = bound.arguments
    checked(options, run.callbacks)
    served = feed(options["train_set"], **chosen(options, FEED))
    total = horizon(served, options["until"])
    saves = options["run_dir"] is not None
    pipeline = with_defaults(run.callbacks, total, saves=saves, **chosen(options, DEFAULTS))
    ordered = dataflow.order(pipeline)
    seed_all(options["seed"])
    machine(options["model"], **chosen(options, MACHINE))
    return ordered


def chosen(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: options[name] for name in names}
