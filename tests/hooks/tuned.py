"""Short runs whose rates are noted."""

from typing import Any

import noether
from noether import Callback, TrainState
from tests.strategies import net, samples, sgd, squared_error

UPDATES = 12


def recorder(key: str = "lr", group: str = "default") -> tuple[list[float], Callback]:
    """The values with which the updates were made."""
    values: list[float] = []

    def note(state: TrainState) -> None:
        values.append(state.hyper[group][key])

    return values, Callback("recorder", after_update=note)


def train(*callbacks: Any, **options: Any) -> TrainState:
    given = {"loss": squared_error, "optimizer": sgd, "until": {"updates": UPDATES}}
    given |= {"batch_size": 4, "defaults": False, "callbacks": callbacks}
    return noether.train(options.pop("model", None) or net(), samples(12), **{**given, **options})


def rates(schedule: Callback, **options: Any) -> list[float]:
    values, recording = recorder()
    train(schedule, recording, **options)
    return values


def of_torch(make: Any, updates: int = UPDATES) -> list[float]:
    optimizer = sgd(net().parameters())
    scheduler = make(optimizer)
    found = []
    for _ in range(updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def grouped() -> tuple[Any, list[dict[str, Any]]]:
    """A network and its two layers as parameter groups."""
    model: Any = net()
    named = {"first": model[0], "last": model[3]}
    return model, [{"params": part.parameters(), "name": n} for n, part in named.items()]
