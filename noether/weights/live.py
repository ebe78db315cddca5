"""The weights of a run under way, written into files of their own."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from noether.distributed import Ranks
from noether.effects import Export
from noether.errors import suggestion
from noether.weights.export import separated
from noether.weights.files import ALIASES, SAFETENSORS, library, write_safetensors


def export(
    folder: Path,
    effect: Export,
    module: torch.nn.Module,
    average: Mapping[str, Tensor] | None,
    ranks: Ranks,
) -> None:
    """Perform an `Export`; all ranks take part, the first one writes.

    Raises ConfigurationError where safetensors is missing, ValueError for a submodule that is not
    there, OSError.
    """
    library()
    left_out = set() if effect.frozen else _frozen(module)
    held = {**module.state_dict(), **(average or {})}
    chosen = {n: held[n] for n in _names(held, effect.models) if n not in left_out}
    whole = {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in chosen.items()}
    if ranks.rank:
        return
    folder.mkdir(exist_ok=True)
    tensors, aliases, _ = separated(whole)
    about = {"weights": effect.weights, "format": "pt"}
    about |= {ALIASES: json.dumps(aliases)} if aliases else {}
    target = folder / f"{effect.name.replace('/', '.')}{SAFETENSORS}"
    write_safetensors(target, tensors, about, force=True)


def _frozen(module: torch.nn.Module) -> set[str]:
    named = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def _names(held: Collection[str], models: Sequence[str] | None) -> list[str]:
    """The names under these submodules, in the model's order."""
    if models is None:
        return list(held)
    for model in models:
        if not any(name.startswith(f"{model}.") for name in held):
            parents = {name.rpartition(".")[0] for name in held} - {""}
            raise ValueError(f"the model has no part {model!r}. {suggestion(model, parents)}")
    return [name for name in held if any(name.startswith(f"{model}.") for model in models)]
