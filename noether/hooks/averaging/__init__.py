"""Averages of the weights, kept beside the live ones."""

from noether.hooks.averaging.ema import ema
from noether.hooks.averaging.swa import swa

__all__ = ["ema", "swa"]
