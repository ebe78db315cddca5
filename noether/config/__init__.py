"""Runs declared in YAML: read, checked as a whole, built."""

from noether.config.document import dump
from noether.config.reading import Run, load

__all__ = ["Run", "dump", "load"]
