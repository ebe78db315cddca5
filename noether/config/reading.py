"""A run from a YAML file: checked as a whole, built when asked to."""

import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from noether.callback import Pipeline
from noether.config.document import open_document
from noether.config.entries import (
    flow_mistakes,
    read_entries,
    uncounted_units,
    unknown_datasets,
    unknown_weights,
    written_schedule,
)
from noether.config.hints import Mistake
from noether.config.overrides import dotted, overridden
from noether.config.recipe import Recipe, read_recipe
from noether.config.references import references
from noether.config.stages import Addresses, Moved
from noether.config.structure import parameters, structured
from noether.config.tracking import read_trackers
from noether.config.trainer import trainer
from noether.config.translation import translated
from noether.config.words import found
from noether.errors import ConfigurationError, Problem, suggestion

if TYPE_CHECKING:
    from noether.state import TrainState


SECTIONS = ("run", "model", "data", "loss", "optimizer", "lr_scheduler", "callbacks")
ELSEWHERE = {
    *("model", "train_set", "loss", "optimizer", "collate", "callbacks", "datasets"),
    *("lr_scheduler", "config", "clock", "trackers"),
}
"""Arguments of `train` that are no plain keywords of `run:`."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a configuration says: callbacks made, everything else ready to be built."""

    callbacks: Pipeline
    config: Mapping[str, Any]
    """The resolved configuration, as plain values."""
    arguments: Mapping[str, Any]
    """Keyword arguments of `noether.train` that need no building."""
    parts: Mapping[str, Any]
    """The recipes of model, train_set, datasets and loss, or mappings from name to recipe."""
    places: Mapping[str, str] = field(default_factory=dict, compare=False)
    """By the name of a callback, where the file says when it runs: FILE:LINE."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What the file says in words of another project, and how it is written here."""

    def build(self) -> dict[str, Any]:
        """All keyword arguments of `noether.train`; the seed is set before the model is made."""
        from noether.randomness import seed_all  # torch, late

        seed_all(self.arguments.get("seed", 0))
        return {**{name: built(part) for name, part in self.parts.items()}, **self.arguments}

    def train(self, **more: Any) -> "TrainState":
        """Build and train; `more` are further arguments of `noether.train`."""
        from noether.training import train  # torch, late

        return train(**{**self.build(), **more})

    def evaluate(self, run: str | FilePath | None = None, **more: Any) -> "TrainState":
        """Build all but the training set and evaluate a run; `more` goes to `noether.evaluate`."""
        from noether.evaluation import evaluate  # torch, late

        shared = {key: self.arguments[key] for key in EVALUATED if key in self.arguments}
        names = ("model", "loss", "datasets", *({"actions"} & self.parts.keys()))
        built_parts = {key: built(self.parts[key]) for key in names}
        return evaluate(**built_parts, callbacks=self.callbacks, run=run, **{**shared, **more})


EVALUATED = ("batch_size", "workers", "precision", "seed", "parallel", "device", "trackers")
"""The keywords in `run:` that an evaluation shares with training."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Named losses as one."""

    losses: Mapping[str, Any]

    def __call__(self, model: Any, batch: Any) -> dict[str, Any]:
        """The losses by name; of one that gives outputs too, only the loss."""
        values = {name: loss(model, batch) for name, loss in self.losses.items()}
        return {name: v[0] if isinstance(v, tuple) else v for name, v in values.items()}


@dataclass(frozen=True, slots=True)
class Summed:
    """The recipe of named losses."""

    losses: Mapping[str, Any]

    def __call__(self) -> Sum:
        """Make each of them."""
        return Sum(built(self.losses))


def built(part: Any) -> Any:
    return {name: made() for name, made in part.items()} if isinstance(part, Mapping) else part()


