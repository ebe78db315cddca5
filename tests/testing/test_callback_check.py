"""Each law of callbacks has teeth: it catches a callback broken for it, and no good one."""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from noether import (
    Callback,
    ConfigurationError,
    DataPass,
    Log,
    Save,
    Say,
    Set,
    Stop,
    TrainState,
    Write,
    chain,
    every,
    factory,
    first,
    hook,
    hooks,
    on_improvement,
    stateful,
    where,
)
from noether.testing import check_callback
from tests.hooks.cases import ALL

FEW = 12


def check(callback: Any, **options: Any) -> None:
    check_callback(callback, **{"max_examples": FEW, **options})


# ---------------------------------------------------------------- good ones


@pytest.mark.parametrize("name", ["best_checkpoint", "early_stopping", "online_loss"])
def test_a_built_in_of_another_schedule_breaks_none_either(name: str) -> None:
    schedule = every(updates=2) | on_improvement("accuracy") | first(1, where(third))
    check(replace(ALL[name].callback, schedule=schedule))


def third(state: Any) -> bool:
    return bool(state.now.update == 3)


@dataclass(frozen=True)
class Average:
    weights: Mapping[str, torch.Tensor]
    seen: int = 0


def average(state: TrainState, kept: Average) -> tuple[Average, None]:
    """In place, which is allowed of tensors that only the memory owns."""
    for name, weight in kept.weights.items():
        weight.lerp_(state.model.parameters[name], 0.1)
    return replace(kept, seen=kept.seen + 1), None


def copied(state: TrainState) -> Average:
    return Average({n: p.detach().clone() for n, p in state.model.parameters.items()})


def several(state: TrainState) -> Iterator[Any]:
    yield Log({"a": state.losses["total"] if state.losses else 0})
    yield Write("weights", state.model.parameters["head.weight"])
    if state.now.update > 3:
        yield Stop("enough")


def gradients(state: TrainState) -> Log:
    norm = state.model.grad_norm
    assert norm is not None
    return Log({"norm": norm})


def quiet(state: TrainState) -> None: ...


def note(name: str) -> Any:
    return lambda state, seen: ((*seen, name)[-3:], Say(f"{name} after {seen}"))


