"""Kill -9 a training again and again, at random moments: does it end as if it had never been?

    python benchmarks/torture.py --kills 100

After each kill the run must have a valid checkpoint, once it ever had one; at its end it must be
the unbroken run to the last bit. Exit code 1 and what differs where it is not. A run that is done
before all kills are spent is compared, and another one begun.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random, SystemRandom

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy starts its threads when it is imported

from attempts import PLACES, AttemptError, Ended, Options, aimed, attempt
from compared import differences
from forks import asked, inhabited, preload

from noether.checkpoint.manifest import LATEST, Manifest, candidates
from noether.checkpoint.verification import verify
from noether.errors import CheckpointError
from noether.rundir import CHECKPOINTS, read_status

STALE = 20.0
"""Seconds within which workers must end whose process was killed."""


class TortureError(Exception):
    """What the soak found wrong."""


@dataclass(slots=True)
class Soak:
    """What has been done so far."""

    options: Options
    kills: int
    random: Random
    folder: Path
    landed: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    """Updates that were made again, after a resume."""
    runs: int = 0
    unbroken: float = 0.0
    """Seconds of the unbroken run."""
    seconds: float = 0.0
    """Seconds of all attempts."""
    start_up: float = 0.5
    """Seconds that the last start took until its opening tick."""
    groups: list[int] = field(default_factory=list)
    """Groups of killed processes in which some of their workers may be left."""

    @property
    def log(self) -> Path:
        return self.folder / "output.txt"

    @property
    def reference(self) -> Path:
        return self.folder / "unbroken"

    @property
    def survived(self) -> int:
        return self.landed.total()


def soaked(soak: Soak) -> None:
    """Kill until all kills are spent; raises TortureError or AttemptError."""
    ended = attempt(soak.reference, soak.log, soak.options, aim=None, random=soak.random)
    soak.unbroken = ended.seconds
    while soak.survived < soak.kills:
        soak.runs += 1
        series = soak.folder / f"killed-{soak.runs}"
        _endured(soak, series)
        if found := asked(partial(differences, soak.reference, series), soak.log):
            raise TortureError(f"{series} differs from the unbroken run:", *found)
    _see_groups_end(soak)


def _endured(soak: Soak, series: Path) -> None:
    """Kill a run until it is done, or all kills are spent and it was left to end."""
    newest: Manifest | None = None
    while read_status(series / "1").get("state") != "done":
        begun = newest.update if newest is not None else 0
        aim = None
        if soak.survived < soak.kills:
            aim = aimed(soak.random, begun, soak.options.updates, soak.start_up)
        ended = attempt(series, soak.log, soak.options, begun=begun, aim=aim, random=soak.random)
        soak.seconds += ended.seconds
        soak.start_up = ended.start_up or soak.start_up
        soak.groups = [group for group in (*soak.groups, *ended.groups) if inhabited(group)]
        newest = _newest(series / "1" / CHECKPOINTS, newest)
        if ended.killed is not None and read_status(series / "1").get("state") != "done":
            _count(soak, ended, newest)


def _count(soak: Soak, ended: Ended, newest: Manifest | None) -> None:
    assert ended.killed is not None
    soak.landed[ended.killed] += 1
    soak.repeated += ended.update - (newest.update if newest is not None else 0)
    _tell(soak)


def _newest(folder: Path, before: Manifest | None) -> Manifest | None:
    """The newest checkpoint. Raises TortureError unless all are valid, and none is older than what
    there was before.
    """
    found = candidates(folder)
    if found.damaged:
        raise TortureError(f"{folder} holds a damaged checkpoint: {found.damaged[0]}")
    if not found.manifests:
        if before is not None:
            raise TortureError(f"{folder} holds no checkpoint any more; it had {before.name}")
        return None
    for manifest in found.manifests:
        verify(manifest.directory)
    if (folder / LATEST).exists():
        verify(folder / (folder / LATEST).read_text().strip())
    newest = found.manifests[0]
    if before is not None and newest.age < before.age:
        raise TortureError(f"the newest in {folder} is {newest.name}, after {before.name}")
    return newest


def _see_groups_end(soak: Soak) -> None:
    deadline = time.monotonic() + STALE
    while soak.groups and time.monotonic() < deadline:
        time.sleep(0.05)
        soak.groups = [group for group in soak.groups if inhabited(group)]
    if soak.groups:
        for group in soak.groups:
            os.killpg(group, signal.SIGKILL)
        raise TortureError(f"workers outlive their killed process: groups {soak.groups}")


# ---------------------------------------------------------------- what is told


def _tell(soak: Soak) -> None:
    """Say how far it is: in place on a terminal, else now and then."""
    text = f"{soak.survived} of {soak.kills} kills survived, run {soak.runs}"
    if sys.stdout.isatty():
        print(f"\r{text}", end="" if soak.survived < soak.kills else "\n", flush=True)
    elif soak.survived % 10 == 0:
        print(text, flush=True)


def _summary(soak: Soak, seconds: float) -> str:
    places = ", ".join(f"{soak.landed[place]} in {place}" for place in PLACES)
    lost = max(1 - soak.unbroken * soak.runs / soak.seconds, 0)
    return (
        f"{soak.survived} of {soak.kills} kills survived: {places}\n"
        f"{soak.runs} runs of {soak.options.updates} updates, each as the unbroken one to the bit; "
        f"{soak.repeated} updates repeated, {lost:.0%} of the time lost; {seconds:.0f} s"
    )


def length(kills: int) -> int:
    """Updates of a run, so that many kills end several, each from its opening to its closing tick.

    Not a multiple of five: the closing tick has its own save.
    """
    return 3 + 5 * min(max(kills, 30), 50)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, help="of the moments drawn; by default a random one")
    parser.add_argument("--ranks", type=int, choices=(1, 2), default=1)
    parser.add_argument("--workers", type=int, choices=(0, 2), default=0)
    parser.add_argument("--async-save", action="store_true", help="save while training goes on")
    parser.add_argument(
        "--mode",
        choices=("process", "group"),
        default="process",
        help="what is killed: the process of one rank alone, or all ranks with their workers",
    )
    parser.add_argument("--updates", type=int, help="of a run")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what failed there")
    given = parser.parse_args(arguments)
    if given.kills < 1 or (given.updates is not None and given.updates < 1):
        parser.error(f"--kills {given.kills}, --updates {given.updates}; expected 1 or more")
    return given


def main(arguments: Sequence[str]) -> int:
    given = _options(arguments)
    seed = SystemRandom().randrange(10**6) if given.seed is None else given.seed
    preload()
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=given.keep))
    options = Options(
        given.updates or length(given.kills),
        given.ranks,
        given.workers,
        given.mode == "group",
        given.async_save,
    )
    soak = Soak(options, given.kills, Random(seed), folder)
    print(f"seed {seed}: {given.kills} kills, {options}", flush=True)
    kept = False
    try:
        survived = _said(soak)
        kept = not survived and given.keep is not None
    finally:
        if not kept:
            shutil.rmtree(folder)
    if kept:
        print(f"kept: {folder}")
    return int(not survived)


def _said(soak: Soak) -> bool:
    """Soak, and say how it went; gives whether all went well."""
    begun = time.monotonic()
    try:
        soaked(soak)
    except (TortureError, AttemptError, CheckpointError, RuntimeError) as error:
        print(f"\nafter {soak.survived} kills, in run {soak.runs}:", *error.args, sep="\n")
        print(f"the last output of {soak.options}:", _tail(soak.log), sep="\n")
        return False
    print(_summary(soak, time.monotonic() - begun))
    return True


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-25:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
