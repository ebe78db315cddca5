"""A schedule: one frozen value that is predicate, decorator and algebra."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, overload

from noether.progress import Progress
from noether.schedules.expression import Expression

if TYPE_CHECKING:
    from noether.callback import Callback

Memory: TypeAlias = Any
"""Numbers, strings, booleans, None and tuples of these; None where nothing is remembered."""

NO_METRICS: Mapping[str, float] = MappingProxyType({})
NO_NAMES: frozenset[str] = frozenset()


class Moment(Protocol):
    """What a schedule may look at; a `Tick` and a `TrainState` both have it."""

    @property
    def before(self) -> Progress: ...
    @property
    def now(self) -> Progress: ...
    @property
    def event(self) -> str: ...
    @property
    def total(self) -> Progress | None: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def fresh(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick of a run, as a schedule sees it.

    >>> Tick(Progress(update=4), Progress(update=5)).event
    'update'
    """

    before: Progress
    now: Progress
    event: Literal["start", "update", "end"] = "update"
    total: Progress | None = None
    """The horizon; a count that isn't known is None."""
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    fresh: frozenset[str] = NO_NAMES
    """The metrics produced in this tick."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known about the ticks to come."""

    total: Progress | None = None
    samples_per_update: int | None = None
    """No update takes more samples."""
    updates_per_epoch: int | None = None
    """No epoch has fewer updates, past epochs included."""


Asks: TypeAlias = Callable[[Moment], bool]
Step: TypeAlias = Callable[[Moment, Memory], tuple[bool, Memory]]
Ahead: TypeAlias = Callable[[Progress, Pace], int | None]
Rests: TypeAlias = Callable[[Progress, Pace], tuple[int | None, Any]]


@dataclass(frozen=True, slots=True, repr=False)
class Schedule:
    """When something happens: marks on the time line, fired by the tick that passes them.

    Made by `every`, `at`, `after` and their kin, joined with `&`, `|`, `~`; as a decorator it
    makes a callback of a function, and narrows a callback or a pipeline. Two schedules are equal
    when they are written alike.

    >>> from noether.schedules import after, every
    >>> schedule = every(updates=5) & after(updates=8)
    >>> schedule
    every(updates=5) & after(updates=8)
    >>> [u for u in range(1, 20) if schedule.fires(Progress(update=u - 1), Progress(update=u))]
    [10, 15]
    """

    expression: Expression
    asks: Asks = field(compare=False)
    """Whether it fires in a tick; one that remembers answers from its initial memory."""
    step: Step = field(compare=False)
    """From a tick and the memory so far to the answer and the memory to keep."""
    ahead: Ahead = field(compare=False)
    """The function behind `next_update`."""
    initial: Memory = field(default=None, compare=False)
    """What a schedule that remembers starts from; None for all others."""
    reads: frozenset[str] = field(default=NO_NAMES, compare=False)
    """The metrics its terms are about."""
    clocked: bool = field(default=False, compare=False)
    """A term about seconds is in it."""
    predicted: bool = field(default=True, compare=False)
    """It looks at epochs, updates, samples and events alone: its firings are known beforehand."""
    needs_total: bool = field(default=False, compare=False)
    """A term about a fraction of the run is in it, which needs a horizon known in updates."""
    awaits: frozenset[str] | None = field(default=None, compare=False)
    """Metrics: on an update's tick that produced none of them it neither fires nor changes its
    memory. None: counts decide when to ask it."""
    rests: Rests | None = field(default=None, compare=False)
    """The next update and the next training time, in nanoseconds, at which it could fire: whatever
    comes first. None: `ahead` says it alone."""

    @property
    def term(self) -> str:
        """The outermost term: `every`, `&`, `once_at_end` ..."""
        return self.expression.term

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The term's positional arguments, then its options as pairs of name and value."""
        return self.expression.arguments + self.expression.options

    def fires(
        self,
        before: Progress,
        now: Progress,
        *,
        event: Literal["start", "update", "end"] = "update",
        total: Progress | None = None,
        metrics: Mapping[str, float] = NO_METRICS,
        fresh: frozenset[str] = NO_NAMES,
    ) -> bool:
        """Whether it fires in the tick that led from `before` to `now`.

        A schedule that remembers answers as if this were its first tick; `step` carries memory.
        """
        return self.asks(Tick(before, now, event, total, metrics, fresh))

    def next_update(
        self,
        now: Progress,
        *,
        total: Progress | None = None,
        samples_per_update: int | None = None,
        updates_per_epoch: int | None = None,
    ) -> int | None:
        """The next update, as a lower bound, at which it could fire or its memory change.

        Exact for plain `every` and `at` of updates; None: never again on an update's tick (the
        opening and closing ticks are always to be asked). `samples_per_update` is the most an
        update takes; `updates_per_epoch` the fewest an epoch has, past epochs included.
        """
        return self.ahead(now, Pace(total, samples_per_update, updates_per_epoch))

    @overload
    def __call__(self, target: "tuple[Callback, ...]") -> "tuple[Callback, ...]": ...
    @overload
    def __call__(self, target: "Callback | Callable[..., Any]") -> "Callback": ...
    def __call__(self, target: Any) -> Any:
        """Make a callback of a function; narrow a callback, or each one of a pipeline."""
        from noether.callback import narrowed  # callbacks are made of schedules

        return narrowed(self, target)

    def __and__(self, other: "Schedule") -> "Schedule":
        from noether.schedules.algebra import conjunction  # which is made of schedules

        return conjunction(self, operand(self, "&", other))

    def __or__(self, other: "Schedule") -> "Schedule":
        from noether.schedules.algebra import disjunction  # which is made of schedules

        return disjunction(self, operand(self, "|", other))

    __rand__ = __and__  # reached only with what isn't a schedule, to refuse it
    __ror__ = __or__

    def __invert__(self) -> "Schedule":
        from noether.schedules.algebra import negation  # which is made of schedules

        return negation(self)

    def __bool__(self) -> bool:
        raise TypeError(
            f"{self} is a schedule, neither true nor false. "
            "Join schedules with &, | and ~ instead of and, or and not; ask one with fires(...)."
        )

    def __repr__(self) -> str:
        return str(self.expression)

    def __reduce__(self) -> tuple[Callable[..., "Schedule"], tuple[Any, ...]]:
        from noether.schedules.terms import built  # which knows all terms

        return built, (self.expression.term, self.expression.arguments, self.expression.options)


