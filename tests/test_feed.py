import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset, default_collate

from noether import ConfigurationError
from noether.feed import Feed, feed, fetch, horizon, permutation, to_device, windows
from noether.feed.horizon import advanced, reached
from noether.progress import Progress
from tests.strategies import samples


def fed(n: int, batch_size: int = 4, accumulate: int = 1, **options: Any) -> Feed:
    options = {"seed": 0, "shuffle": True, "drop_last": False, "collate": None, **options}
    return feed(range(n), batch_size=batch_size, accumulate=accumulate, **options)


@st.composite
def feeds(draw: st.DrawFn) -> Feed:
    accumulate = draw(st.integers(1, 4))
    return fed(
        draw(st.integers(0, 40)),
        batch_size=accumulate * draw(st.integers(1, 6)),
        accumulate=accumulate,
        seed=draw(st.integers(-3, 2**40)),
        shuffle=draw(st.booleans()),
        drop_last=draw(st.booleans()),
    )


epochs = st.integers(0, 5)


def indices(served: Any) -> list[int]:
    return [int(i) for window in served for part in window.micro_batches for i in part]


# ---------------------------------------------------------------- an epoch


@given(made=feeds(), epoch=epochs)
def test_each_sample_comes_once_per_epoch_but_for_a_dropped_rest(made: Feed, epoch: int) -> None:
    served = indices(windows(made, epoch, 0))
    whole = made.length - made.length % made.batch_size
    assert len(set(served)) == len(served) == (whole if made.drop_last else made.length)
    assert set(served) <= set(range(made.length))
    assert made.samples_per_epoch == len(served)


@given(made=feeds(), epoch=epochs)
def test_windows_are_full_but_for_the_last_which_alone_closes_the_epoch(
    made: Feed, epoch: int
) -> None:
    served = list(windows(made, epoch, 0))
    assert [w.samples for w in served[:-1]] == [made.batch_size] * (len(served) - 1)
    assert [w.closes_epoch for w in served] == [False] * (len(served) - 1) + [True] * bool(served)
    assert all(0 < w.samples <= made.batch_size for w in served)
    assert made.updates_per_epoch == len(served)


@given(made=feeds(), epoch=epochs)
def test_micro_batches_share_a_window_and_only_its_last_is_smaller(made: Feed, epoch: int) -> None:
    micro = made.batch_size // made.accumulate
    for window in windows(made, epoch, 0):
        sizes = [len(part) for part in window.micro_batches]
        assert sum(sizes) == window.samples
        assert len(sizes) == math.ceil(window.samples / micro)
        assert sizes[:-1] == [micro] * (len(sizes) - 1)
        assert 0 < sizes[-1] <= micro
        assert math.isclose(sum(size / window.samples for size in sizes), 1)


@given(made=feeds(), epoch=epochs, data=st.data())
def test_starting_at_a_sample_serves_what_was_left(
    made: Feed, epoch: int, data: st.DataObject
) -> None:
    whole = list(windows(made, epoch, 0))
    done = data.draw(st.integers(0, len(whole)))
    offset = sum(window.samples for window in whole[:done])
    assert list(windows(made, epoch, offset)) == whole[done:]


@given(made=feeds(), epoch=epochs, offset=st.integers(0, 40))
def test_starting_within_a_window_repeats_and_leaves_out_nothing(
    made: Feed, epoch: int, offset: int
) -> None:
    whole = indices(windows(made, epoch, 0))
    rest = list(windows(made, epoch, offset))
    assert indices(rest) == whole[offset:]
    assert [w.closes_epoch for w in rest] == [False] * (len(rest) - 1) + [True] * bool(rest)


# ---------------------------------------------------------------- order


@given(n=st.integers(0, 50), epoch=epochs, seed=st.integers(0, 2**62), other=feeds())
def test_the_order_depends_on_seed_and_epoch_alone(
    n: int, epoch: int, seed: int, other: Feed
) -> None:
    first = permutation(seed, epoch, n)
    torch.manual_seed(other.length)
    list(windows(other, epoch, 0))
    assert torch.equal(permutation(seed, epoch, n), first)
    assert sorted(first.tolist()) == list(range(n))


@given(one=feeds(), other=feeds(), epoch=epochs)
def test_the_order_does_not_depend_on_how_it_is_cut_into_batches(
    one: Feed, other: Feed, epoch: int
) -> None:
    made = [
        fed(one.length, f.batch_size, f.accumulate, seed=one.seed, shuffle=one.shuffle)
        for f in (one, other)
    ]
    assert indices(windows(made[0], epoch, 0)) == indices(windows(made[1], epoch, 0))


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = {tuple(permutation(s, e, 20).tolist()) for s in range(4) for e in range(4)}
    assert len(orders) == 16


def test_drawing_an_order_leaves_the_random_numbers_of_training_alone() -> None:
    before = torch.get_rng_state()
    list(windows(fed(20), 3, 0))
    assert torch.equal(torch.get_rng_state(), before)


