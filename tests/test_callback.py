import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether import (
    Callback,
    Log,
    TrainState,
    after,
    chain,
    every,
    factory,
    hook,
    hooks,
    once_at_end,
    stateful,
)
from noether.callback import is_factory


def watch(state: TrainState) -> None:
    """A plain hook."""


def count(state: TrainState, n: int) -> tuple[int, Log]:
    """A stateful hook."""
    return n + 1, Log({"count": n})


def nothing_counted(state: TrainState) -> int:
    return 0


@every(updates=100)
def decorated(state: TrainState) -> Log:
    return Log({"decorated": 1.0})


@after(epochs=2)
@every(updates=100)
def twice(state: TrainState) -> None: ...


counted = every(updates=3)(stateful(init=nothing_counted, writes=["count"])(count))


@factory
def tracer(*, group: str = "default", rate: float = 0.5) -> Callback:
    """A factory whose hooks are closures."""

    def trace(state: TrainState) -> Log:
        return Log({f"trace/{group}": rate})

    return Callback("tracer", on_schedule=trace, writes=(f"trace/{group}",))


@factory
def open_tracer(**options: float) -> Callback:
    """A factory that takes any option."""
    return Callback("open", on_schedule=lambda state: Log(dict(options)))


MADE: list[Callable[[], Callback]] = [
    lambda: hooks.early_stopping(metric="loss/val/total", patience=3),
    lambda: hooks.checkpoint(keep_last=None),
    lambda: every(epochs=1)(hooks.offline_loss(dataset="val")),
    lambda: tracer(group="head"),
    lambda: tracer(group="head").named("head"),
    lambda: after(epochs=2)(every(updates=5)(tracer())),
    lambda: open_tracer(rate=0.5),
    lambda: every(updates=7)(watch),
    lambda: hook(point="before_update", writes=["a"])(watch),
    lambda: stateful(init=nothing_counted)(count),
]

# ---------------------------------------------------------------- values


@pytest.mark.parametrize("make", MADE)
def test_two_makings_are_one_value(make: Callable[[], Callback]) -> None:
    assert make() is not make()
    assert make() == make()
    assert len({make(), make()}) == 1
    assert repr(make()) == repr(make())


@pytest.mark.parametrize("one", MADE)
@pytest.mark.parametrize("other", MADE)
def test_different_makings_are_different_values(
    one: Callable[[], Callback], other: Callable[[], Callback]
) -> None:
    assert (one() == other()) == (one is other)


@pytest.mark.parametrize("make", [*MADE, lambda: decorated, lambda: twice, lambda: counted])
def test_a_pickled_callback_is_equal_and_still_does_the_same(make: Callable[[], Callback]) -> None:
    callback = make()
    again = pickle.loads(pickle.dumps(callback))
    assert again == callback
    kept = ("name", "schedule", "point", "reads", "writes", "critical", "on_error")
    assert [getattr(again, f) for f in kept] == [getattr(callback, f) for f in kept]
    assert (again.init is None) == (callback.init is None)


def test_a_pickled_factory_callback_gives_the_same_effects() -> None:
    again: Any = pickle.loads(pickle.dumps(tracer(group="head", rate=0.25)))
    assert again.on_schedule(None) == Log({"trace/head": 0.25})


def test_a_pickled_callback_of_any_options_gives_the_same_effects() -> None:
    again: Any = pickle.loads(pickle.dumps(open_tracer(rate=0.25)))
    assert again.on_schedule(None) == Log({"rate": 0.25})


@given(
    one=st.fixed_dictionaries({}, optional={"group": st.sampled_from("ab"), "rate": st.just(0.5)}),
    other=st.fixed_dictionaries(
        {}, optional={"group": st.sampled_from("ab"), "rate": st.sampled_from([0.5, 0.25])}
    ),
)
def test_factory_calls_are_equal_when_their_options_are_defaults_included(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    defaults = {"group": "default", "rate": 0.5}
    assert (tracer(**one) == tracer(**other)) == (defaults | one == defaults | other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: every(updates=1)(lambda state: None),
        lambda: Callback("mine", after_update=watch),
        lambda: Callback("mine"),
    ],
)
def test_without_an_origin_a_callback_equals_only_itself(make: Callable[[], Callback]) -> None:
    callback = make()
    assert callback == callback
    assert callback != make()
    assert len({callback, callback, make()}) == 2


def test_a_local_function_has_no_origin_and_does_not_pickle() -> None:
    def local(state: TrainState) -> None: ...

    callback = every(updates=1)(local)
    assert callback != every(updates=1)(local)
    with pytest.raises(TypeError, match="'local'"):
        pickle.dumps(callback)


def test_a_callback_differs_from_what_is_none() -> None:
    assert decorated != "decorated"
    assert decorated != Callback("decorated")


def test_printing_tells_the_factory_its_options_and_the_schedule() -> None:
    said = repr(every(updates=5)(tracer(group="head")))
    for part in ("tracer", "group='head'", "every(updates=5)"):
        assert part in said


def test_the_name_and_the_schedule_are_part_of_the_value() -> None:
    assert tracer().named("other") != tracer()
    assert every(updates=2)(tracer()) != every(updates=3)(tracer())
    assert every(updates=2)(tracer()) != tracer()


# ---------------------------------------------------------------- decorators


def test_a_decorated_function_is_a_callback_named_after_it() -> None:
    assert isinstance(decorated, Callback)
    assert (decorated.name, decorated.schedule) == ("decorated", every(updates=100))
    assert decorated.on_schedule is not None


