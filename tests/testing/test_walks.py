import math

import pytest
from hypothesis import Phase, find, given, settings

from noether import Progress
from noether.state import UNKNOWN
from noether.testing import Walk, fired, progress_walks, steady


@given(walk=progress_walks())
def test_a_walk_leads_from_an_opening_tick_to_a_closing_one_without_a_gap(walk: Walk) -> None:
    assert walk.ticks[0].now == Progress()
    assert [walk.ticks[0].event, walk.ticks[-1].event] == ["start", "end"]
    for last, tick in zip(walk.ticks, walk.ticks[1:], strict=False):
        if tick.event == "update":
            assert tick.before == last.now
            assert tick.now.update == last.now.update + 1
            assert tick.now.epoch - last.now.epoch in (0, 1)
            assert tick.now.seconds >= last.now.seconds
        else:
            assert tick.before == tick.now
            assert not tick.fresh
            assert tick.now.session == last.now.session + (tick.event == "start")


@given(walk=progress_walks())
def test_what_is_promised_about_the_pace_holds(walk: Walk) -> None:
    for tick in walk.updates:
        samples = tick.now.sample - tick.before.sample
        closes = tick.now.epoch > tick.before.epoch
        assert 0 < samples <= walk.samples_per_update
        assert closes or samples == walk.samples_per_update
        assert tick.now.update >= tick.now.epoch * walk.updates_per_epoch


@given(walk=progress_walks())
def test_micro_batches_are_the_samples_of_their_update_spread_over_ranks(walk: Walk) -> None:
    for tick in walk.updates:
        samples = tick.now.sample - tick.before.sample
        parts = walk.micro_batches(tick)
        assert sum(map(sum, parts)) == samples
        assert 1 <= len(parts) <= walk.accumulate
        for counts in parts:
            assert len(counts) == walk.ranks
            assert max(counts) - min(counts) <= 1
        if samples == walk.samples_per_update:
            share = samples // (walk.accumulate * walk.ranks)
            assert parts == ((share,) * walk.ranks,) * walk.accumulate


@given(walk=progress_walks(metrics=["a", "b"]))
def test_metrics_keep_their_last_value_and_are_fresh_where_produced(walk: Walk) -> None:
    for last, tick in zip(walk.ticks, walk.ticks[1:], strict=False):
        assert set(tick.metrics) <= {"a", "b"}
        assert tick.fresh <= set(tick.metrics)
        stale = tick.metrics.keys() - tick.fresh
        assert repr([tick.metrics[m] for m in stale]) == repr([last.metrics[m] for m in stale])


@given(walk=progress_walks(sessions=False, metrics=()))
def test_restarts_and_metrics_can_be_left_out(walk: Walk) -> None:
    assert {tick.now.session for tick in walk.ticks} == {1}
    assert not walk.ticks[-1].metrics


ANY = settings(database=None, max_examples=5000, phases=(Phase.generate,))


@pytest.mark.parametrize(
    "trait",
    [
        lambda walk: walk.ticks[-1].now.session > 2,
        lambda walk: walk.ranks > 1 and walk.accumulate > 1,
        lambda walk: any(0 in counts for t in walk.updates for counts in walk.micro_batches(t)),
        lambda walk: walk.ticks[0].total == UNKNOWN,
        lambda walk: (walk.ticks[0].total.update or 0) > walk.ticks[-1].now.update,
        lambda walk: walk.updates[-1].now.epoch == walk.updates[-1].before.epoch,
        lambda walk: any(map(math.isnan, walk.ticks[-1].metrics.values())),
        lambda walk: any(t.now.seconds == t.before.seconds > 0 for t in walk.updates),
        lambda walk: walk.ticks[-1].now.counters["tokens"] > 100,
    ],
)
def test_there_are_walks_of_every_kind(trait: object) -> None:
    assert callable(trait)
    find(progress_walks(), trait, settings=ANY)


def test_metrics_are_a_list_of_names() -> None:
    with pytest.raises(TypeError, match="metrics is the string 'loss'; give a list"):
        progress_walks(metrics="loss")


def test_a_steady_walk_is_counted_out() -> None:
    last = steady(12, samples=4, seconds=0.5, updates_per_epoch=5, total=20)[-1]
    assert last.now == Progress(2, 12, 48, 6.0)
    assert last.total is not None
    assert last.total.update == 20


@pytest.mark.parametrize("options", [{"updates_per_epoch": 0}, {"samples": 0}])
def test_a_run_without_samples_or_epochs_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"steady: {next(iter(options))} is 0"):
        steady(3, **options)


def test_a_text_is_no_schedule() -> None:
    with pytest.raises(TypeError, match="is no schedule; give one, or parse"):
        fired("every(updates=1)", steady(3))  # type: ignore[arg-type]
