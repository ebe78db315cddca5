"""The arguments of `train`, checked before anything is built, trained or written."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from noether import averages, passes
from noether.callback import Callback, Pipeline
from noether.console import FORMS
from noether.errors import ConfigurationError, suggestion
from noether.feed import kind
from noether.progress import UNITS, Progress
from noether.remote import is_url, mistake
from noether.schedules.arguments import MOST
from noether.schedules.units import KNOWN, counters
from noether.trackers import Tracker
from noether.weights import request

PLAIN = (bool, int, float, str, type(None))
NOT_BUILT: Mapping[str, tuple[Any, str]] = {
    "compile": (False, "the model is run as it is"),
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "precision": ("fp32", "bf16"),
    "lr_interval": ("update", "epoch"),
    "parallel": ("ddp", "fsdp"),
    "console": FORMS,
}


def checked(
    options: Mapping[str, Any], pipeline: Pipeline, *, built: bool = True, ranks: int = 1
) -> None:
    """Raise ConfigurationError with every mistake in the arguments of `train`.

    With `built` False model, loss and optimizer are not there yet, and not looked at.
    """
    problems = [
        *limits(options["until"]),
        *_counts(options),
        *_choices(options),
        *(_kinds(options) if built else ()),
        *_not_built(options),
        *(_ranks(options, ranks) if ranks > 1 else ()),
        *_directories(options, pipeline),
        *_passes(options["datasets"], pipeline),
        *_weights(pipeline, shared_out=ranks > 1 and options["parallel"] == "fsdp"),
        *_counters(options["counters"]),
        *_actions(options["actions"]),
        *tracker_mistakes(options["trackers"], options["run_dir"]),
        *_init_from(options["init_from"], pipeline),
    ]
    if problems:
        raise ConfigurationError(problems)


def is_number(value: Any) -> bool:
    """Whether a value is a plain number; a boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether a value is a positive integer; a boolean is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def limits(until: Any) -> Iterator[str]:
    """What is wrong with the limits of a run."""
    if not isinstance(until, Mapping) or not until:
        yield f"until is {until!r}; expected at least one limit, such as {{'epochs': 20}}"
        return
    for unit, limit in until.items():
        if unit not in UNITS:
            yield f"until: no unit is named {unit!r}. {suggestion(str(unit), UNITS)}"
        elif not is_number(limit) or not limit >= 0:
            yield f"until: {unit} is {limit!r}; expected a number, 0 or more"
        elif unit != "seconds" and not limit <= MOST:
            yield f"until: {unit} is {limit!r}; expected at most {MOST}"
        elif unit != "seconds" and not isinstance(limit, int):
            yield f"until: {unit} is {limit!r}; expected an integer"


