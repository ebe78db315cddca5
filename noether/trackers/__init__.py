"""Trackers: where a run's metrics go beside its journal. Functions that return a `Tracker`."""

from noether.trackers.files import csv, jsonl
from noether.trackers.mlflow import mlflow
from noether.trackers.tensorboard import tensorboard
from noether.trackers.tracker import Begun, Line, Output, Summary, Tracker
from noether.trackers.trackio import trackio
from noether.trackers.wandb import wandb

__all__ = [
    "Begun",
    "Line",
    "Output",
    "Summary",
    "Tracker",
    "csv",
    "jsonl",
    "mlflow",
    "tensorboard",
    "trackio",
    "wandb",
]
