"""What a run directory holds, found by reading alone: nothing is locked, repaired or set aside."""

from noether.inspection.asking import inspect, sound
from noether.inspection.records import (
    Best,
    Checkpoint,
    InspectedRun,
    InspectedSeries,
    Leftover,
    Resume,
)
from noether.inspection.text import document, text

__all__ = [
    "Best",
    "Checkpoint",
    "InspectedRun",
    "InspectedSeries",
    "Leftover",
    "Resume",
    "document",
    "inspect",
    "sound",
    "text",
]
