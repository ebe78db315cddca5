"""The `callbacks:` of a configuration: entries as a pipeline, with every mistake in them."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from noether import dataflow
from noether.callback import Callback, Pipeline
from noether.config.aliases import instead, is_class, ours, refused
from noether.config.hints import Mistake
from noether.config.recipe import made, named, read_recipe
from noether.config.resolve import trusted
from noether.config.structure import parameters, structured
from noether.config.words import found
from noether.errors import suggestion
from noether.schedules import Schedule, every

EVERY = {f"every_n_{unit}": unit for unit in ("epochs", "updates", "samples")}
SETTINGS: Mapping[str, Any] = {"name": str, "schedule": Schedule, **dict.fromkeys(EVERY, int)}


def setting(name: str) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=SETTINGS[name]
    )


def read_entries(
    entries: Any, allow: Collection[str]
) -> tuple[list[tuple[int, Callback]], list[Mistake]]:
    """The callbacks that could be made, each with its entry's index, and every mistake."""
    if not isinstance(entries, list):
        return [], [
            Mistake((), f"expected a list of mappings with a `kind`, found {found(entries)}")
        ]
    callbacks: list[tuple[int, Callback]] = []
    mistakes: list[Mistake] = []
    for index, entry in enumerate(entries):
        callback, wrong = read_entry(entry, allow)
        mistakes.extend(mistake.under(index) for mistake in wrong)
        if callback is not None:
            callbacks.append((index, callback))
    return callbacks, mistakes


def read_entry(entry: Any, allow: Collection[str]) -> tuple[Callback | None, list[Mistake]]:
    """The callback of one entry, or its mistakes.

    `name` and the schedule go to the factory where it takes them, else to what it returns.
    """
    try:
        factory = factory_of(entry, allow)
    except LookupError as error:
        path = ("kind",) if isinstance(entry, Mapping) and "kind" in entry else ()
        return None, [Mistake(path, str(error))]
    takes = parameters(factory)
    options = {name: value for name, value in entry.items() if name != "kind"}
    if "id" in options and "id" not in takes:  # what other projects tell their classes apart by
        options["name"] = options.pop("id")
    taken = {**{name: setting(name) for name in SETTINGS}, **takes}
    values, mistakes = structured(taken, options, partial(read_recipe, allow=allow))
    mistakes += too_many(options)
    settings, wrong = timed({name: values.pop(name) for name in SETTINGS if name in values})
    mistakes += wrong
    if any(mistake.path == ("name",) for mistake in mistakes):
        return None, mistakes  # under its usual name it might seem to be another one's double
    given = {name: value for name, value in settings.items() if name in takes}
    rest = {name: value for name, value in settings.items() if name not in takes}
    try:
        callback = finished(factory(**made(values), **given), rest)
    except (TypeError, ValueError, LookupError) as error:
        return None, mistakes or [Mistake((), str(error))]
    return callback, mistakes or unscheduled(callback)


def factory_of(entry: Any, allow: Collection[str]) -> Any:
    """The factory of an entry; LookupError says what is wrong, for a class what is written here."""
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if problem := refused(kind):
        raise LookupError(problem)
    try:
        return named(entry, allow)
    except LookupError as error:
        if not isinstance(kind, str) or not is_class(kind) or ours(kind):
            raise
        own = trusted(kind.rpartition(".")[0], allow)
        raise LookupError(f"{error}; {instead(kind)}" if own else instead(kind)) from error


def unscheduled(callback: Callback) -> list[Mistake]:
    """A mistake where a hook waits for a schedule and nothing gave one."""
    if callback.on_schedule is None or callback.schedule is not None:
        return []
    known = ", ".join(("schedule", *EVERY))
    return [Mistake((), f"nothing says when it runs; give one of {known}")]


def too_many(options: Mapping[str, Any]) -> list[Mistake]:
    """A mistake at each of the ways to say when, beyond the first."""
    said = [name for name in options if name == "schedule" or name in EVERY]
    return [
        Mistake((name,), f"{said[0]} says when already; give one of {', '.join(said)}")
        for name in said[1:]
    ]


