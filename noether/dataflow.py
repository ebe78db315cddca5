"""The order of a pipeline by what each callback reads and writes, and what is wrong with it."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from noether.callback import Callback, Pipeline
from noether.errors import ConfigurationError, suggestion
from noether.schedules.units import counters


def needed(callback: Callback) -> frozenset[str]:
    """The metrics without which the callback cannot act: its own reads and its schedule's."""
    return frozenset(callback.reads or ()) | scheduled(callback)


def scheduled(callback: Callback) -> frozenset[str]:
    """The metrics its schedule is about."""
    return frozenset() if callback.schedule is None else callback.schedule.reads


def writes(callback: Callback) -> tuple[str, ...]:
    """The metrics it promises, its interval label filled in."""
    return tuple(key.replace("{I}", callback.label) for key in callback.writes or ())


def overlap(one: str, other: str) -> bool:
    """Whether a name or glob matches another."""
    return one == other or fnmatchcase(one, other) or fnmatchcase(other, one)


def writers(metric: str, pipeline: Sequence[Callback]) -> Iterator[int]:
    """Positions of the callbacks that promise `metric`."""
    for position, callback in enumerate(pipeline):
        if any(overlap(metric, key) for key in writes(callback)):
            yield position


def order(pipeline: Pipeline) -> Pipeline:
    """The pipeline in dataflow order, ties as declared.

    Raises `ConfigurationError` with every mistake: two callbacks of one name, two writers of one
    metric, a metric that nobody declares to write, a circle, and terms that a hook's point cannot
    answer.
    """
    problems = [message for _, message in mistakes(pipeline)]
    if problems:
        raise ConfigurationError(problems)
    return tuple(pipeline[position] for position in _sorted(pipeline))


def mistakes(pipeline: Pipeline) -> list[tuple[int, str]]:
    """Every mistake, with the position of the callback it is about."""
    return [
        *_same_names(pipeline),
        *_same_metrics(pipeline),
        *_unwritten(pipeline),
        *_early_terms(pipeline),
        *_circles(pipeline),
    ]


def _same_names(pipeline: Pipeline) -> Iterator[tuple[int, str]]:
    seen: dict[str, int] = {}
    for position, callback in enumerate(pipeline):
        if callback.name in seen:
            yield (
                position,
                (
                    f"two callbacks are named {callback.name!r}, and memory is kept by name; "
                    "give one of them another `name`"
                ),
            )
        seen[callback.name] = position


def _same_metrics(pipeline: Pipeline) -> Iterator[tuple[int, str]]:
    for position, callback in enumerate(pipeline):
        for key in writes(callback):
            for earlier in writers(key, pipeline[:position]):
                first = pipeline[earlier].name
                if first != callback.name:  # which is told as such
                    pair = f"{first!r} and {callback.name!r}"
                    yield position, f"{pair} both write {key}; a metric has one writer"


def _unwritten(pipeline: Pipeline) -> Iterator[tuple[int, str]]:
    declared = sorted({key for callback in pipeline for key in writes(callback)})
    for position, callback in enumerate(pipeline):
        for metric in sorted(needed(callback)):
            if not any(True for _ in writers(metric, pipeline)):
                hint = suggestion(metric, declared)
                known = f"written here: {', '.join(declared) or 'nothing'}"
                end = f". {hint}" if hint.startswith("Did") else ""
                yield (
                    position,
                    f"{callback.name!r} reads {metric}, which nothing writes; {known}{end}",
                )


def _early_terms(pipeline: Pipeline) -> Iterator[tuple[int, str]]:
    for position, callback in enumerate(pipeline):
        unknown = {
            "metrics": bool(scheduled(callback)),
            "the clock": callback.schedule is not None and callback.schedule.clocked,
            "a counter": callback.schedule is not None
            and bool(counters(callback.schedule.expression)),
            "a data pass": callback.data is not None,
        }
        asked = " and ".join(what for what, there in unknown.items() if there)
        if asked and callback.point != "tick":
            yield (
                position,
                f"{callback.name!r} runs at {callback.point} and depends on {asked}, "
                "not known there; let it run at the end of the tick",
            )


def edges(pipeline: Pipeline) -> list[frozenset[int]]:
    """For each callback the positions of those it must run after."""
    return [
        frozenset({*_read(callback, pipeline), *_completing(callback, pipeline)} - {position})
        for position, callback in enumerate(pipeline)
    ]


def _read(callback: Callback, pipeline: Pipeline) -> Iterator[int]:
    for metric in needed(callback) | frozenset(callback.reads_optional):
        yield from writers(metric, pipeline)


def _completing(callback: Callback, pipeline: Pipeline) -> Iterator[int]:
    """Positions of those whose own pass completes the average that the callback's is made with."""
    for position, each in enumerate(pipeline):
        taken = callback.data is not None and callback.data.weights in (each.name, *each.averages)
        if taken and each.averages and each.data is not None:
            yield position


def _sorted(pipeline: Pipeline) -> list[int]:
    """Positions in dataflow order, always the earliest declared that is free; short on a circle."""
    waiting = [set(after) for after in edges(pipeline)]
    free = [position for position, after in enumerate(waiting) if not after]
    done: list[int] = []
    while free:
        position = heapq.heappop(free)
        done.append(position)
        for other, after in enumerate(waiting):
            if position in after:
                after.remove(position)
                if not after:
                    heapq.heappush(free, other)
    return done


def _circles(pipeline: Pipeline) -> Iterator[tuple[int, str]]:
    after = edges(pipeline)
    stuck = set(range(len(pipeline))) - set(_sorted(pipeline))
    while outside := stuck - frozenset[int]().union(*(after[position] for position in stuck)):
        stuck -= outside  # they only read what comes from the circle
    if stuck:
        names = ", ".join(repr(pipeline[position].name) for position in sorted(stuck))
        wait = f"{names} read each other's metrics in a circle; one of them must read less"
        yield min(stuck), wait


def matches(metric: str, keys: Iterable[str]) -> bool:
    """Whether `metric` is one of `keys`, globs allowed."""
    return any(fnmatchcase(metric, key) for key in keys)
