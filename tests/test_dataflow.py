import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether import (
    Callback,
    ConfigurationError,
    DataPass,
    TrainState,
    chain,
    every,
    hooks,
    on_improvement,
    when,
)
from noether.callback import Pipeline
from noether.dataflow import order
from noether.schedules import Schedule


def watch(state: TrainState) -> None: ...


def node(name: str, reads: Any = (), writes: Any = (), **fields: Any) -> Callback:
    return Callback(name, on_schedule=watch, reads=reads, writes=writes, **fields)


def problems(*callbacks: Callback) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        order(callbacks)
    return [problem.message for problem in caught.value.problems]


def about(messages: list[str], *parts: str) -> list[str]:
    return [message for message in messages if all(part in message for part in parts)]


# ---------------------------------------------------------------- order


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Pipeline, set[tuple[int, int]]]:
    """A pipeline in any declaration order, and which position must come before which."""
    size = draw(st.integers(0, 6))
    ranked = draw(st.permutations(range(size)))
    before: set[tuple[int, int]] = set()
    callbacks = []
    for position in range(size):
        earlier = [p for p in range(size) if ranked[p] < ranked[position]]
        sources = draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
        before |= {(source, position) for source in sources}
        names = [f"m{source}" for source in sources]
        kind = draw(st.sampled_from(["reads", "optional", "schedule"]))
        schedule: Schedule | None = None
        if kind == "schedule":
            for name in names:
                schedule = when(name) if schedule is None else schedule | when(name)
        fields: dict[str, Any] = {"reads_optional": names} if kind == "optional" else {}
        reads = names if kind == "reads" else ()
        writes = draw(st.sampled_from([f"m{position}", f"m{position}*"]))
        callbacks.append(node(f"c{position}", reads, [writes], schedule=schedule, **fields))
    return tuple(callbacks), before


@given(graph=graphs())
def test_the_order_is_the_first_by_declaration_that_runs_readers_after_writers(
    graph: tuple[Pipeline, set[tuple[int, int]]],
) -> None:
    pipeline, before = graph
    # Permutations come in lexicographic order, so the first valid one keeps ties as declared.
    possible = (
        candidate
        for candidate in itertools.permutations(range(len(pipeline)))
        if all(candidate.index(a) < candidate.index(b) for a, b in before)
    )
    assert order(pipeline) == tuple(pipeline[p] for p in next(possible))


@given(graph=graphs())
def test_ordering_an_ordered_pipeline_changes_nothing(
    graph: tuple[Pipeline, set[tuple[int, int]]],
) -> None:
    once = order(graph[0])
    assert order(once) == once


def test_the_empty_pipeline_is_in_order() -> None:
    assert order(()) == ()


def test_a_callback_may_read_what_it_writes_itself() -> None:
    alone = node("alone", ["mine"], ["mine"])
    assert order((alone,)) == (alone,)


def test_the_label_of_an_interval_is_filled_in_before_metrics_are_compared() -> None:
    reader = node("reader", ["loss/online/total/U5"])
    writer = every(updates=5)(hooks.online_loss())
    assert [c.name for c in order((reader, writer))] == ["online_loss", "reader"]
    with pytest.raises(ConfigurationError, match="loss/online/total/U5"):
        order((reader, every(updates=6)(hooks.online_loss())))


def test_undeclared_reads_keep_the_declared_order() -> None:
    free = chain(Callback("b", on_schedule=watch), node("a", (), ["x"]))
    assert order(free) == free


def passing(name: str, weights: str = "live", **fields: Any) -> Callback:
    return node(name, data=DataPass("val", lambda model, batch: {}, weights=weights), **fields)


@pytest.mark.parametrize("weights", ["mean", "keeper"])
def test_a_pass_with_an_average_comes_after_the_one_that_completes_it(weights: str) -> None:
    kept: Any = {"averages": {"mean": dict}}
    taker, other = passing("taker", weights), passing("other")
    keeper, complete = passing("keeper", "mean", **kept), node("keeper", **kept)
    assert order((taker, other, keeper)) == (other, keeper, taker)
    assert order((taker, other, complete)) == (taker, other, complete)


# ---------------------------------------------------------------- mistakes


def test_two_callbacks_of_one_name_are_told_to_take_another() -> None:
    (message,) = problems(node("same"), node("same"))
    assert "'same'" in message
    assert "name" in message