def test_decorating_again_narrows_to_outer_and_inner() -> None:
    assert twice.schedule == after(epochs=2) & every(updates=100)
    assert after(epochs=2)(every(updates=100)(watch)) == (after(epochs=2) & every(updates=100))(
        watch
    )


def test_decorating_a_built_in_narrows_its_own_schedule() -> None:
    narrowed = every(epochs=2)(hooks.checkpoint())
    assert narrowed.schedule == every(epochs=2) & (every(epochs=1) | once_at_end)
    assert hooks.checkpoint().schedule == every(epochs=1) | once_at_end


def test_decorating_a_pipeline_narrows_each_of_its_callbacks() -> None:
    pipeline = chain(tracer(), every(updates=5)(watch))
    assert every(epochs=1)(pipeline) == (
        every(epochs=1)(tracer()),
        every(epochs=1)(every(updates=5)(watch)),
    )


def test_a_schedule_on_a_callback_without_a_scheduled_hook_is_refused() -> None:
    with pytest.raises(TypeError, match="'mine'"):
        every(updates=2)(Callback("mine", after_update=watch))


@pytest.mark.parametrize("target", [3, "watch", None])
def test_only_functions_callbacks_and_pipelines_are_decorated(target: Any) -> None:
    with pytest.raises(TypeError, match=r"every\(updates=2\)"):
        every(updates=2)(target)


def test_promises_are_kept_as_tuples_under_a_schedule() -> None:
    promised = hook(point="before_update", reads=["a"], writes=["b"], on_error="warn")(watch)
    made = every(updates=2)(promised)
    assert (made.point, made.reads, made.writes) == ("before_update", ("a",), ("b",))
    assert (made.on_error, made.schedule) == ("warn", every(updates=2))


def test_promises_around_a_schedule_are_not_lost() -> None:
    made: Callback = hook(reads=["a"], writes=["b"], point="before_update")(every(updates=2)(watch))
    assert (made.reads, made.writes, made.point) == (("a",), ("b",), "before_update")
    assert made.schedule == every(updates=2)


def test_a_memory_around_a_schedule_is_not_lost() -> None:
    wrap: Any = stateful(init=nothing_counted)
    made = wrap(every(updates=2)(count))
    assert made.init is nothing_counted
    assert made.schedule == every(updates=2)


def test_hook_without_arguments_decorates_too() -> None:
    assert hook(watch) == chain(watch)[0]


@pytest.mark.parametrize("promise", ["reads", "writes", "reads_optional"])
def test_a_promise_that_is_one_string_is_refused(promise: str) -> None:
    options: dict[str, Any] = {promise: "loss"}
    with pytest.raises(TypeError, match=promise):
        Callback("mine", **options)


@pytest.mark.parametrize("value", [tracer(), decorated])
def test_a_callback_is_frozen(value: Callback) -> None:
    with pytest.raises(AttributeError):
        value.name = "other"  # type: ignore[misc]


# ---------------------------------------------------------------- chain


leaves = st.integers(0, 20).map(lambda n: Callback(f"c{n}"))
nested = st.recursive(leaves, lambda parts: st.lists(parts, max_size=3), max_leaves=8)


def flat(part: Any) -> list[Callback]:
    """The leaves of nested lists, from left to right."""
    return [part] if isinstance(part, Callback) else [leaf for p in part for leaf in flat(p)]


@given(parts=st.lists(nested, max_size=4))
def test_chain_flattens_in_declaration_order(parts: list[Any]) -> None:
    assert chain(*parts) == tuple(flat(parts))


@given(one=st.lists(leaves, max_size=3), other=st.lists(leaves, max_size=3))
def test_a_chain_of_chains_is_the_chain_of_all(one: list[Callback], other: list[Callback]) -> None:
    assert chain(chain(*one), chain(*other)) == chain(*one, *other) == (*one, *other)


def test_chain_makes_callbacks_of_plain_functions() -> None:
    assert [c.name for c in chain(watch, decorated)] == ["watch", "decorated"]


@pytest.mark.parametrize("part", [3, "watch", None])
def test_chain_refuses_what_is_no_callback(part: Any) -> None:
    with pytest.raises(TypeError, match="chain"):
        chain(decorated, part)


# ---------------------------------------------------------------- labels and factories


@pytest.mark.parametrize(
    ("schedule", "label"),
    [
        (every(epochs=1), "E1"),
        (every(updates=50), "U50"),
        (every(samples=640), "S640"),
        (every(seconds=30), "T30s"),
        (every(minutes=2), "T120s"),
        (every(updates=50) | once_at_end, "watch"),
        (every(updates=50, start=3), "watch"),
        (once_at_end, "watch"),
    ],
)
def test_the_label_is_the_interval_of_a_plain_every_else_the_name(
    schedule: Any, label: str
) -> None:
    assert schedule(watch).label == label


def test_only_what_was_declared_is_a_factory() -> None:
    assert is_factory(tracer)
    assert is_factory(hooks.checkpoint)
    assert not is_factory(watch)
    assert not is_factory(tracer())


def test_a_factory_of_another_factory_has_its_own_origin() -> None:
    outer = factory(lambda: tracer(group="head"))
    assert outer() == outer()
    assert outer() != tracer(group="head")


def test_a_list_of_options_equals_a_tuple_of_them() -> None:
    one, other = hooks.ema(decay=[0.9, 0.5]), hooks.ema(decay=(0.9, 0.5))
    assert one == other
    assert hash(one) == hash(other)
    assert one != hooks.ema(decay=[0.5, 0.9])