def operand(subject: Schedule, operator: str, other: object) -> Schedule:
    """The other side of an operator, refused unless it is a schedule."""
    if isinstance(other, Schedule):
        return other
    raise TypeError(
        f"{subject} {operator} ...: found {type(other).__name__} {other!r}, not a schedule. "
        "Join schedules such as every(epochs=1) or where(predicate)."
    )


def memoryless(
    expression: Expression,
    asks: Asks,
    ahead: Ahead,
    *,
    reads: frozenset[str] = NO_NAMES,
    clocked: bool = False,
    predicted: bool = True,
    needs_total: bool = False,
    awaits: frozenset[str] | None = None,
    rests: Rests | None = None,
) -> Schedule:
    """A schedule that answers from the tick alone."""

    def step(tick: Moment, memory: Memory) -> tuple[bool, Memory]:
        return asks(tick), memory

    facts = (reads, clocked, predicted, needs_total, awaits, rests)
    return Schedule(expression, asks, step, ahead, None, *facts)


def remembering(
    expression: Expression,
    step: Step,
    initial: Memory,
    ahead: Ahead,
    *,
    parts: Iterable[Schedule] = (),
    reads: frozenset[str] = NO_NAMES,
    clocked: bool = False,
    predicted: bool = True,
    awaits: frozenset[str] | None = None,
) -> Schedule:
    """A schedule that carries memory from tick to tick, perhaps around other schedules."""

    def asks(tick: Moment) -> bool:
        return step(tick, initial)[0]

    parts = tuple(parts)
    return Schedule(
        expression,
        asks,
        step,
        ahead,
        initial,
        reads.union(*(part.reads for part in parts)),
        clocked or any(part.clocked for part in parts),
        predicted and all(part.predicted for part in parts),
        any(part.needs_total for part in parts),
        awaits,
    )


def soon(now: Progress, pace: Pace) -> int:
    """Perhaps at the next update."""
    return int(now.update) + 1


def never_again(now: Progress, pace: Pace) -> None:
    """Not on an update's tick."""
    return
