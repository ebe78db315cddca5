"""Logged values on their way to plain numbers."""

from collections.abc import Mapping
from typing import Any

import torch


def check_metric(key: str, value: Any) -> None:
    """Raise TypeError unless `value` is a number or a 0-dimensional tensor."""
    if isinstance(value, torch.Tensor):
        scalar = value.ndim == 0 and not value.is_complex()
    else:
        scalar = isinstance(value, int | float)
    if not scalar:
        raise TypeError(f"metric {key} is {value!r}; a number or a 0-dimensional tensor is needed")


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Plain numbers of numbers and 0-dimensional tensors."""
    tensors = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
    plain: dict[str, float] = {key: v for key, v in values.items() if key not in tensors}
    if tensors:
        # The one place where a logged tick waits for the device.
        found = [v.full_tensor() if hasattr(v, "full_tensor") else v for v in tensors.values()]
        stacked = torch.stack([value.detach().double() for value in found])
        plain.update(zip(tensors, stacked.tolist(), strict=True))
    return plain
