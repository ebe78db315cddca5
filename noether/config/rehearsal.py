"""All that comes before the first tick, and nothing of what comes after."""

import inspect
from collections.abc import Mapping
from typing import Any

from noether.arguments import checked
from noether.callback import Pipeline
from noether.config.reading import Run
from noether.console import Console
from noether.feed import Feed
from noether.machine import machine
from noether.progress import Progress
from noether.randomness import seed_all
from noether.training import MACHINE, chosen, laid_out, train
from noether.weights import initialise


def rehearse(run: Run) -> tuple[Feed, Progress, Pipeline]:
    """Build model, data, loss, optimizer and pipeline; gives feed, horizon and ordered callbacks.

    Raises what training would raise before its first tick; writes nothing.
    """
    options = completed(run.build())
    checked(options, run.callbacks)
    laid = laid_out(options, run.callbacks)
    initialise(options["model"], options["init_from"], laid[2], Console())
    seed_all(options["seed"])
    machine(options["model"], **chosen(options, MACHINE))
    return laid


def outlined(run: Run, until: Mapping[str, float] | None = None) -> tuple[Feed, Progress, Pipeline]:
    """As `rehearse`, but only the training set is built; `until` takes the place of the run's."""
    parts = {"train_set": run.parts["train_set"](), "counters": run.parts.get("counters")}
    options = completed({**run.arguments, "model": None, **parts})
    return laid_out({**options, **({"until": until} if until else {})}, run.callbacks)


def completed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `train` with its defaults."""
    parameters = inspect.signature(train).parameters
    usual = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return {**usual, **arguments}