GOOD: Mapping[str, Any] = {
    "a function": quiet,
    "a generator": several,
    "an average kept in place": Callback("average", init=copied, after_update=average),
    "gradients": hook(point="before_update", writes=["norm"])(every(updates=2)(gradients)),
    "micro-batches": Callback(
        "micro",
        init=lambda state: 0,
        after_accumulation_step=lambda state, n: (n + 1, None),
        on_schedule=lambda state, n: (0, Log({"micro": n})),
        writes=("micro",),
    ),
    "every hook": Callback(
        "all",
        init=lambda state: (),
        before_training=note("opening"),
        after_update=note("update"),
        after_epoch=note("epoch"),
        on_schedule=note("scheduled"),
        at_evaluation=lambda state, seen: (seen, None),
        after_training=lambda state, seen: (seen, Save("last")),
        on_exception=lambda state, seen: (seen, Say(str(state.exception))),
    ),
    "what it reads is there": Callback(
        "reader", after_update=lambda state: Log({"b": state.metrics["a"]}), reads=("a",)
    ),
    "what it reads and writes": Callback(
        "loop",
        on_schedule=lambda state: Log({"own": 1.0}),
        schedule=every(updates=1),
        reads=("own",),
        writes=("own",),
    ),
    "what it wrote": Callback(
        "own",
        on_schedule=lambda state: Log({"own": state.metrics.get("own", 0) + 1}),
        reads=(),
        writes=("own",),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_callback_breaks_no_law(name: str) -> None:
    check(GOOD[name])


def guard(state: TrainState) -> None:
    if state.losses and not torch.isfinite(state.losses["total"]):
        raise ArithmeticError(f"the loss is {state.losses['total']}")


@pytest.mark.usefixtures("unshrunk")
def test_errors_that_are_raised_on_purpose_are_named() -> None:
    with pytest.raises(AssertionError, match="name errors that are meant so: raises="):
        check(guard, max_examples=50)
    check(guard, raises=(ArithmeticError,))


# ---------------------------------------------------------------- broken ones


def hook_of(function: Any, **fields: Any) -> Callback:
    return Callback("mine", after_update=function, **fields)


def memory_of(step: Any, initial: Any = 0) -> Callback:
    return Callback("mine", init=lambda state: initial, after_update=step)


def zeroes(state: TrainState) -> None:
    state.model.parameters["head.weight"].zero_()


def zeroes_behind_its_back(state: TrainState) -> None:
    state.model.parameters["head.weight"].data.zero_()


def clips(state: TrainState) -> None:
    for gradient in state.model.gradients.values():
        gradient.clamp_(-0.1, 0.1)


def freezes(state: TrainState) -> None:
    state.model.parameters["body.weight"].requires_grad_(False)


def predicts_in_training(state: TrainState) -> None:
    state.model.predict(torch.ones(4, 3))


def reports_by_hand(state: TrainState) -> None:
    state.metrics["mine"] = 1.0  # type: ignore[index]


def sets_by_hand(state: TrainState) -> None:
    for group in state.hyper.values():
        group["lr"] = 1.0  # type: ignore[index]


def hidden_counter() -> Callback:
    seen: list[int] = []

    def count(state: TrainState) -> Say:
        seen.append(state.now.update)
        return Say(f"{len(seen)} so far")

    return hook_of(count)


def hidden_updates() -> Callback:
    """The same for the same snapshot; but what it knows of earlier ones is lost on resume."""
    last: dict[str, Any] = {}

    def watch(state: TrainState) -> Say:
        if state.event == "start" and state.now.session == 1:
            last.clear()
        last.setdefault(str(state.now.update), None)
        return Say(f"{len(last)} updates so far")

    return Callback("mine", before_training=watch, after_update=watch)


@factory
def latched() -> Callback:
    """What it hides is made anew with each callback, as in another process."""
    first: list[int] = []

    def watch(state: TrainState) -> Say | None:
        first.extend([state.now.update] * (not first))
        return Say("the first") if first == [state.now.update] else None

    return Callback("latched", after_update=watch)


def drops_memory(state: TrainState, seen: tuple[int, ...]) -> Any:
    known = len(seen) and seen is not KEPT[-1]
    KEPT.append((*seen, state.now.update)[-3:])
    return KEPT[-1], Say("resumed" if known else "straight")


KEPT: list[tuple[int, ...]] = []


class Unpicklable:
    def __reduce__(self) -> str:
        raise TypeError("a lock")


@factory
def optioned(*, option: Any) -> Callback:
    return Callback("optioned", after_update=lambda state: None)


@dataclass
class Mutable:
    n: int = 0


@dataclass(frozen=True)
class Half:
    n: int
    cache: Any = field(default=None, compare=False)


def mutates(state: TrainState, memory: dict[str, int]) -> Any:
    memory["n"] += 1
    return memory, None


CHANGES = "a hook changes nothing that it looks at"
REPEATS = "a hook answers alike when asked again"
STORES = "a memory can be stored and read back"
COPIES = "what a hook keeps it copies"
RAISES = "a hook raises on no snapshot"
RETURNS = "a hook returns effects"
WRITES = "a hook logs what it declares to write"
READS = "a hook looks only at metrics that it declares to read"
SPLITS = "a split run goes on as the unbroken one"
SERVES = "what a hook asks for can be served"
EQUALS = "a callback with an origin is equal to its pickled copy"
ASKS = "its schedule answers on every tick"
KEEPS = "its schedule's memory can be stored"

BROKEN: Mapping[str, tuple[Callback, str, str]] = {
    "writing weights": (hook_of(zeroes), CHANGES, "changed parameter head.weight."),
    "writing data": (hook_of(zeroes_behind_its_back), CHANGES, "changed parameter head.weight."),
    "clipping": (hook_of(clips), CHANGES, "changed the gradient of body.weight, the gradient of"),
    "freezing": (hook_of(freezes), CHANGES, "changed parameter body.weight"),
    "moving statistics": (hook_of(predicts_in_training), CHANGES, "changed buffer norm.running"),
    "reporting by hand": (hook_of(reports_by_hand), CHANGES, "changed metrics."),
    "setting by hand": (hook_of(sets_by_hand), CHANGES, "changed hyper."),
    "drawing": (hook_of(lambda s: Say(f"{torch.rand(())}")), CHANGES, "random numbers of torch"),
    "drawing again": (hook_of(lambda s: Say(f"{random.random()}")), CHANGES, "numbers of python"),
    "drawing from numpy": (hook_of(lambda s: Say(f"{np.random.rand()}")), CHANGES, "of numpy"),
    "mutating its memory": (memory_of(mutates, {"n": 0}), CHANGES, "the memory it was handed"),
    "drawing at first": (
        Callback("mine", init=lambda state: float(torch.rand(()))),
        CHANGES,
        "init, at update 0 (epoch 0, start)",
    ),
    "a hidden counter": (hidden_counter(), REPEATS, "so far"),
    "hidden updates": (hidden_updates(), SPLITS, "it asks for"),
    "a latch": (latched(), SPLITS, "unbroken for"),
    "a memory known by its place": (memory_of(drops_memory, ()), REPEATS, "resumed"),
    "changed in place on resume": (stateful(copied)(average), SPLITS, "remembers something else"),
    "a set in memory": (
        memory_of(lambda s, m: (m, None), {1}),
        STORES,
        "which a checkpoint cannot",
    ),
    "a set later": (memory_of(lambda s, m: ({s.now.update}, None)), STORES, "is a set"),
    "a class in memory": (memory_of(lambda s, m: (m, None), Mutable()), STORES, "Mutable"),
    "a function in memory": (memory_of(lambda s, m: (quiet, None)), STORES, "function"),
    "a borrowed weight": (
        memory_of(lambda s, m: (s.model.parameters["head.weight"], None)),
        COPIES,
        "holds 1 tensors of the snapshot",
    ),
    "a borrowed view": (
        memory_of(lambda s, m: ({"w": s.model.parameters["head.weight"].detach()[0]}, None)),
        COPIES,
        "Keep tensor.clone()",
    ),
    "a borrowed loss": (memory_of(lambda s, m: (s.losses["total"], None)), COPIES, "snapshot"),
    "a metric not yet there": (
        hook_of(lambda s: Log({"a": s.metrics["other/loss"]})),
        RAISES,
        "KeyError: 'other/loss'",
    ),
    "a gradient at the start": (
        Callback("mine", before_training=lambda s: Say(f"{s.model.grad_norm.item()}")),
        RAISES,
        "before_training, at update 0",
    ),
    "failing late": (
        Callback("mine", on_exception=lambda s: Say(s.reason + "!")),
        RAISES,
        "on_exception, at update",
    ),
    "failing in evaluation": (
        Callback("mine", at_evaluation=lambda s: Say(s.results["a"])),
        RAISES,
        "at_evaluation, at update",
    ),
    "a number": (hook_of(lambda s: 3), RETURNS, "it returned 3"),
    "a number among effects": (hook_of(lambda s: iter([Say("a"), 3])), RETURNS, "3)"),
    "no pair": (memory_of(lambda s, m: m + 1), RETURNS, "(memory, effects)"),
    "memory and number": (memory_of(lambda s, m: (m, 3)), RETURNS, "it returned 3"),
    "an undeclared metric": (
        hook_of(lambda s: Log({"a": 1, "b/{I}": 2}), writes=("b/*", "c")),
        WRITES,
        "a is not among b/*, c",
    ),
    "an undeclared read": (
        hook_of(lambda s: Say(f"{s.metrics.get('other/loss')}"), reads=()),
        READS,
        "it looks at other/loss",
    ),
    "an undeclared freshness": (
        hook_of(lambda s: Say(f"{sorted(s.fresh)}"), reads=(), reads_optional=("other/loss",)),
        READS,
        "it looks at other/accuracy",
    ),
    "a text for a number": (hook_of(lambda s: Log({"a": "1"})), SERVES, "a number or"),
    "somebody else's metric": (
        hook_of(lambda s: Log({"other/loss": 1.0})),
        SERVES,
        "a metric has one writer",
    ),
    "options that are no values": (optioned(option=object()), EQUALS, "is not"),
    "options that can't be pickled": (optioned(option=Unpicklable()), EQUALS, "a lock"),
    "a schedule that raises": (
        every(updates=1)(where(lambda tick: tick.metrics["a"] > 1)(quiet)),
        ASKS,
        "KeyError: 'a'. Put check_schedule to it.",
    ),
    "a schedule that remembers a list": (
        replace(first(2, every(updates=1)), step=lambda t, m: (True, {1}))(quiet),
        KEEPS,
        "Put check_schedule to it.",
    ),
}


@pytest.mark.usefixtures("unshrunk")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_callback_is_caught_by_its_law(name: str) -> None:
    callback, law, finding = BROKEN[name]
    with pytest.raises(AssertionError, match=f"^callback '{callback.name}'") as error:
        check_callback(callback)
    assert f": it breaks the law of callbacks that {law}: " in str(error.value)
    assert finding in str(error.value)


def test_every_law_catches_one() -> None:
    laws = {law for _, law, _ in BROKEN.values()}
    assert len(laws) == 13


# ---------------------------------------------------------------- what is told


def test_hook_and_progress_are_told_at_the_shortest_run_that_shows_it() -> None:
    late = hook_of(lambda state: 3 if state.now.update == 2 else None)
    with pytest.raises(AssertionError) as error:
        check(late, max_examples=50)
    assert re.match(
        r"callback 'mine', after_update, at update 2 \(epoch ., update\)", str(error.value)
    )
    assert not getattr(error.value, "__notes__", [])


def test_what_a_hook_raises_is_the_cause() -> None:
    with pytest.raises(AssertionError) as error:
        check(hook_of(lambda state: Say("a" + 1)))  # type: ignore[operator]
    assert isinstance(error.value.__cause__, TypeError)


# ---------------------------------------------------------------- what is given


def passing(state: TrainState) -> Log:
    return Log({"a": state.results["share"]})


DATA = DataPass("val", lambda model, batch: {})


@pytest.mark.usefixtures("unshrunk")
def test_results_are_what_a_pass_gives() -> None:
    callback = Callback("mine", on_schedule=passing, data=DATA, reads=(), writes=("a",))
    check(callback, results={"share": 0.5})
    shares = st.fixed_dictionaries({"share": st.floats(0, 1)})
    check(callback, results=shares)
    with pytest.raises(AssertionError, match="KeyError: 'share'"):
        check(callback, results=st.just({}) | shares, max_examples=50)
    with pytest.raises(ValueError, match=r"pass over 'val'; give what it comes to: results={...}"):
        check(callback)


def test_results_of_no_pass_are_refused() -> None:
    with pytest.raises(ValueError, match="no data pass; leave results out"):
        check(quiet, results={"share": 0.5})


@pytest.mark.usefixtures("unshrunk")
def test_metrics_are_those_that_others_report() -> None:
    fragile = hook_of(lambda state: Say(f"{1 / max(state.metrics.get('cost', 1), 0)}"))
    check(fragile)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        check(fragile, metrics=["cost"], max_examples=50)


@pytest.mark.usefixtures("unshrunk")
def test_the_model_may_be_ones_own() -> None:
    bias = hook_of(lambda state: Log({"bias": state.model.parameters["bias"].mean()}))
    check(bias, model=torch.nn.Linear(5, 3))
    with pytest.raises(AssertionError, match="KeyError: 'bias'"):
        check(bias)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (every(epochs=1), "use check_schedule"),
        (chain(quiet, quiet), "check each of them"),
        (hooks.checkpoint, r"write checkpoint\(...\)"),
        (3, "callbacks, functions and pipelines: 3"),
    ],
)
def test_one_callback_is_checked(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check(value)


def test_what_no_run_would_take_is_told_as_a_run_tells_it() -> None:
    with pytest.raises(ConfigurationError, match="runs at before_update"):
        check(hook(point="before_update", reads=["a"])(on_improvement("a", mode="min")(quiet)))


def test_asking_for_a_setting_is_no_change() -> None:
    check(hook_of(lambda state: Set("lr", 0.1)))