def _counts(options: Mapping[str, Any]) -> Iterator[str]:
    sizes = {name: options[name] for name in ("batch_size", "accumulate")}
    for name, value in sizes.items():
        if not is_count(value):
            yield f"{name} is {value!r}; expected a positive integer"
    if all(map(is_count, sizes.values())) and sizes["batch_size"] % sizes["accumulate"]:
        yield (
            f"batch_size {sizes['batch_size']} is not a multiple of accumulate "
            f"{sizes['accumulate']}; it counts the samples of one update, over all its steps"
        )
    workers = options["workers"]
    if workers != 0 and not is_count(workers):
        yield f"workers is {workers!r}; expected 0 or a positive integer"
    for name in ("clip_norm", "clip_value"):
        value = options[name]
        if value is not None and not (is_number(value) and value > 0):
            yield f"{name} is {value!r}; expected a positive number, or None"
    seed = options["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        yield f"seed is {seed!r}; expected an integer from 0 to 2**63 - 1"


def _choices(options: Mapping[str, Any]) -> Iterator[str]:
    if not _is_policy(options["on_nonfinite"]):
        found = options["on_nonfinite"]
        yield f"on_nonfinite is {found!r}; expected 'raise', 'skip' or {{'skip': LIMIT}}"
    for name in ("async_save", "strict"):
        if not isinstance(options[name], bool):
            yield f"{name} is {options[name]!r}; expected True or False"
    for name, known in CHOICES.items():
        if options[name] == "fp16":
            yield "precision 'fp16' is not built yet; use 'bf16' or 'fp32'"
        elif options[name] not in known:
            yield f"{name} is {options[name]!r}. {suggestion(str(options[name]), known)}"


def tracker_mistakes(given: Any, folder: Any) -> Iterator[str]:
    """What is wrong with trackers of a run in this folder."""
    if not isinstance(given, list | tuple):
        yield f"trackers is a {type(given).__name__}; expected a list, [trackers.csv()] say"
        return
    names = [tracker.name for tracker in given if isinstance(tracker, Tracker)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"two trackers are {name!r}, and would write over each other; give one of a kind"
    for tracker in given:
        if not isinstance(tracker, Tracker):
            yield f"trackers: {tracker!r} is none; make one by noether.trackers, `csv()` say"
            continue
        try:
            tracker.check(None if folder is None else Path(folder))
        except ConfigurationError as error:
            yield str(error)


def _is_policy(value: Any) -> bool:
    if isinstance(value, Mapping):
        return set(value) == {"skip"} and is_count(value["skip"])
    return value in ("raise", "skip")


def _kinds(options: Mapping[str, Any]) -> Iterator[str]:
    if not callable(options["loss"]):
        yield f"loss is {options['loss']!r}; expected a function of (model, batch)"
    optimizer = options["optimizer"]
    if not callable(optimizer) and not hasattr(optimizer, "param_groups"):
        yield f"optimizer is {optimizer!r}; expected an optimizer, or a function of parameters"
    datasets: Any = options["datasets"]
    if datasets is not None and not isinstance(datasets, Mapping):
        yield f"datasets is a {type(datasets).__name__}; expected names to data sets"
    if not hasattr(options["model"], "parameters"):
        yield f"the model is a {type(options['model']).__name__}; expected a torch.nn.Module"


def _not_built(options: Mapping[str, Any]) -> Iterator[str]:
    for name, (only, meanwhile) in NOT_BUILT.items():
        if options[name] != only:
            yield f"{name}={options[name]!r} is not built yet; {meanwhile}. Leave it at {only!r}"


def _ranks(options: Mapping[str, Any], ranks: int) -> Iterator[str]:
    """What several ranks can't do, or not share."""
    size, accumulate = options["batch_size"], options["accumulate"]
    if is_count(size) and is_count(accumulate) and size % (accumulate * ranks):
        yield (
            f"batch_size {size} is not a multiple of accumulate {accumulate} times {ranks} ranks; "
            "it counts the samples of one update, over all its steps and ranks"
        )
    given = options["datasets"] if isinstance(options["datasets"], Mapping) else {}
    for name, dataset in {"train_set": options["train_set"], **given}.items():
        if kind(dataset) == "batches":
            yield (
                f"{name} is a DataLoader, whose batches {ranks} ranks can't share; give its "
                "data set, and batch_size and collate as arguments"
            )
        if options["parallel"] == "fsdp" and name != "train_set" and kind(dataset) == "stream":
            yield (
                f"data set {name!r} is an iterable, of which {ranks} ranks don't know how many "
                "batches each of them has, as parallel='fsdp' needs; use parallel='ddp'"
            )
    if options["parallel"] == "fsdp" and hasattr(options["optimizer"], "param_groups"):
        yield (
            "parallel='fsdp' shares the parameters out before an optimizer can hold them; give a "
            "function of the parameters that makes the optimizer"
        )


def _directories(options: Mapping[str, Any], pipeline: Pipeline) -> Iterator[str]:
    yield from _remote(options)
    run_dir, checkpoint_dir = options["run_dir"], options["checkpoint_dir"]
    if run_dir is not None:
        if checkpoint_dir is not None and Path(checkpoint_dir).resolve() == Path(run_dir).resolve():
            yield f"checkpoint_dir is run_dir, {str(run_dir)!r}; leave it out"
        return
    if checkpoint_dir is not None:
        yield f"checkpoint_dir is {str(checkpoint_dir)!r}, but there is no run_dir to belong to it"
    if str(options["resume"]) != "never":
        yield f"resume is {str(options['resume'])!r}, but there is no run_dir to resume in"
    for callback in pipeline:
        if _saves(callback):
            yield f"{callback.name!r} saves checkpoints, but there is no run_dir to keep them in"


def _remote(options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with places that are URLs."""
    if is_url(options["run_dir"]):
        yield (
            f"run_dir is {str(options['run_dir'])!r}, and a run directory is local; let its "
            "checkpoints alone go there, by checkpoint_dir"
        )
    for name in ("checkpoint_dir", "resume"):
        text = str(options[name])
        if is_url(text) and (wrong := mistake(text)) is not None:
            yield f"{name} {text!r} {wrong}"


def _saves(callback: Callback) -> bool:
    origin = callback.origin
    return origin is not None and origin.module == "noether.hooks.checkpointing"


def _passes(given: Any, pipeline: Pipeline) -> Iterator[str]:
    datasets: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    yield from passes.unservable(datasets)
    for callback in pipeline:
        if callback.data is not None:
            for mistake in passes.mistakes(callback.data, datasets):
                yield f"callback {callback.name!r}: {mistake}"


def _weights(pipeline: Pipeline, *, shared_out: bool) -> Iterator[str]:
    for callback in pipeline:
        if callback.averages and shared_out:
            yield (
                f"callback {callback.name!r} keeps weights, which with parallel='fsdp' are shared "
                "out; use parallel='ddp'"
            )
        if callback.data is not None:
            for mistake in averages.mistakes(callback.data, pipeline, shared_out=shared_out):
                yield f"callback {callback.name!r}: {mistake}"


def _counters(given: Any) -> Iterator[str]:
    if given is not None and not isinstance(given, Mapping):
        yield f"counters is a {type(given).__name__}; expected names to functions of a batch"
        return
    for name, count in (given or {}).items():
        if name in (*KNOWN, "start") or not str(name).isidentifier():
            yield f"counters: {name!r} can't name a counter; tokens can"
        elif not callable(count):
            yield f"counters: {name} is {count!r}; expected a function of a batch"


def _actions(given: Any) -> Iterator[str]:
    if given is not None and not isinstance(given, Mapping):
        yield f"actions is a {type(given).__name__}; expected names to functions"
        return
    for name, action in (given or {}).items():
        if not isinstance(name, str) or not callable(action):
            yield f"actions: {name!r} is {action!r}; expected a function, by its name"


def _init_from(given: Any, pipeline: Pipeline) -> Iterator[str]:
    return iter(()) if given is None else request.mistakes(given, pipeline)


def uncounted(pipeline: Pipeline, known: Collection[str]) -> Iterator[tuple[int, str]]:
    """Schedules in counters that the run does not count, by their callbacks' positions."""
    for position, callback in enumerate(pipeline):
        if callback.schedule is None:
            continue
        for name in sorted(counters(callback.schedule.expression) - set(known)):
            units = suggestion(name, {*KNOWN, *known})
            yield (
                position,
                f"{callback.name!r}: {callback.schedule}: {name} is no unit, and nothing counts "
                f"it. {units} Or give `counters` a function of a batch for it.",
            )


def check_horizon(pipeline: Pipeline, total: Progress) -> None:
    """Raise ConfigurationError for shares of a run whose length in updates is not known."""
    if total.update is not None:
        return
    problems = [
        f"callback {callback.name!r}: {callback.schedule} needs to know the length of the run; "
        "give `until` a limit in epochs, updates or samples"
        for callback in pipeline
        if callback.schedule is not None and callback.schedule.needs_total
    ]
    if problems:
        raise ConfigurationError(problems)


def described_run(options: Mapping[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """What `config.yaml` says: the given configuration, or the plain arguments and callbacks."""
    if options["config"] is not None:
        return dict(options["config"])
    plain: dict[str, Any] = {k: v for k, v in options.items() if isinstance(v, PLAIN)}
    for name in ("resume", "console"):
        plain.pop(name, None)
    plain |= {"run_dir": str(options["run_dir"]), "until": dict(options["until"])}
    plain |= request.described(options["init_from"])
    if options["checkpoint_dir"] is not None:
        plain["checkpoint_dir"] = str(options["checkpoint_dir"])
    return plain | {"callbacks": [repr(callback) for callback in pipeline]}
