"""Weights out of a run, into a file of their own, and into a new run as its start."""

from noether.weights.export import export_weights
from noether.weights.request import InitFrom
from noether.weights.start import initialise

__all__ = ["InitFrom", "export_weights", "initialise"]
