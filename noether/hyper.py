"""Hyper-parameters of an optimizer by the names of its groups: read, and given anew."""

from collections.abc import Mapping
from typing import Any

import torch


def hyper(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, float]]:
    """Hyper-parameters by group; a single unnamed group is `default`, others go by number."""
    groups = optimizer.param_groups
    return {group_name(groups, i): _numbers(group) for i, group in enumerate(groups)}


def configured(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, float]]:
    """Hyper-parameters as they were given, before any scheduler moved the rate."""
    groups = optimizer.param_groups
    given = hyper(optimizer)
    for i, group in enumerate(groups):
        if "initial_lr" in group:
            given[group_name(groups, i)]["lr"] = group["initial_lr"]
    return given


def reconfigure(
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    old: Mapping[str, Mapping[str, float]],
    new: Mapping[str, Mapping[str, float]],
) -> None:
    """Let hyper-parameters that were configured otherwise before a resume take their new value.

    Under a scheduler a changed rate rescales the present one, and the base that it goes on from.
    """
    groups = optimizer.param_groups
    for i, group in enumerate(groups):
        name = group_name(groups, i)
        for key, value in new.get(name, {}).items():
            before = old.get(name, {}).get(key)
            if before is None or before == value:
                continue
            if key != "lr" or scheduler is None:
                group[key] = value
            elif before and hasattr(scheduler, "base_lrs"):
                group["lr"] *= value / before
                group["initial_lr"] = scheduler.base_lrs[i] = value


def group_name(groups: list[dict[str, Any]], position: int) -> str:
    """The name of a parameter group."""
    unnamed = "default" if len(groups) == 1 else str(position)
    return str(groups[position].get("name", unnamed))


def _numbers(group: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in group.items() if type(value) in (int, float)}
