"""What is found in a run directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noether.checkpoint.manifest import Claim
from noether.journal import Extent
from noether.progress import Progress
from noether.rundir import Owner


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint, valid or not."""

    path: Path
    valid: bool
    reason: str | None
    """Why it is not valid."""
    verified: bool
    """Whether digests were looked at, and not the manifest and sizes alone."""
    update: int | None
    progress: Progress
    """Its counts; None for one that is not known."""
    bytes: int
    """All that it takes on the disk."""
    files: Mapping[str, Any]
    """Their sizes by the manifest."""
    committed: float | None
    """Seconds since 1970."""
    committed_by: str
    """What says so: `manifest`, or `modification time`."""
    claims: tuple[Claim, ...]
    latest: bool = False
    """Whether `LATEST` names it."""
    best: tuple[str, ...] = ()
    """The tags of which it is the best one."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """What lies beside the checkpoints, and a resume passes over."""

    name: str
    kind: str
    """`set aside`, `half written`, `half deleted`, or `foreign`."""
    bytes: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class Best:
    """The best valid checkpoint of a tag."""

    tag: str
    metric: str | None
    value: float | None
    update: int
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Resume:
    """What a resume would do."""

    checkpoint: str | None
    """The one that it takes, once nothing keeps it from doing so."""
    says: str


@dataclass(frozen=True, slots=True)
class InspectedRun:
    """What a run directory holds."""

    path: Path
    state: str | None
    """`running`, `preempted`, `failed` or `done`, as the run itself said last."""
    update: int | None
    """The last committed one, by the status."""
    at_update: int | None
    """Where the run was when it wrote its status."""
    reason: str | None
    heartbeat: float | None
    """When it wrote its status, in seconds since 1970."""
    heartbeat_age: float | None
    """In seconds."""
    owner: Owner | None
    progress: Progress | None
    """By the journal's last row, or the newest checkpoint where that is further."""
    until: Mapping[str, float]
    """The limits that its configuration sets, by unit."""
    journal: Extent | None
    checkpoints: tuple[Checkpoint, ...]
    """Newest first."""
    best: tuple[Best, ...]
    leftovers: tuple[Leftover, ...]
    bytes: int
    """All that its checkpoints, and what lies beside them, take on the disk."""
    resume: Resume
    notes: tuple[str, ...]
    """What else is strange."""


@dataclass(frozen=True, slots=True)
class InspectedSeries:
    """The runs of a series, newest first; neither digests nor journals were looked at."""

    path: Path
    runs: tuple[InspectedRun, ...]
