"""`noether report`: what happened in runs, and why they stopped, on one page."""

from noether.report.publishing import publish
from noether.report.reading import History, history
from noether.report.rendering import page

__all__ = ["History", "history", "page", "publish"]
