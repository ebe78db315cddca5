"""A callback: a name, an initial memory, hooks, and when they run. All of it is one value."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar, get_args

if TYPE_CHECKING:
    from noether.schedules import Schedule

P = ParamSpec("P")
T = TypeVar("T")
Hook: TypeAlias = Callable[..., Any]
Point: TypeAlias = Literal["tick", "before_update", "after_accumulation_step"]
Reduce: TypeAlias = str | Callable[[Any, Any], Any]
OnError: TypeAlias = Literal["raise", "warn"]

HOOKS = (
    "before_training",
    "after_accumulation_step",
    "before_update",
    "after_update",
    "after_epoch",
    "on_schedule",
    "at_evaluation",
    "after_training",
    "on_exception",
)
INTERVALS: Mapping[str, str] = {"epochs": "E", "updates": "U", "samples": "S", "seconds": "T"}


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """What a callback was made from: a factory and its options, or a module-level function.

    A list among the options equals a tuple of the same: YAML makes the one of what is the other.
    """

    module: str
    qualname: str
    options: Mapping[str, Any] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Origin):
            return NotImplemented
        mine, theirs = ((o.module, o.qualname, _as_tuples(o.options)) for o in (self, other))
        return mine == theirs

    def __hash__(self) -> int:
        return hash((self.module, self.qualname))

    def __str__(self) -> str:
        name = f"{self.module}.{self.qualname}"
        if self.options is None:
            return name
        return f"{name}({', '.join(f'{k}={v!r}' for k, v in self.options.items())})"


def _as_tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_as_tuples, value))
    if isinstance(value, Mapping):
        return {key: _as_tuples(item) for key, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class DataPass:
    """A pass over an evaluation set: `process` sees each batch, `reduce` joins what it gives.

    `process(model, batch)` returns a mapping; `reduce` says per key (or for all) how the batches'
    values are joined: `concat` in data-set order, a sample-weighted `mean`, `sum`, `min`, `max`,
    `merge` (by `merge_state`, which torchmetrics' metrics have, else by `+`), or an associative
    function of two values, the one before and the one after it in data-set order.
    """

    dataset: str
    process: Callable[[Any, Any], Mapping[str, Any]]
    reduce: "Reduce | Mapping[str, Reduce]" = "concat"
    batch_size: int | None = None
    """Samples of a batch; None: those of a rank's micro-batch in training."""
    weights: str = "live"
    limit: int | None = None
    """Make the pass over so many batches at most, over all ranks together."""
    offload: bool = False
    """Keep what is concatenated on the CPU."""
    alone: bool = False
    """Make it before others that read the same, which see what comes of it."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value > 0):
                found = f"a pass over {self.dataset!r}: {name} is {value!r}"
                raise ValueError(f"{found}; expected a positive integer, or None")

    @property
    def source(self) -> tuple[str, int | None, int | None, bool]:
        """What it reads; passes of one tick that read the same are served together."""
        return self.dataset, self.batch_size, self.limit, self.alone


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Callback:
    """Hooks under one name; equal, hashed, printed and pickled by origin, name and schedule.

    A callback of lambdas or local functions has no origin and equals only itself.
    """

    name: str
    init: Hook | None = None
    before_training: Hook | None = None
    after_accumulation_step: Hook | None = None
    before_update: Hook | None = None
    after_update: Hook | None = None
    after_epoch: Hook | None = None
    on_schedule: Hook | None = None
    at_evaluation: Hook | None = None
    after_training: Hook | None = None
    on_exception: Hook | None = None
    schedule: "Schedule | None" = None
    """When `on_schedule` runs; None: on every tick (or at every passage of `point`)."""
    point: Point = "tick"
    data: DataPass | None = None
    reads: Sequence[str] | None = None
    """Metrics it needs; None: undeclared, it sees whatever earlier callbacks reported."""
    reads_optional: Sequence[str] = ()
    writes: Sequence[str] | None = None
    """Metrics it provides, globs allowed; `{I}` stands for the callback's interval label."""
    critical: bool = False
    on_error: OnError = "raise"
    averages: Mapping[str, Callable[[Any], Mapping[str, Any]]] = field(default_factory=dict)
    """Weights that it keeps: by name, a function from its memory to tensors by their names."""
    origin: Origin | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for choice, known in (("point", get_args(Point)), ("on_error", get_args(OnError))):
            if getattr(self, choice) not in known:
                found = f"{choice} is {getattr(self, choice)!r}"
                raise ValueError(f"callback {self.name!r}: {found}; expected one of {known}")
        for promise in ("reads", "reads_optional", "writes"):
            if isinstance(getattr(self, promise), str):
                raise TypeError(f"callback {self.name!r}: {promise} is a string; write a list")
            if getattr(self, promise) is not None:
                object.__setattr__(self, promise, tuple(getattr(self, promise)))

    @property
    def label(self) -> str:
        """The interval of a plain `every` (`E1`, `U50`, `S640`, `T30s`), else the name."""
        return interval(self.schedule) or self.name

    def named(self, name: str) -> "Callback":
        """The same callback under another name."""
        return replace(self, name=name)

    def narrow(self, schedule: "Schedule") -> "Callback":
        """The same callback, its schedule narrowed to `schedule & its own`."""
        if self.on_schedule is None:
            raise TypeError(
                f"callback {self.name!r} has no on_schedule hook, so {schedule} would change "
                "nothing; leave it out of the decorated part"
            )
        inner = self.schedule
        return replace(self, schedule=schedule if inner is None else schedule & inner)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Callback):
            return NotImplemented
        return self is other or (self.origin is not None and identity(self) == identity(other))

    def __hash__(self) -> int:
        return object.__hash__(self) if self.origin is None else hash(identity(self))

    def __repr__(self) -> str:
        made = str(self.origin) if self.origin else "local functions"
        return f"<{self.name}: {made}{'' if self.schedule is None else f', {self.schedule}'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise TypeError(
                f"callback {self.name!r} is made of local functions and cannot be pickled; define "
                "them at module level, or make it in a function decorated with @factory"
            )
        return rebuild, (*identity(self), _beside(self))


