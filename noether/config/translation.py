"""The entries of `callbacks:` in our own words, whichever of the accepted ones they are in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from noether.config.aliases import CLASSES, LIVE, ours
from noether.config.hints import Mistake
from noether.config.stages import Stage
from noether.config.structure import parameters
from noether.config.words import found as shown

OPTIONS = {
    "dataset_key": "dataset",
    "metric_key": "metric",
    "tolerance": "patience",
    "target_factors": "decay",
    "source_metric_key": "source",
    "target_metric_keys": "targets",
    "optional_target_metric_keys": "optional_targets",
    "model_names": "models",
    "stop_at_epoch": "epoch",
    "stop_at_update": "update",
    "stop_at_sample": "sample",
}
EVERY = {f"every_n_{unit}": unit for unit in ("epochs", "updates", "samples")}


@dataclass(slots=True)
class Entry:
    """One entry on its way."""

    kind: str
    options: dict[str, Any]
    foreign: bool
    """Whether it is written by the name of a class."""
    taken: Mapping[str, Any]
    """The options that it has here."""
    came: dict[str, str] = field(default_factory=dict)
    """By our option, the one that the file has."""
    mistakes: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def translated(config: Any) -> Stage:
    """The configuration with the entries of `callbacks:` in our own words."""
    stage = Stage(config)
    written = config.get("callbacks") if isinstance(config, Mapping) else None
    if not isinstance(written, list):
        return stage
    made: list[Any] = []
    for index, each in enumerate(written):
        stage.moved["callbacks", len(made)] = ("callbacks", index)
        if not isinstance(each, Mapping):
            made.append(each)
        elif (found := _entry(each, stage, index, len(made))) is not None:
            made.append(found)
    stage.config = {**config, "callbacks": made}
    stage.notes = _once_each(stage.notes)
    return stage


def _once_each(notes: Iterable[Mistake]) -> list[Mistake]:
    """The first of the notes that say the same."""
    first: dict[str, Mistake] = {}
    for note in notes:
        first.setdefault(note.message, note)
    return list(first.values())


def _entry(written: Mapping[str, Any], stage: Stage, index: int, place: int) -> Any:
    """One entry in our words; None: there is nothing to write."""
    kind, name = written.get("kind"), ours(written.get("kind"))
    here = ("callbacks", index)
    if name == "eta":
        stage.notes.append(Mistake(here, f"{kind} is left out: {LIVE}"))
        return None
    short = name or str(kind).removeprefix("noether.hooks.")
    from noether import hooks  # torch, late

    if short not in hooks.__all__:
        return dict(written)
    options = {
        key: value
        for key, value in written.items()
        if key != "kind" and (value is not None or name is None)  # theirs: null is not given
    }
    entry = Entry(short, options, name is not None, parameters(getattr(hooks, short)))
    for step in STEPS:
        step(entry)
    if said := _spelling(entry, kind):
        stage.notes.append(Mistake((*here, "kind"), said))
    stage.notes += [Mistake((*here, key), text) for key, text in entry.notes]
    stage.mistakes += [Mistake((*here, key), text) for key, text in entry.mistakes]
    stage.moved |= {("callbacks", place, new): (*here, old) for new, old in entry.came.items()}
    return {"kind": kind if name is None else name, **entry.options}


def _spelling(entry: Entry, kind: Any) -> str:
    """How the kind and the options are written here; nothing where they are."""
    renamed = [f"{old} `{new}`" for new, old in entry.came.items() if OPTIONS.get(old) == new]
    if not entry.foreign:
        return f"{', '.join(renamed)} in {entry.kind} here" if renamed else ""
    return ", its ".join([f"{kind} is `kind: {entry.kind}` here", *renamed])


# ---------------------------------------------------------------- step by step


def _renamed(entry: Entry) -> None:
    """Options by their names here."""
    for old in [key for key in entry.options if key in OPTIONS and key not in entry.taken]:
        new = OPTIONS[old]
        if new in entry.options:
            entry.mistakes.append((old, f"{new} says that already; leave one of them out"))
            entry.options.pop(old)
        elif new in entry.taken:
            entry.options[new] = entry.options.pop(old)
            entry.came[new] = old


def _named(entry: Entry) -> None:
    """Its name: `id` before `name`, and no name of a class."""
    name = entry.options.get("name")
    if isinstance(name, str) and name in CLASSES:
        del entry.options["name"]
    if "id" in entry.options:
        entry.options["name"] = entry.options.pop("id")
        entry.came["name"] = "id"


def _without_batch_size(entry: Entry) -> None:
    if "batch_size" in entry.options and "batch_size" not in entry.taken:
        del entry.options["batch_size"]
        entry.notes.append(("batch_size", f"{entry.kind} reads no batches; left out"))


def _without_words(entry: Entry) -> None:
    """Which of several online losses is shown is no option."""
    if "verbose" in entry.options and entry.kind == "online_loss":
        del entry.options["verbose"]
        entry.notes.append(("verbose", "lines show the losses of the longest interval; left out"))


def _without_interval(entry: Entry) -> None:
    """What has no schedule is given none."""
    for key in [key for key in entry.options if key in EVERY and entry.kind == "stop_at"]:
        del entry.options[key]
        entry.notes.append((key, "stop_at looks at every update; left out"))


CHECKPOINT = {
    "save_weights": True,
    "save_optim": False,
    "save_latest_weights": True,
    "save_latest_optim": False,
}


def _checkpoint(entry: Entry) -> None:
    """Which checkpoints stay, and of which only the weights do."""
    said = entry.foreign or CHECKPOINT.keys() & entry.options.keys()
    if entry.kind != "checkpoint" or not said:
        return
    flags = _flags(entry, CHECKPOINT)
    if not any(flags.values()):
        entry.mistakes.append(("kind", "save_* are all false, so nothing is saved; leave it out"))
        return
    if flags["save_optim"]:
        made: dict[str, Any] = {"keep_last": None}
    elif flags["save_weights"]:
        made = {"weights_only": True}
    else:
        made = {"keep_last": 1}
    if entry.options.get("models") is not None and "weights_only" not in made:
        made["export"] = True
    for key in made.keys() & entry.options.keys():
        entry.mistakes.append((key, "save_* say that already; leave one of them out"))
    entry.options |= made
    told = yaml.safe_dump(made, default_flow_style=True).strip()
    entry.notes.append(("kind", f"save_* are {told} here; the newest one is always complete"))


AVERAGES = {"save_weights": True, "save_last_weights": True, "save_latest_weights": False}


def _averages(entry: Entry) -> None:
    """When the averages are exported; every checkpoint holds them."""
    said_so = entry.foreign or AVERAGES.keys() & entry.options.keys()
    if entry.kind != "ema" or not said_so:
        return
    flags = _flags(entry, AVERAGES)
    timed = [key for key in entry.options if key in EVERY]
    if len(timed) > 1 or (timed and "schedule" in entry.options):
        return  # which is told with the rest
    whens = [f"every({EVERY[key]}={entry.options.pop(key)})" for key in timed]
    if not (flags["save_weights"] or flags["save_latest_weights"]):
        whens = []
    whens += ["once_at_end"] if flags["save_last_weights"] else []
    if whens and "schedule" not in entry.options:
        entry.options["schedule"] = " | ".join(whens)
        entry.came |= {"schedule": timed[0]} if timed else {}
    said = "an export takes the place of the one before; every checkpoint holds the averages"
    entry.notes.append(("kind", said))


def _flags(entry: Entry, usual: Mapping[str, bool]) -> dict[str, bool]:
    """The flags that it has, taken out of its options; what is none is a mistake."""
    given = {key: entry.options.pop(key) for key in usual if key in entry.options}
    for key, value in given.items():
        if not isinstance(value, bool):
            entry.mistakes.append((key, f"expected true or false, found {shown(value)}"))
    return {**usual, **given}


STEPS = (
    _named,
    _renamed,
    _without_batch_size,
    _without_words,
    _without_interval,
    _checkpoint,
    _averages,
)
