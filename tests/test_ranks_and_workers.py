"""Random runs on several ranks with workers are the run of one rank without: nothing else is known
of them than what they are made of.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st

from tests.feeding import Witness, journal
from tests.group import Group, groups
from tests.test_exact_feed import TWO_EPOCHS, Case, cases

FEW = settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.generate))
pytestmark = pytest.mark.timeout(300)
Groups = Mapping[int, Group]


@pytest.fixture(scope="module", name="ranked")
def _ranked() -> Iterator[Groups]:
    with groups(2, 3) as made:
        yield made


def still(parameters: Any) -> Any:
    """An optimizer that leaves the weights alone, so that ranks differ in nothing but rounding."""
    from torch.optim import SGD

    return SGD(parameters, lr=0.0)


def shared(case: Case, workers: int, series: str) -> dict[str, Any]:
    """What a rank saw of the run: its own part of training, and whole passes."""
    seen: Witness = case.run(workers=workers, run_dir=series, optimizer=still)
    return {
        "trained": seen.micro_batches,
        "updates": seen.updates,
        "visits": [
            (v.by, v.update, v.results.get("names"), v.results.get("inputs")) for v in seen.visits
        ],
        "now": replace(seen.final.now, seconds=0.0),
        "metrics": dict(seen.final.metrics),
    }


def divided(case: Case) -> Case:
    """The case with batches that two and three ranks can share."""
    micro = 6 * (1 + case.micro % 2)
    least = micro * case.accumulate if case.drop_last else 1
    return replace(case, micro=micro, n=max(case.n, least))


def told(series: str) -> list[Any]:
    """The journal's rows, without the clock and the numbers."""
    rows = journal(Path(series))
    return [
        (r["tick"], r["epoch"], r["update"], r["sample"], sorted(r["metrics"]), r["effects"])
        for r in rows
    ]


def union(parts: list[dict[str, Any]], one: dict[str, Any]) -> bool:
    """Whether the ranks' micro-batches, side by side, are those of one rank, once each.

    A rank with no sample of its own takes part with one that counts for nothing.
    """
    for k, whole in enumerate(one["trained"]):
        own = [part["trained"][k] for part in parts]
        count = len(whole)
        share = [(r + 1) * count // len(parts) - r * count // len(parts) for r in range(len(parts))]
        found = [name for names, size in zip(own, share, strict=True) for name in names[:size]]
        if list(found) != list(whole):
            return False
    return all(len(part["trained"]) == len(one["trained"]) for part in parts)


@pytest.mark.parametrize("ranks", [2, 3])
@FEW
@given(case=cases().map(divided), workers=st.sampled_from([0, 0, 0, 1, 2]))
@example(case=divided(TWO_EPOCHS), workers=2)
def test_ranks_and_workers_change_nothing(
    ranked: Groups, ranks: int, case: Case, workers: int
) -> None:
    # The clock of several ranks is that of the tick before.
    assume(not any(p.schedule is not None and p.schedule.clocked for p in case.passes))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as many:
        alone = shared(case, 0, one)
        parts = ranked[ranks].call(shared, case, workers, many)
        assert union(parts, alone)
        for part in parts:
            assert part["visits"] == alone["visits"]
            assert (part["updates"], part["now"]) == (alone["updates"], alone["now"])
            assert part["metrics"] == pytest.approx(alone["metrics"], rel=1e-5, nan_ok=True)
            assert part["metrics"] == pytest.approx(parts[0]["metrics"], rel=0, abs=0, nan_ok=True)
        assert told(many) == told(one)