@pytest.mark.parametrize(
    ("one", "other"),
    [("loss/val", "loss/val"), ("loss/*", "loss/val"), ("loss/val", "loss/*"), ("a/*", "a/*")],
)
def test_two_writers_of_a_metric_are_named(one: str, other: str) -> None:
    (message,) = problems(node("first", (), [one]), node("second", (), [other]))
    assert "'first'" in message
    assert "'second'" in message


def test_two_loss_callbacks_of_one_interval_are_two_writers() -> None:
    pair = every(updates=5)(hooks.online_loss()), every(updates=5)(hooks.online_loss())
    assert "U5" in problems(pair[0], pair[1].named("other"))[0]
    assert order((pair[0], every(updates=6)(hooks.online_loss()).named("other")))


@pytest.mark.parametrize(
    "reader",
    [
        node("reader", ["loss/val/total"]),
        node("reader", schedule=when("loss/val/total")),
        node("reader", schedule=on_improvement("loss/val/total") & every(epochs=1)),
        hooks.early_stopping(metric="loss/val/total", patience=1).named("reader"),
    ],
)
def test_an_unwritten_metric_is_told_with_the_nearest_written_one(reader: Callback) -> None:
    (message,) = problems(reader, node("writer", (), ["loss/test/total"]))
    for part in ("'reader'", "loss/val/total", "Did you mean loss/test/total?"):
        assert part in message


def test_an_optional_metric_need_not_be_written() -> None:
    reader = node("reader", reads_optional=["loss/val/total"])
    assert order((reader,)) == (reader,)


@given(size=st.integers(2, 5), data=st.data())
def test_a_circle_of_any_size_is_told_once_with_all_in_it(size: int, data: st.DataObject) -> None:
    ring = [node(f"c{i}", [f"m{i}"], [f"m{(i + 1) % size}"]) for i in range(size)]
    (message,) = problems(*data.draw(st.permutations(ring)))
    assert "circle" in message
    assert all(f"'c{i}'" in message for i in range(size))


def test_a_callback_outside_the_circle_is_not_blamed_for_it() -> None:
    ring = node("one", ["b"], ["a"]), node("two", ["a"], ["b"])
    (message,) = problems(*ring, node("reader", ["a"]))
    assert "'one'" in message
    assert "'reader'" not in message


@pytest.mark.parametrize("point", ["before_update", "after_accumulation_step"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schedule": when("loss/val/total")}, "metric"),
        ({"schedule": every(seconds=3)}, "clock"),
        ({"schedule": every(updates=2) & ~every(minutes=1)}, "clock"),
        ({"data": DataPass("val", lambda model, batch: {})}, "data"),
    ],
)
def test_within_an_update_metrics_clock_and_data_are_refused(
    point: Any, fields: dict[str, Any], said: str
) -> None:
    writer = node("writer", (), ["loss/val/total"])
    (message,) = problems(writer, node("early", point=point, **fields))
    for part in ("'early'", point, said):
        assert part in message


@pytest.mark.parametrize("schedule", [every(updates=2), every(epochs=1) | every(samples=3), None])
def test_within_an_update_schedules_of_counts_are_fine(schedule: Any) -> None:
    early = node("early", point="before_update", schedule=schedule)
    assert order((early,)) == (early,)


def test_every_mistake_is_told_at_once() -> None:
    messages = problems(
        node("same"),
        node("same"),
        node("first", (), ["loss/test/total"]),
        node("second", (), ["loss/test/total"]),
        node("reader", ["loss/val/total"]),
        node("early", point="before_update", schedule=every(seconds=1)),
    )
    assert len(messages) == 4
    assert about(messages, "'same'")
    assert about(messages, "'first'", "'second'")
    assert about(messages, "'reader'", "Did you mean")
    assert about(messages, "'early'", "clock")


def test_a_circle_is_told_together_with_other_mistakes() -> None:
    messages = problems(
        node("one", ["b"], ["a"]),
        node("two", ["a"], ["b"]),
        node("same"),
        node("same"),
        node("reader", ["c"]),
    )
    assert about(messages, "circle", "'one'", "'two'")
    assert about(messages, "'same'")
    assert about(messages, "'reader'", "c")
