"""The first weights of a run, put into its model before anything else is made of it."""

from typing import Any

import torch
from torch import Tensor

from noether.callback import Pipeline
from noether.console import Console
from noether.distributed import ALONE, Ranks, from_first
from noether.weights.fitting import fitted, refused, report
from noether.weights.request import InitFrom, parsed
from noether.weights.sources import EXTRA, source


def initialise(
    model: torch.nn.Module,
    given: Any,
    pipeline: Pipeline,
    console: Console,
    ranks: Ranks = ALONE,
    *,
    goes_on: bool = False,
) -> None:
    """Put what `init_from` names into the model, and say in a line what that was.

    Rank 0 reads and loads; the others get its weights when the model is spread over the ranks, and
    its error at once. A run that goes on from a checkpoint takes nothing. Raises ConfigurationError
    or CheckpointError.
    """
    if given is None:
        return
    request = parsed(given)
    if goes_on:
        console.say(f"init_from {request.path} is not used: the run goes on from a checkpoint")
        return
    notes, line = from_first(ranks, lambda: _loaded(model, request, pipeline))
    for note in notes:
        console.warn(note)
    console.say(line)


def _loaded(
    model: torch.nn.Module, request: InitFrom, pipeline: Pipeline
) -> tuple[tuple[str, ...], str]:
    found = source(request, pipeline)
    fit = fitted(found.tensors, weights_of(model), request, found.extra)
    try:
        model.load_state_dict(dict(fit.loaded), strict=False)
    except RuntimeError as error:
        raise refused(request, [f"the model does not take it: {error}"]) from error
    return found.notes, report(fit, found.where)


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """The model's tensors by name, extra state aside."""
    state = model.state_dict()
    return {
        n: t for n, t in state.items() if isinstance(t, Tensor) and n.rpartition(".")[2] != EXTRA
    }