Pipeline: TypeAlias = tuple[Callback, ...]


def identity(callback: Callback) -> tuple[Origin | None, str, "Schedule | None"]:
    """What a callback with an origin is compared by."""
    return callback.origin, callback.name, callback.schedule


def rebuild(
    origin: Origin, name: str, schedule: "Schedule | None", beside: Mapping[str, Any]
) -> Callback:
    """Make the callback of `origin` again: the inverse of pickling."""
    made = _found(origin)
    made = callback_from(made) if origin.options is None else made(**origin.options)
    callback: Callback = replace(made, name=name, schedule=schedule, **beside)
    return callback


def _found(origin: Origin) -> Any:
    found: Any = importlib.import_module(origin.module)
    for part in origin.qualname.split("."):
        found = getattr(found, part)
    return found


BESIDE = (
    *("init", "point", "data", "reads", "reads_optional", "writes", "critical", "on_error"),
    "averages",
)
"""What `hook` and `stateful` put around a function."""


def _beside(callback: Callback) -> dict[str, Any]:
    """What was put around a function whose name in its module still means the bare function."""
    origin = callback.origin
    if origin is None or origin.options is not None or isinstance(_found(origin), Callback):
        return {}
    return {name: getattr(callback, name) for name in BESIDE}


def interval(schedule: "Schedule | None") -> str | None:
    """The label of a plain `every` of one counter, None for any other schedule."""
    if schedule is None or schedule.expression.term != "every":
        return None
    if len(schedule.expression.options) != 1:
        return None
    ((unit, count),) = schedule.expression.options
    seconds = {"minutes": 60, "hours": 3600}.get(unit)
    if seconds:
        unit, count = "seconds", count * seconds
    if unit not in INTERVALS:
        return None
    return f"{INTERVALS[unit]}{count}{'s' if unit == 'seconds' else ''}"


def callback_from(target: "Callback | Hook", **fields: Any) -> Callback:
    """A function as a callback named after it; a callback with what `fields` say otherwise."""
    if isinstance(target, Callback):
        usual = {entry.name: entry.default for entry in dataclass_fields(Callback)}
        usual["averages"] = {}
        given = {key: value for key, value in fields.items() if value != usual[key]}
        return replace(target, **given) if given else target
    name = getattr(target, "__name__", type(target).__name__)
    fields = {"on_schedule": target, "origin": origin_of(target), **fields}
    return Callback(name, **fields)


def origin_of(function: Hook) -> Origin | None:
    """The origin of a module-level function; None for lambdas and local functions."""
    qualname = getattr(function, "__qualname__", "<")
    return None if "<" in qualname else Origin(function.__module__, qualname)


