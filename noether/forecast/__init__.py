"""What a run will fire, foreseen from its counts: from firing to firing, without walking it."""

from noether.forecast.firing import Line, firings, line
from noether.forecast.never import silent, warnings
from noether.forecast.pipeline import Forecast, forecast
from noether.forecast.stretches import Firings, Stretch

__all__ = [
    "Firings",
    "Forecast",
    "Line",
    "Stretch",
    "firings",
    "forecast",
    "line",
    "silent",
    "warnings",
]
