"""A `trainer:` section as other projects write it, as our `run:` and `callbacks:`."""

from collections.abc import Iterator, Mapping
from typing import Any

from noether.config.document import Path
from noether.config.hints import Mistake
from noether.config.stages import Stage
from noether.config.words import found
from noether.errors import suggestion

UNTIL = {f"max_{unit}": unit for unit in ("epochs", "updates", "samples")}
INTERVALS = {
    f"{kind}_every_n_{unit}": (kind, unit)
    for kind in ("log", "track")
    for unit in ("epochs", "updates", "samples")
}
SAME = {
    "effective_batch_size": "batch_size",
    "use_torch_compile": "compile",
    "add_default_callbacks": "defaults",
    "seed": "seed",
}
PRECISION = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "32": "fp32"}
OTHERS = ("callbacks", "max_batch_size", "precision", "skip_nan_loss", "skip_nan_loss_max_count")
KNOWN = (*UNTIL, *INTERVALS, *SAME, *OTHERS)
MOST_SKIPPED = 100


def trainer(config: Any) -> Stage:
    """The configuration with what `trainer:` says in `run:` and `callbacks:`."""
    if not isinstance(config, Mapping) or "trainer" not in config:
        return Stage(config)
    section = config["trainer"]
    if not isinstance(section, Mapping):
        wrong = Mistake(("trainer",), f"expected a mapping, found {found(section)}")
        return Stage({k: v for k, v in config.items() if k != "trainer"}, mistakes=[wrong])
    section = {key: value for key, value in section.items() if value is not None}
    stage = Stage(None, mistakes=list(_mistakes(section)))
    run: dict[str, Any] = {}
    for key, name, value in _options(section):
        if name in run:
            said = f"{name} is said twice; give one of {', '.join(_family(key))}"
            stage.mistakes.append(Mistake(("trainer", key), said))
        run[name] = value
        stage.moved["run", name] = ("trainer", key)
    stage.config = _joined(config, run, section, stage)
    stage.notes += [
        Mistake(stage.moved["run", name], f"{stage.moved['run', name][-1]} is `run.{name}` here")
        for name in run
        if ("run", name) in stage.moved
    ]
    stage.notes += _idle(section)
    return stage


def _mistakes(section: Mapping[str, Any]) -> Iterator[Mistake]:
    for key in section:
        if key not in (*KNOWN, "kind"):
            yield Mistake(("trainer", key), f"unknown option; {suggestion(str(key), KNOWN)}")
    if not _is_count(most := section.get("max_batch_size", 1)):
        expected = "expected an integer of at least 1"
        yield Mistake(("trainer", "max_batch_size"), f"{expected}, found {found(most)}")
    if not isinstance(skip := section.get("skip_nan_loss", False), bool):
        expected = "expected true or false"
        yield Mistake(("trainer", "skip_nan_loss"), f"{expected}, found {found(skip)}")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _options(section: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """What it says: the key there, and name and value in `run:`."""
    for key, value in section.items():
        if key in UNTIL:
            yield key, "until", {UNTIL[key]: value}
        elif key in INTERVALS:
            kind, unit = INTERVALS[key]
            yield key, kind, f"every({unit}={value})"
        elif key in SAME:
            yield key, SAME[key], value
        elif key == "precision":
            yield key, "precision", PRECISION.get(str(value), value)
        elif key == "max_batch_size" and "effective_batch_size" in section:
            yield key, "accumulate", _accumulate(section["effective_batch_size"], value)
        elif key == "skip_nan_loss":
            limit = section.get("skip_nan_loss_max_count", MOST_SKIPPED)
            yield key, "on_nonfinite", {"skip": limit} if value is True else "raise"


def _idle(section: Mapping[str, Any]) -> Iterator[Mistake]:
    """What has no effect alone."""
    for key, other in (
        ("max_batch_size", "effective_batch_size"),
        ("skip_nan_loss_max_count", "skip_nan_loss"),
    ):
        if key in section and other not in section:
            yield Mistake(("trainer", key), f"does nothing without {other}; left out")


def _accumulate(whole: Any, most: Any) -> Any:
    """The fewest equal micro-batches of at most so many samples."""
    if not (_is_count(whole) and _is_count(most)):
        return 1  # what they should be is told elsewhere
    return next(n for n in range(1, whole + 1) if whole % n == 0 and whole // n <= most)


def _family(key: str) -> list[str]:
    """Keys of which one is given."""
    for family in (UNTIL, INTERVALS):
        if key in family:
            return [name for name in family if name.split("_every")[0][:3] == key[:3]]
    return [key]


def _joined(
    config: Mapping[str, Any], run: Mapping[str, Any], section: Mapping[str, Any], stage: Stage
) -> dict[str, Any]:
    """The configuration without `trainer:`; what is said on both sides is a mistake."""
    joined = {key: value for key, value in config.items() if key != "trainer"}
    own = joined.get("run", {})
    own = own if isinstance(own, Mapping) else {}
    for name in run.keys() & own.keys():
        key = stage.moved.pop(("run", name))
        _twice(stage, key, f"run.{name}")
    if isinstance(joined.get("run", {}), Mapping):  # else it is told later what is expected
        joined["run"] = {**run, **own}
    if "callbacks" in section:
        if "callbacks" in joined and joined["callbacks"] != section["callbacks"]:
            _twice(stage, ("trainer", "callbacks"), "callbacks")
        joined["callbacks"] = section["callbacks"]
        stage.moved["callbacks",] = ("trainer", "callbacks")
    return joined


def _twice(stage: Stage, path: Path, where: str) -> None:
    stage.mistakes.append(Mistake(path, f"{where} says that already; leave one of them out"))
