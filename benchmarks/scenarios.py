"""The scenarios of the suite: what each measures, how often, and what its picture shows."""

from collections.abc import Callable
from dataclasses import dataclass

import growing
import loops
import passes
import resuming
import saving
import starting
from measured import Row


@dataclass(frozen=True)
class Scenario:
    """`measure` gets the numbers of rounds and of updates, which some have no use for."""

    title: str
    text: str
    measure: Callable[[int, int], list[Row]]
    rounds: int
    updates: int
    drawn: str
    """The column that the picture shows."""


SCENARIOS = {
    "S1": Scenario(
        "Everything off",
        "A network of 20 inputs, two hidden layers of 64 and 10 classes, in batches of 32, on one "
        "thread. By hand and in the other libraries the data comes through a `DataLoader`; "
        "noether takes the data set itself, and in a row of its own the same loader. The loop "
        "without a loader gathers each batch from the whole tensors.",
        loops.off,
        9,
        1000,
        "CPU ratio",
    ),
    "S2": Scenario(
        "The usual monitoring",
        "The same training, looked at each 50 updates: the loss, the learning rate, progress and, "
        "where the library has it, times, by the library's usual means. The loop by hand "
        "monitors nothing. Lightning writes a file, and so does noether into a run directory.",
        loops.monitored,
        9,
        1000,
        "CPU ratio",
    ),
    "S3": Scenario(
        "Dormant callbacks",
        "The same training, with many callbacks of which each is due each 1,000 updates (in one "
        "row each 1,000,000) and then does nothing. Among 1,000 updates that count each fires "
        "once, but for those of that row. The loop by hand has none.",
        loops.dormant,
        9,
        1000,
        "CPU ratio",
    ),
    "S4": Scenario(
        "An evaluation each epoch, with two workers",
        "Samples that take half a millisecond to make, 256 for training and 64 for evaluation. "
        "The wait is from an epoch's last update to the first batch of the evaluation; the times "
        "are those of the whole run, the start and the end of its workers included.",
        passes.measure,
        5,
        96,
        "wall ratio",
    ),
    "S5": Scenario(
        "The stall for a checkpoint",
        "12.6 million weights with AdamW, 150 MB a checkpoint: how long training stands still. "
        "noether flushes to the disk and keeps digests; dcp is `torch.distributed.checkpoint`.",
        saving.measure,
        8,
        0,
        "wall ratio",
    ),
    "S6": Scenario(
        "Resuming",
        "Runs with AdamW and dropout are cut in the middle of an update, by a signal in a process "
        "of their own, and resumed from the newest checkpoint. And how soon the first update "
        "begins where half an epoch lies behind a run, in the order that its shuffling has; by "
        "hand, of an epoch that begins.",
        resuming.measure,
        5,
        300,
        "wall ratio",
    ),
    "S7": Scenario(
        "Starting",
        "Imports in fresh interpreters, that of torch from nothing, all others in one that has "
        "imported torch; and whole processes.",
        starting.measure,
        9,
        0,
        "wall ratio",
    ),
    "S8": Scenario(
        "A long run",
        "noether with a journal, checkpoints, an evaluation each epoch, an average of the weights "
        "and some more callbacks, beside the bare loop: early is the first quarter of the run but "
        "its start, late the last quarter. Memory and objects are counted as each ends.",
        growing.measure,
        1,
        200_000,
        "CPU, us per update",
    ),
}