def narrowed(schedule: "Schedule", target: Any) -> Any:
    """`schedule` applied as a decorator to a function, a callback or a pipeline."""
    if isinstance(target, tuple | list):
        return tuple(narrowed(schedule, part) for part in target)
    if isinstance(target, Callback):
        return target.narrow(schedule)
    if not callable(target):
        raise TypeError(f"{schedule} decorates a function, a callback or a pipeline: {target!r}")
    return callback_from(target, schedule=schedule)


def hook(
    function: Hook | None = None,
    /,
    *,
    point: Point = "tick",
    data: DataPass | None = None,
    reads: Iterable[str] | None = None,
    reads_optional: Iterable[str] = (),
    writes: Iterable[str] | None = None,
    critical: bool = False,
    on_error: OnError = "raise",
) -> Any:
    """Decorate a function `state -> effects` with what it promises; schedules go around it.

    >>> @hook(point="before_update", writes=["gradient/norm"])
    ... def gradient_norm(state): ...
    >>> gradient_norm.name, gradient_norm.point
    ('gradient_norm', 'before_update')
    """
    fields = {key: value for key, value in locals().items() if key != "function"}
    if function is not None:
        return callback_from(function, **fields)
    return lambda function: callback_from(function, **fields)


def stateful(
    init: Hook,
    *,
    point: Point = "tick",
    data: DataPass | None = None,
    reads: Iterable[str] | None = None,
    reads_optional: Iterable[str] = (),
    writes: Iterable[str] | None = None,
    critical: bool = False,
    on_error: OnError = "raise",
    averages: Mapping[str, Callable[[Any], Mapping[str, Any]]] | None = None,
) -> Callable[[Hook], Callback]:
    """Decorate a function `(state, memory) -> (memory, effects)`; `init(state)` begins the memory.

    averages: weights that it keeps, for data passes to evaluate: by name, a function from the
        memory to tensors by the names of the model's parameters and buffers.

    >>> @stateful(init=lambda state: 0)
    ... def count(state, n):
    ...     return n + 1, None
    >>> count.init(None)
    0
    """
    fields = locals() | {"averages": averages or {}}
    return lambda function: callback_from(function, **fields)


def chain(*parts: "Callback | Pipeline | Hook") -> Pipeline:
    """One pipeline from callbacks, pipelines and plain functions, in declaration order.

    >>> [callback.name for callback in chain(Callback("a"), chain(Callback("b")))]
    ['a', 'b']
    """
    callbacks: list[Callback] = []
    for part in parts:
        if isinstance(part, tuple | list):
            callbacks.extend(chain(*part))
        elif is_factory(part) or isinstance(part, type):
            name = getattr(part, "__name__", "it")
            raise TypeError(f"{name} makes callbacks: write {name}(...)")
        elif callable(part) or isinstance(part, Callback):
            callbacks.append(callback_from(part))
        else:
            raise TypeError(f"chain takes callbacks, functions and pipelines: {part!r}")
    return tuple(callbacks)


def factory(function: Callable[P, T]) -> Callable[P, T]:
    """Declare that YAML may call `function`; the callbacks it returns remember their origin.

    >>> @factory
    ... def tracer(*, group: str = "default"):
    ...     return Callback("tracer", after_update=lambda state: None)
    >>> tracer(group="head") == tracer(group="head")
    True
    """
    if isinstance(function, type):
        function.__noether_factory__ = function  # type: ignore[attr-defined]
        return function
    signature = inspect.signature(function)
    kinds = {parameter.kind: name for name, parameter in signature.parameters.items()}
    rest = kinds.get(inspect.Parameter.VAR_KEYWORD)

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> T:
        made = function(*args, **kwargs)
        if not isinstance(made, Callback):
            return made
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        options = {k: v for k, v in bound.arguments.items() if k not in ("name", "schedule")}
        options |= options.pop(rest, {}) if rest else {}
        origin = Origin(function.__module__, function.__qualname__, options)
        return replace(made, origin=origin)

    build.__noether_factory__ = build  # type: ignore[attr-defined]
    return build


def is_factory(value: Any) -> bool:
    """Whether `value` itself was declared with `factory`; wrappers and subclasses were not."""
    return callable(value) and getattr(value, "__noether_factory__", None) is value
