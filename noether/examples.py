"""Small real things to train on: handwritten digits, a network, a loss."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from noether.callback import factory

VALIDATION = 360
"""Digits kept for validation, of 1,797."""


@factory
def digits(*, split: Literal["train", "val"]) -> TensorDataset:
    """The 1,797 handwritten digits that ship inside scikit-learn: 8 by 8 pixels, 10 classes.

    Pairs of pixels, float32 of shape (64,) between 0 and 1, and the label, an int64.
    """
    try:
        from sklearn.datasets import load_digits  # an extra, and slow to import
    except ImportError as error:
        raise ImportError(
            "noether.examples.digits needs scikit-learn: pip install 'noether-callbacks[examples]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[:VALIDATION] if split == "val" else order[VALIDATION:]
    inputs = torch.from_numpy(pixels).float()[chosen] / 16
    return TensorDataset(inputs, torch.from_numpy(labels)[chosen])


@factory
def mlp(
    *, inputs: int = 64, hidden: int = 128, outputs: int = 10, dropout: float = 0.1
) -> torch.nn.Module:
    """A network of two hidden layers, from (batch, inputs) to (batch, outputs)."""
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden),
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        torch.nn.Linear(hidden, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, outputs),
    )


@factory
def cross_entropy() -> Any:
    """The loss of batches of (inputs, labels)."""
    return classification_loss


def classification_loss(model: Any, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of a batch of (inputs, labels), and the model's outputs."""
    inputs, labels = batch
    outputs = model(inputs)
    return torch.nn.functional.cross_entropy(outputs, labels), outputs
