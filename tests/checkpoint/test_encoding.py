import datetime
import enum
import functools
import io
import math
import warnings
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.checkpoint.encoding import decode, encode, memory_types
from noether.errors import CheckpointError
from noether.progress import Progress

X = "memory of callback 'x'"


@dataclass(frozen=True, slots=True)
class Patience:
    best: Any
    history: Any = ()


@dataclass(frozen=True)
class Doubled:
    """Its constructor would not give the same value again."""

    value: Any
    twice: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", (self.value, self.value))
        object.__setattr__(self, "twice", [self.value])


@dataclass
class Mutable:
    best: int = 0


@dataclass(frozen=True)
class Sent:
    best: int = 0


class Plainly(Sent):
    """Not a dataclass itself."""


class Pair(NamedTuple):
    a: int
    b: int


class Labelled(torch.Tensor):
    """A tensor of another class: `weights_only` does not know it."""


class Colour(enum.IntEnum):
    RED = 1


TYPES = {kind.__qualname__: kind for kind in (Patience, Doubled)}


def stored(tree: Any) -> Any:
    """What comes back from the disk."""
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def same(a: Any, b: Any) -> bool:
    """Equal in types and values, NaN equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, Patience):
        return same((a.best, a.history), (b.best, b.history))
    if isinstance(a, Doubled):
        return same((a.value, a.twice), (b.value, b.twice))
    return bool(a == b)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
tensors = st.lists(st.integers(-9, 9), max_size=3).map(torch.tensor)
keys = st.text(max_size=3) | st.integers() | st.sampled_from(["__dataclass__", "fields"])
values = st.recursive(
    scalars | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
        | st.dictionaries(keys, st.integers(), max_size=3).map(Counter)
        | st.builds(Patience, inner, inner)
        | st.builds(Doubled, inner)
    ),
    max_leaves=8,
)


@given(values)
def test_a_value_comes_back_from_the_disk_as_it_was(value: Any) -> None:
    assert same(decode(stored(encode(value, X)), TYPES), value)


@given(values)
def test_what_is_encoded_shares_no_container(value: Any) -> None:
    tree = encode([value], X)
    before = repr(tree)
    for container in containers(value):
        container.clear()
    assert repr(tree) == before


def containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (found for item in value.values() for found in containers(item))
        yield value
    if isinstance(value, list | tuple):
        yield from (found for item in value for found in containers(item))
    if isinstance(value, list):
        yield value
    if isinstance(value, Patience):
        yield from containers([value.best, value.history])


@pytest.mark.parametrize(
    ("scalar", "number"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
    ],
)
def test_a_numpy_scalar_becomes_a_plain_number(scalar: Any, number: Any) -> None:
    assert same(encode({"a": [scalar], scalar: 1}, X), {"a": [number], number: 1})


REFUSED: list[Any] = [
    {1, 2},
    frozenset(),
    Path("a"),
    datetime.timedelta(1),
    Colour.RED,
    lambda: 0,
    np.zeros(2),
    np.array(1.0),
    np.complex64(1),
    np.longdouble(1),
    np.datetime64("2020-01-01"),
    1j,
    b"bytes",
    range(3),
    defaultdict(int),
    Pair(1, 2),
    torch.float32,
    torch.ones(1).as_subclass(Labelled),
    torch.Size([2]),
    Mutable(),
    Plainly(),
    Patience,
    object(),
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_anything_else_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^memory of callback 'x' at best\.history\.1 is a .*use"):
        encode({"best": Patience(0, history=[0, value])}, X)


def test_a_refused_key_is_named() -> None:
    with pytest.raises(TypeError, match=r"at steps\.key \(1, 2\) is a tuple"):
        encode({"steps": {(1, 2): 0}}, X)


def test_a_value_refused_as_a_whole_is_named_by_its_place_alone() -> None:
    with pytest.raises(TypeError, match=r"^memory of callback 'x' is a set, which"):
        encode(set(), X)


def test_a_parameter_is_stored_as_a_tensor_without_copy() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    tensor = encode(parameter, X)
    assert type(tensor) is torch.Tensor
    assert not tensor.requires_grad
    assert tensor.data_ptr() == parameter.data_ptr()


def test_a_small_view_does_not_store_the_whole_it_was_cut_from() -> None:
    view = torch.arange(1_000_000)[7:9]
    tensor = encode(view, X)
    assert tensor.untyped_storage().nbytes() == 16
    assert torch.equal(tensor, view)


def test_tied_weights_stay_one_storage() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    tree = stored(encode({"in": weight, "out": weight}, X))
    assert tree["in"].data_ptr() == tree["out"].data_ptr()


def test_a_module_state_dict_keeps_its_versions() -> None:
    state = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).state_dict()
    again = decode(stored(encode(state, "model")), {})
    assert type(again) is OrderedDict
    assert vars(again) == vars(state)
    assert "_metadata" in vars(again)


def optimizers() -> list[type[torch.optim.Optimizer]]:
    found = (getattr(torch.optim, name) for name in torch.optim.__all__)
    kinds = (kind for kind in found if isinstance(kind, type))
    return [k for k in kinds if k not in (torch.optim.Optimizer, torch.optim.SparseAdam)]


def stepped(kind: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    parameter = torch.nn.Parameter(torch.eye(3))
    optimizer = kind([parameter])  # type: ignore[call-arg]
    parameter.grad = torch.ones(3, 3)
    optimizer.step(lambda: 1.0)
    return optimizer


@pytest.mark.parametrize("kind", optimizers(), ids=lambda kind: kind.__name__)
def test_an_optimizer_state_comes_back(kind: type[torch.optim.Optimizer]) -> None:
    state = stepped(kind).state_dict()
    again = decode(stored(encode(state, "optimizer")), {})
    assert same(again["param_groups"], state["param_groups"])
    assert same(again["state"], dict(state["state"]))
    stepped(kind).load_state_dict(again)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda n: 0.9**n),
    "MultiplicativeLR": lambda o: torch.optim.lr_scheduler.MultiplicativeLR(o, lambda n: 0.9),
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 3, 3]),
    "ConstantLR": lambda o: torch.optim.lr_scheduler.ConstantLR(o),
    "LinearLR": lambda o: torch.optim.lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: torch.optim.lr_scheduler.PolynomialLR(o),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "WarmRestarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.1, 1.0),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=9),
    "ReduceLROnPlateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.LinearLR(o),
            torch.optim.lr_scheduler.MultiStepLR(o, [2]),
        ],
        [2],
    ),
    "ChainedScheduler": lambda o: torch.optim.lr_scheduler.ChainedScheduler(
        [torch.optim.lr_scheduler.StepLR(o, 2), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_learning_rate_schedule_comes_back_and_goes_on(name: str) -> None:
    optimizer, fresh = (torch.optim.SGD([torch.zeros(1)], lr=0.5, momentum=0.9) for _ in "ab")
    scheduler, restored = SCHEDULERS[name](optimizer), SCHEDULERS[name](fresh)
    ahead(name, optimizer, scheduler)
    state = scheduler.state_dict()
    restored.load_state_dict(decode(stored(encode(state, "lr_scheduler")), {}))
    fresh.load_state_dict(decode(stored(encode(optimizer.state_dict(), "optimizer")), {}))
    assert same(restored.state_dict(), state)
    rates = [ahead(name, optimizer, scheduler) for _ in range(3)]
    assert [ahead(name, fresh, restored) for _ in range(3)] == rates


def ahead(name: str, optimizer: torch.optim.Optimizer, scheduler: Any) -> float:
    optimizer.step()
    with warnings.catch_warnings():  # torch's own schedulers use a deprecated argument
        warnings.simplefilter("ignore")
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    return float(optimizer.param_groups[0]["lr"])


def test_an_unknown_record_is_named() -> None:
    tree = encode({"a": Patience(1)}, X)
    with pytest.raises(CheckpointError, match=r"is a Patience, which is not here.*Patiences"):
        decode(tree, {"Patiences": Patience})


def test_a_record_with_other_fields_is_named() -> None:
    tree = encode(Patience(1), X)
    with pytest.raises(CheckpointError, match=r"Patience has the fields .*but stored are"):
        decode(tree, {"Patience": Sent})


@pytest.mark.parametrize("kind", [Mutable, Plainly, dict])
def test_only_frozen_dataclasses_are_rebuilt(kind: type) -> None:
    with pytest.raises(TypeError, match="no frozen dataclass"):
        decode({"__dataclass__": "Sent", "fields": {"best": 1}}, {"Sent": kind})


@pytest.mark.parametrize(
    "tree",
    [{"__dataclass__": 3, "fields": {}}, {"__dataclass__": "Sent"}, {"__dataclass__": None}],
)
def test_a_forged_tag_is_refused(tree: Any) -> None:
    with pytest.raises(CheckpointError, match="tagged"):
        decode(tree, {"Sent": Sent})


def test_memory_types_sees_the_module_of_a_hook_and_its_closure() -> None:
    @dataclass(frozen=True)
    class Local:
        value: int

    def made(local: type = Local) -> Callable[..., Any]:
        return lambda state: local(state)

    name = "test_memory_types_sees_the_module_of_a_hook_and_its_closure.<locals>.Local"
    for function in (made(), functools.partial(made()), functools.partial(print, made())):
        types = memory_types([function])
        assert types[name] is Local
        assert types["Patience"] is Patience
        assert types["Progress"] is Progress  # imported here
        assert "Mutable" not in types
        assert decode(encode(Local(3), X), types) == Local(3)


def test_memory_types_prefers_what_the_module_of_the_hook_defines() -> None:
    other: type = dataclass(frozen=True)(type("Patience", (), {"__module__": "elsewhere"}))
    scope: dict[str, Any] = {"Other": other, "Patience": Patience, "__name__": __name__}
    exec("def hook(state): return Patience(Other())", scope)
    assert memory_types([scope["hook"]])["Patience"] is Patience


def test_memory_types_of_a_bound_method_and_a_builtin() -> None:
    assert memory_types([Patience(0).__repr__])["Patience"] is Patience
    assert memory_types([len]) == {}