@given(n=st.integers(0, 30), epoch=epochs)
def test_without_shuffling_the_order_is_that_of_the_data(n: int, epoch: int) -> None:
    assert indices(windows(fed(n, shuffle=False), epoch, 0)) == list(range(n))


# ---------------------------------------------------------------- horizon


@given(
    made=feeds().filter(lambda made: made.updates_per_epoch > 0),
    until=st.dictionaries(
        st.sampled_from(["epochs", "updates", "samples"]), st.integers(0, 60), min_size=1
    ),
)
@example(made=fed(10), until={"samples": 10})
@example(made=fed(10), until={"samples": 11, "epochs": 3})
@example(made=fed(10, drop_last=True), until={"samples": 9})
def test_the_horizon_is_where_a_walk_over_the_windows_ends(
    made: Feed, until: dict[str, float]
) -> None:
    progress = Progress()
    while not reached(progress, until):
        for window in windows(made, progress.epoch, 0):
            progress = advanced(progress, window)
            if reached(progress, until):
                break
    found = horizon(made, until)
    assert (found.epoch, found.update, found.sample, found.seconds) == (
        progress.epoch,
        progress.update,
        progress.sample,
        None,
    )


def test_a_horizon_in_seconds_alone_knows_no_counts() -> None:
    assert horizon(fed(10), {"seconds": 3.5}) == Progress(None, None, None, 3.5)
    assert horizon(fed(10), {"seconds": 3.5, "updates": 4}) == Progress(1, 4, 14, 3.5)


# ---------------------------------------------------------------- batches


@dataclass
class Stream:
    """Has samples but neither length nor index."""

    def __iter__(self) -> Any:
        return iter(range(3))


@dataclass
class Noted:
    """Notes which of its samples were loaded."""

    loaded: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        if index == 7:
            raise OSError("broken file")
        self.loaded.append(index)
        return index * 10


def made_of(data: Any) -> Feed:
    options: dict[str, Any] = {"seed": 0, "shuffle": True, "drop_last": False}
    return feed(data, batch_size=4, accumulate=1, collate=None, **options)


@pytest.mark.parametrize("data", [3, None, {"a": 1}, "text"])
def test_what_is_no_data_set_is_refused_with_what_is_served(data: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{type(data).__name__}.*__len__"):
        made_of(data)


def test_what_can_be_gone_through_only_once_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="once"):
        made_of(iter([1, 2]))


def test_the_length_of_an_iterable_is_not_known() -> None:
    made = made_of(Stream())
    assert (made.length, made.updates_per_epoch, made.samples_per_epoch) == (None, None, None)
    assert horizon(made, {"updates": 7}) == Progress(None, 7, None, None)
    assert horizon(made, {"updates": 7, "epochs": 2}) == Progress(None, None, None, None)


def test_samples_are_collated_in_their_order_and_no_other_is_loaded() -> None:
    data = Noted()
    assert fetch(data, [5, 2, 9], list)[0] == [50, 20, 90]
    assert data.loaded == [5, 2, 9]


@pytest.mark.parametrize(
    "wholes",
    [
        (torch.randn(9, 3), torch.arange(9)),
        (torch.randn(9, 4, 2).transpose(1, 2), torch.zeros(9, dtype=torch.bool)),
        (torch.randn(18, 2, dtype=torch.bfloat16)[::2], torch.nn.Parameter(torch.randn(9))),
        (torch.randn(9, 0),),
    ],
)
def test_rows_of_whole_tensors_are_what_their_samples_collate_to(wholes: Any) -> None:
    data, indices = TensorDataset(*wholes), [8, 0, 3]
    found, _ = fetch(data, indices, default_collate)
    wanted = default_collate([data[index] for index in indices])
    assert type(found) is type(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
        assert one.requires_grad == other.requires_grad


def test_an_error_names_the_sample_and_the_data_set() -> None:
    with pytest.raises(OSError, match="broken file") as caught:
        fetch(Noted(), [6, 7], list)
    (note,) = caught.value.__notes__
    assert "sample 7" in note
    assert "Noted" in note


def test_batches_of_a_data_set_that_serves_several_at_once_are_the_same() -> None:
    data = samples(6)
    whole = torch.utils.data.TensorDataset(data.inputs, data.targets)
    one, _ = fetch(data, [4, 1], default_collate)
    other, _ = fetch(torch.utils.data.Subset(whole, range(6)), [4, 1], default_collate)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Pair(NamedTuple):
    x: torch.Tensor
    y: Any


def test_every_tensor_of_a_nested_batch_is_moved() -> None:
    batch = {"a": [torch.ones(2), "text"], "b": Pair(torch.ones(1), (torch.zeros(1), 3))}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"][0].device.type == moved["b"].x.device.type == "meta"
    assert moved["b"].y[0].device.type == "meta"
    assert (moved["a"][1], moved["b"].y[1]) == ("text", 3)
    assert isinstance(moved["b"], Pair)
