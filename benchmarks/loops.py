"""What an update costs beside the same training by hand: all off, monitored, among callbacks."""

from collections.abc import Callable, Mapping
from functools import partial

import peers
import trainings
from measured import Reading, Row, alternated, compared
from trainings import OPTIMIZERS, by_hand, gathered, loader, ours

BASE = "by hand"
Way = Callable[[str, int], Reading]


def off(rounds: int, updates: int) -> list[Row]:
    """Everything off."""
    all_off = partial(ours, defaults=False)
    ways: dict[str, Way] = {
        BASE: by_hand,
        "by hand, no loader": partial(by_hand, epoch=gathered),
        "noether": all_off,
        "noether, given the loader": lambda name, counted: all_off(name, counted, loader()),
    }
    return beside(ways | {name: peer.off for name, peer in peers.here().items()}, rounds, updates)


def monitored(rounds: int, updates: int) -> list[Row]:
    """The usual monitoring."""
    ways: dict[str, Way] = {
        BASE: by_hand,
        "noether": trainings.monitored,
        "noether, into a run directory": trainings.journalled,
    }
    others = {name: peer.monitored for name, peer in peers.here().items()}
    return beside(ways | others, rounds, updates)


def dormant(rounds: int, updates: int) -> list[Row]:
    """Callbacks that are hardly ever due."""
    ways: dict[str, Way] = {BASE: by_hand}
    for count in (0, 10, 100, 1000):
        ways[f"noether, {count:,}"] = partial(trainings.dormant, callbacks=count)
    rarer = partial(trainings.dormant, callbacks=10_000, due=10**6)
    ways["noether, 10,000, due each 1,000,000"] = rarer
    for name, peer in peers.here().items():
        ways[f"{name}, 1,000"] = partial(peer.dormant, callbacks=1000)
    return beside(ways, rounds, updates, optimizers=("SGD",))


def beside(
    ways: Mapping[str, Way], rounds: int, updates: int, optimizers: tuple[str, ...] = ()
) -> list[Row]:
    """The rows of all ways with each optimizer."""
    rows = []
    for name in optimizers or OPTIMIZERS:
        calls = {way: partial(train, name, updates) for way, train in ways.items()}
        rows += compared(alternated(calls, rounds), BASE, name)
    return rows
