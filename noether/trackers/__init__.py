"""Trackers: where a run's metrics go beside its journal. Functions that return a `Tracker`."""

from noether.trackers.board import tensorboard
from noether.trackers.files import csv, jsonl
from noether.trackers.tracker import Begun, Line, Output, Summary, Tracker

__all__ = ["Begun", "Line", "Output", "Summary", "Tracker", "csv", "jsonl", "tensorboard"]
