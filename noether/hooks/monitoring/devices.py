"""Where the model is."""

import torch

from noether.state import TrainState


def gpu(state: TrainState) -> torch.device | None:
    """The GPU that holds the model; None for another device, or a model without parameters."""
    devices = (parameter.device for parameter in state.model.parameters.values())
    return next((device for device in devices if device.type == "cuda"), None)
