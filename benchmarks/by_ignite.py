"""The small training with PyTorch Ignite."""

from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import Timer
from ignite.handlers.tqdm_logger import ProgressBar
from ignite.metrics import RunningAverage
from ignite.utils import setup_logger
from measured import Clock, Reading, quiet
from trainings import BETWEEN, DUE, OPTIMIZERS, loader, model


def engine(optimizer: str, clock: Clock) -> tuple[Engine, Any]:
    """The trainer, and its optimizer."""
    net = model()
    steps = OPTIMIZERS[optimizer](net.parameters())

    def update(engine: Engine, batch: Any) -> float:
        steps.zero_grad()
        loss = clock(net, batch)
        loss.backward()
        steps.step()
        return loss.item()

    return Engine(update), steps


def finished(trainer: Engine, clock: Clock) -> Reading:
    trainer.run(loader(), max_iters=clock.total)
    return clock.reading()


def off(optimizer: str, counted: int) -> Reading:
    """No handlers."""
    clock = Clock(counted)
    trainer, _ = engine(optimizer, clock)
    return finished(trainer, clock)


def monitored(optimizer: str, counted: int) -> Reading:
    """A running average of the loss, the learning rate and the time, logged; a progress bar."""
    clock = Clock(counted)
    trainer, steps = engine(optimizer, clock)
    with quiet():
        watch(trainer, steps)
        return finished(trainer, clock)


def watch(trainer: Engine, steps: Any) -> None:
    due, done = Events.ITERATION_COMPLETED(every=BETWEEN), Events.ITERATION_COMPLETED
    logger, timer = setup_logger("benchmark"), Timer(average=True)
    RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
    timer.attach(trainer, resume=Events.ITERATION_STARTED, pause=done, step=done)
    ProgressBar().attach(trainer, ["loss"], event_name=due)

    def log(trainer: Engine) -> None:
        rate, loss = steps.param_groups[0]["lr"], trainer.state.metrics["loss"]
        taken = timer.value()
        logger.info("%d: loss %.4f, rate %g, %.2g s", trainer.state.iteration, loss, rate, taken)

    trainer.add_event_handler(due, log)


def dormant(optimizer: str, counted: int, callbacks: int) -> Reading:
    """Handlers that are hardly ever due."""
    clock = Clock(counted)
    trainer, _ = engine(optimizer, clock)
    for _ in range(callbacks):
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=DUE), nothing)
    return finished(trainer, clock)


def nothing(trainer: Engine) -> None:
    """A handler that only waits."""