def timed(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[Mistake]]:
    """The settings with `every_n_*` as a schedule."""
    result = {name: value for name, value in settings.items() if name not in EVERY}
    mistakes = []
    for name, unit in EVERY.items():
        if name in settings:
            try:
                result["schedule"] = every(**{unit: settings[name]})
            except (TypeError, ValueError) as error:
                mistakes.append(Mistake((name,), str(error)))
    return result, mistakes


def finished(made: Any, settings: Mapping[str, Any]) -> Callback:
    """The callback with what its factory did not take."""
    if not isinstance(made, Callback):
        raise TypeError(f"expected a factory of callbacks, found one of {type(made).__name__}")
    callback = made.named(settings["name"]) if "name" in settings else made
    return callback.narrow(settings["schedule"]) if "schedule" in settings else callback


def unknown_datasets(
    callbacks: Sequence[tuple[int, Callback]], entries: Any, datasets: Collection[str]
) -> list[Mistake]:
    """Data passes over data sets that are not there, at the option that names them."""
    mistakes = []
    for index, callback in callbacks:
        if callback.data is not None and callback.data.dataset not in datasets:
            name = callback.data.dataset
            option = [key for key, value in entries[index].items() if value == name][:1]
            message = f"no evaluation set is named {name!r}; {suggestion(name, datasets)}"
            mistakes.append(Mistake((index, *option), message))
    return mistakes


def unknown_weights(
    callbacks: Sequence[tuple[int, Callback]], entries: Any, defaults: Pipeline
) -> list[Mistake]:
    """Data passes with weights that no callback keeps, at the option that names them."""
    from noether.averages import mistakes  # torch, late

    pipeline = (*defaults, *(callback for _, callback in callbacks))
    return [
        Mistake((index, *[key for key in entries[index] if key == "weights"]), message)
        for index, callback in callbacks
        if callback.data is not None
        for message in mistakes(callback.data, pipeline)
    ]


def uncounted_units(
    callbacks: Sequence[tuple[int, Callback]], entries: Any, counters: Collection[str]
) -> list[Mistake]:
    """Schedules in units that the run does not count, where they are written."""
    from noether.arguments import uncounted  # torch, late

    pipeline = tuple(callback for _, callback in callbacks)
    mistakes = []
    for position, message in uncounted(pipeline, counters):
        index = callbacks[position][0]
        mistakes.append(Mistake((index, *written_schedule(entries[index])), message))
    return mistakes


def written_schedule(entry: Mapping[str, Any]) -> list[str]:
    """The key of an entry that says when it runs, if it has one."""
    return [key for key in entry if key in (*EVERY, "schedule")][:1]


def may_write(entry: Any, metric: str) -> bool:
    """Whether an entry that could not be read may be the writer: it names a part of the metric."""
    values = entry.values() if isinstance(entry, Mapping) else ()
    return any(part in values for part in metric.split("/"))


def flow_mistakes(
    callbacks: Sequence[tuple[int, Callback]],
    defaults: Pipeline,
    *,
    excused: Collection[str],
    unread: Sequence[Any],
) -> list[Mistake]:
    """What is wrong between the callbacks.

    Metrics in `excused` (globs), and those that an `unread` entry may write, need no writer.
    """
    pipeline = (*defaults, *(callback for _, callback in callbacks))
    missing = {
        metric
        for callback in pipeline
        for metric in dataflow.needed(callback)
        if not any(True for _ in dataflow.writers(metric, pipeline))
    }
    forgiven = tuple(
        metric
        for metric in missing
        if dataflow.matches(metric, excused) or any(may_write(entry, metric) for entry in unread)
    )
    wrong = dataflow.mistakes((*pipeline, Callback("(not known)", reads=(), writes=forgiven)))
    indices = [index for index, _ in callbacks]
    return [
        Mistake(() if position < len(defaults) else (indices[position - len(defaults)],), message)
        for position, message in wrong
    ]
