"""Resuming: whether a run that was cut ends as the unbroken one, and how soon it goes on."""

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trainings
from measured import Reading, Row, alternated, compared, quiet
from torch.utils.data import DataLoader, TensorDataset

import noether
from noether import Preempted, every, hooks

LENGTH, SKIPPED, BATCH = 20_000_000, 10_000_000, 10_000
CUTS = {"killed": signal.SIGKILL, "stopped": signal.SIGTERM}
FRESH = "by hand, fresh"

Loss = Callable[[Any, Any], torch.Tensor]


def loss(model: Any, batch: Any) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def interrupted(update: int, how: Callable[[], Any]) -> Loss:
    """A loss that does something as it is computed for that update."""
    seen = 0

    def computed(model: Any, batch: Any) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if seen == update:
            how()
        return loss(model, batch)

    return computed


# ---------------------------------------------------------------- the same bits


def trained(series: Path, updates: int, loss: Loss = loss) -> bytes:
    """Go on with the run of a series, or begin it; the bits of its weights at the end."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Dropout(0.1), trainings.model())
    inputs = torch.linspace(-1, 1, 20_000).reshape(1000, 20).sin()
    with quiet():
        noether.train(
            model,
            TensorDataset(inputs, torch.arange(1000) % 10),
            loss=loss,
            optimizer=torch.optim.AdamW,
            until={"updates": updates},
            batch_size=32,
            callbacks=hooks.checkpoint(schedule=every(updates=20)),
            run_dir=series,
            resume="auto",
        )
    return b"".join(part.numpy().tobytes() for part in model.state_dict().values())


def cut(series: Path, updates: int, at: int, sign: int) -> None:
    """Train until a signal comes in the middle of an update."""
    torch.set_num_threads(1)  # as in the unbroken run: another number gives other bits
    trained(series, updates, interrupted(at, partial(os.kill, os.getpid(), sign)))


def went_on(folder: Path, updates: int, at: int, sign: int) -> bytes:
    """The bits of a run that was cut in a process of its own, and resumed."""
    series = folder / f"{sign} at {at}"
    process = multiprocessing.get_context("spawn").Process(
        target=cut, args=(series, updates, at, sign)
    )
    process.start()
    process.join()
    if not process.exitcode:
        raise RuntimeError(f"signal {sign} at update {at} has not ended the run")
    return trained(series, updates)


def identical(updates: int) -> list[Row]:
    """How many runs cut early, in the middle and near the end have the unbroken one's bits."""
    places = sorted({max(updates // 7, 1), max(updates // 2, 1), updates - 1})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        unbroken = trained(Path(folder) / "unbroken", updates)
        for name, sign in CUTS.items():
            same = sum(went_on(Path(folder), updates, at, sign) == unbroken for at in places)
            where = ", ".join(map(str, places))
            way = f"noether, {name} at update {where} of {updates:,}, and resumed"
            values = {"same bits as unbroken": f"{same} of {len(places)}"}
            rows.append(Row(way, values, "the weights at the end"))
    return rows


# ---------------------------------------------------------------- the first update


def long() -> TensorDataset:
    """Twenty million samples that take no memory."""
    inputs = torch.randn(1, 20).expand(LENGTH, 20)
    return TensorDataset(inputs, torch.zeros(1, dtype=torch.long).expand(LENGTH))


def until_first(start: Callable[[Loss], Any]) -> Reading:
    """Seconds from the call to the first loss."""
    noted: list[tuple[float, float]] = []

    def note() -> None:
        noted.append((time.process_time(), time.perf_counter()))

    note()
    with quiet():
        start(interrupted(1, note))
    (cpu, wall), (cpu_end, wall_end) = noted
    return {"wall, s": wall_end - wall, "CPU, s": cpu_end - cpu}


def first_by_hand(data: TensorDataset) -> Reading:
    """A loop by hand that begins."""

    def start(loss: Loss) -> None:
        batches: Iterable[Any] = DataLoader(data, BATCH, shuffle=True)
        loss(trainings.model(), next(iter(batches)))

    return until_first(start)


def update(data: TensorDataset, series: Path, updates: int, loss: Loss) -> None:
    """Train up to that update, going on where the series is."""
    noether.train(
        trainings.model(),
        data,
        loss=loss,
        optimizer=trainings.OPTIMIZERS["SGD"],
        until={"updates": updates},
        batch_size=BATCH,
        run_dir=series,
        resume="auto",
        defaults=False,
    )


def fresh(data: TensorDataset, folder: Path) -> Reading:
    """A run that begins."""
    with tempfile.TemporaryDirectory(dir=folder) as series:
        return until_first(partial(update, data, Path(series), 1))


def resumed(data: TensorDataset, folder: Path, begun: Path) -> Reading:
    """A copy of the run that was stopped goes on."""
    with tempfile.TemporaryDirectory(dir=folder) as copy:
        series = shutil.copytree(begun, Path(copy) / "series")
        return until_first(partial(update, data, series, SKIPPED // BATCH + 1))


def begin(data: TensorDataset, series: Path) -> None:
    """Train through the samples that are to be skipped, and stop there."""
    last = SKIPPED // BATCH
    stop = interrupted(last, partial(signal.raise_signal, signal.SIGTERM))
    try:
        with quiet():
            update(data, series, last + 1, stop)
    except Preempted:
        return
    raise RuntimeError("the run was not stopped")


def first_updates(rounds: int) -> list[Row]:
    data = long()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin(data, folder / "begun")
        ways = {
            FRESH: partial(first_by_hand, data),
            "noether, fresh": partial(fresh, data, folder),
            f"noether, resumed after {SKIPPED:,} samples": partial(
                resumed, data, folder, folder / "begun"
            ),
        }
        found = alternated(ways, rounds)
    return compared(found, FRESH, f"until the first loss, of {LENGTH:,} samples")


def measure(rounds: int, updates: int) -> list[Row]:
    return [*identical(updates), *first_updates(rounds)]