def load(path: str | FilePath, overrides: Iterable[str] = (), allow: Collection[str] = ()) -> Run:
    """Read and check the configuration at `path`, with `key=value` overrides.

    `allow` are packages whose factories the file may name besides those of noether and torch.
    Raises ConfigurationError with every mistake, each with file and line; nothing is built yet.
    """
    document = open_document(path)
    config, first = overridden(document, str(path), overrides)
    places: Addresses = first
    problems: list[Problem] = [*document.problems]
    notes: list[Problem] = []
    for rewrite in (references, trainer, translated):
        stage = rewrite(config)
        problems += located(stage.mistakes, places)
        notes += located(stage.notes, places)
        config, places = stage.config, Moved(places, stage.moved)
    reading = Reading(config, tuple(allow), places, [])
    run = reading.run()
    problems += located(reading.mistakes, places)
    if problems or run is None:
        problems.sort(key=line_of)
        raise ConfigurationError(problems)
    return replace(run, notes=tuple(map(str, notes)))


def line_of(problem: Problem) -> float:
    """The line of the file that a problem stands at; those of overrides come last."""
    line = re.search(r":(\d+)(:\d+)?$", problem.where)
    return int(line[1]) if line else float("inf")


def located(mistakes: Iterable[Mistake], places: Addresses) -> list[Problem]:
    """Problems in the order of the file."""
    ordered = sorted(
        dict.fromkeys(mistakes), key=lambda m: (places.of(m.path)[:2], dotted(m.path), m.message)
    )
    return [
        Problem(f"{dotted(m.path)}: {m.message}" if m.path else m.message, places.of(m.path)[2])
        for m in ordered
    ]


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration being read, and its mistakes so far."""

    config: Any
    allow: tuple[str, ...]
    places: Addresses
    mistakes: list[Mistake]

    def run(self) -> Run | None:
        """The run, if there was no mistake on the way."""
        if not isinstance(self.config, Mapping):
            expected = f"expected a mapping of {', '.join(SECTIONS)}"
            self.mistakes.append(Mistake((), f"{expected}, found {found(self.config)}"))
            return None
        for name in self.config:
            if name not in SECTIONS:
                self.note(f"unknown section; {suggestion(name, SECTIONS)}", name)
        options = self.options()
        parts = {"model": self.recipe("model"), **self.data(), "loss": self.loss()}
        parts |= {name: options.pop(name) for name in ("counters", "actions") if name in options}
        optimizer = self.recipe("optimizer", supplied="params")
        arguments = {**options, "optimizer": optimizer, "config": self.config}
        if "lr_scheduler" in self.config:
            arguments["lr_scheduler"] = self.recipe("lr_scheduler", supplied="optimizer")
        arguments["callbacks"], where = self.callbacks(options, parts)
        return Run(arguments["callbacks"], self.config, arguments, parts, where)

    def address(self, *path: str | int) -> str:
        """FILE:LINE of a part of the configuration."""
        return self.places.of(path)[2]

    def note(self, message: str, *path: str | int) -> None:
        self.mistakes.append(Mistake(path, message))

    def recipe(self, *path: str, supplied: str | None = None) -> Recipe | None:
        """The recipe of a section, or of an entry in it."""
        entry = self.config
        for step in path:
            if step not in entry:
                self.note("missing; expected a mapping with a `kind`", *path)
                return None
            entry = entry[step]
        where = self.address(*path)
        recipe, mistakes = read_recipe(entry, self.allow, supplied=supplied, where=where)
        self.mistakes.extend(mistake.under(*path) for mistake in mistakes)
        return recipe

    def data(self) -> dict[str, Any]:
        """The recipes of the training set and of the evaluation sets."""
        data = self.config.get("data", {})
        if not isinstance(data, Mapping):
            self.note(f"expected a mapping with `train`, found {found(data)}", "data")
            return {"datasets": None}
        datasets = {name: self.recipe("data", name) for name in data if name != "train"}
        return {"train_set": self.recipe("data", "train"), "datasets": datasets}

    def loss(self) -> Any:
        """The recipe of the loss, or of the sum of named losses."""
        entry = self.config.get("loss")
        named = isinstance(entry, Mapping) and "kind" not in entry
        if not named or not all(isinstance(part, Mapping) for part in entry.values()) or not entry:
            return self.recipe("loss")
        return Summed({name: self.recipe("loss", name) for name in entry})

    def options_written(self) -> Mapping[str, Any]:
        """What stands in `run:`; nothing if that is no mapping."""
        entry = self.config.get("run", {})
        return entry if isinstance(entry, Mapping) else {}

    def options(self) -> dict[str, Any]:
        """The keywords of `train` in `run:`; those that are wrong left out."""
        from noether.training import train  # torch, late
        from noether.weights import InitFrom

        taken = {n: p for n, p in parameters(train).items() if n not in ELSEWHERE}
        taken["dir"] = taken.pop("run_dir")
        taken["init_from"] = taken["init_from"].replace(annotation=str | InitFrom | None)
        entry = self.config.get("run", {})
        if not isinstance(entry, Mapping):
            self.note(f"expected a mapping, found {found(entry)}", "run")
        written = dict(self.options_written())
        trackers, wrong = read_trackers(written.pop("trackers", []))
        self.mistakes.extend(mistake.under("run", "trackers") for mistake in wrong)
        values, mistakes = structured(taken, written, partial(read_recipe, allow=self.allow))
        self.mistakes.extend(mistake.under("run") for mistake in mistakes)
        values |= {"trackers": trackers} if trackers else {}
        if "dir" in values:
            values["run_dir"] = values.pop("dir")
        return values

    def callbacks(
        self, options: Mapping[str, Any], parts: Mapping[str, Any]
    ) -> tuple[Pipeline, dict[str, str]]:
        """The pipeline of `callbacks:`, checked together with the default callbacks, and where
        each of them says when it runs.
        """
        written = self.config.get("callbacks", [])
        entries, mistakes = read_entries(written, self.allow)
        written = written if isinstance(written, list) else []
        if parts["datasets"] is not None:
            mistakes += unknown_datasets(entries, written, parts["datasets"])
        counters = parts.get("counters") or self.options_written().get("counters") or {}
        mistakes += uncounted_units(entries, written, counters)
        pipeline = tuple(callback for _, callback in entries)
        defaults = self.defaults(options, pipeline)
        if not mistakes:
            mistakes += unknown_weights(entries, written, defaults)
        # Without data the horizon is unknown, and with it the labels of the default losses.
        unlabelled = ("loss/online/*", "optim/*") if defaults else ()
        read = {index for index, _ in entries}
        unread = [entry for i, entry in enumerate(written) if i not in read] if mistakes else []
        mistakes += flow_mistakes(entries, defaults, excused=unlabelled, unread=unread)
        self.mistakes.extend(mistake.under("callbacks") for mistake in mistakes)
        self.check_values(options, pipeline)
        return pipeline, {
            callback.name: self.address("callbacks", index, *written_schedule(written[index]))
            for index, callback in entries
        }

    def defaults(self, options: Mapping[str, Any], pipeline: Pipeline) -> Pipeline:
        """The callbacks that training adds by itself."""
        from noether.defaults import with_defaults  # torch, late
        from noether.progress import Progress

        chosen = {"defaults": True, "log": None, "track": None, **options}
        chosen = {name: chosen[name] for name in ("defaults", "log", "track")}
        saves = options.get("run_dir") is not None
        unknown: Any = Progress(None, None, None, None)
        try:
            everything = with_defaults(pipeline, unknown, saves=saves, **chosen)
        except ConfigurationError as error:
            for problem in error.problems:
                self.note(problem.message.removeprefix("defaults: "), "run", "defaults")
            return ()
        return everything[: len(everything) - len(pipeline)]

    def check_values(self, options: Mapping[str, Any], pipeline: Pipeline) -> None:
        """Check the values of `run:` as `train` does, before anything is built."""
        from noether.arguments import checked  # torch, late
        from noether.training import train

        usual = {name: p.default for name, p in inspect.signature(train).parameters.items()}
        given = {**usual, "until": {"epochs": 1}, **options, "datasets": None}
        try:
            checked(given, without_data(pipeline), built=False)
        except ConfigurationError as error:
            for problem in error.problems:
                name = re.split(r"\W", problem.message)[0]
                message = problem.message.removeprefix(f"{name}: ")
                option = {"run_dir": "dir"}.get(name, name)
                self.note(message, "run", *([option] if name in usual else []))


def without_data(pipeline: Pipeline) -> Pipeline:
    """Without those that need data sets, which are checked with their lines."""
    return tuple(callback for callback in pipeline if callback.data is None)
