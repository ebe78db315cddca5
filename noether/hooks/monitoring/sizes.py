"""How large things are: the model, its parts, the data sets."""

from noether.callback import Callback, factory
from noether.effects import Effect, Log, Say
from noether.schedules import once_at_start
from noether.state import TrainState


@factory
def param_count(*, depth: int = 1) -> Callback:
    """Log `param_count/total` and `param_count/{child}`, each also `/trainable` and `/frozen`.

    Runs once, on the opening tick of the run; `depth` is how deep children are told apart.

    >>> str(param_count().schedule)
    'once_at_start'
    """
    if depth < 1:
        raise ValueError(f"param_count: depth is {depth}; expected 1 or more")

    def count_parameters(state: TrainState) -> list[Effect]:
        counts: dict[str, int] = {}
        for name, parameter in state.model.parameters.items():
            kind = "trainable" if parameter.requires_grad else "frozen"
            for part in ("total", *_ancestors(name, depth)):
                for key in (part, f"{part}/trainable", f"{part}/frozen"):
                    amount = 0 if key.startswith(f"{part}/") and key != f"{part}/{kind}" else 1
                    counts[key] = counts.get(key, 0) + amount * parameter.numel()
        metrics = {f"param_count/{key}": count for key, count in counts.items()}
        said = (
            f"{counts.get('total', 0):,} parameters, {counts.get('total/trainable', 0):,} trained"
        )
        return [Log(metrics, summary=True), Say(said)]

    return Callback(
        "param_count",
        on_schedule=count_parameters,
        schedule=once_at_start,
        reads=(),
        writes=("param_count/*",),
        on_error="warn",
    )


def _ancestors(name: str, depth: int) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i in range(min(depth, len(parts)))]


WHOLE = "in all"


@factory
def model_summary(*, depth: int = 2) -> Callback:
    """Say once, at the start, the parts of the model to a depth, and the parameters in each.

    >>> str(model_summary().schedule)
    'once_at_start'
    """
    if depth < 1:
        raise ValueError(f"model_summary: depth is {depth}; expected 1 or more")

    def summarise(state: TrainState) -> Say:
        parts: dict[str, tuple[int, int]] = {}
        for name, parameter in state.model.parameters.items():
            for part in (*_ancestors(name, depth), WHOLE):
                trained, frozen = parts.get(part, (0, 0))
                size = parameter.numel()
                more = (size, 0) if parameter.requires_grad else (0, size)
                parts[part] = trained + more[0], frozen + more[1]
        width = max(map(len, parts), default=0)
        ordered = sorted(parts.items(), key=lambda item: (item[0] == WHOLE, item))
        rows = [f"{part:{width}}  {t:>14,}  {f:>14,}" for part, (t, f) in ordered]
        return Say("\n".join([f"{'part':{width}}  {'trained':>14}  {'frozen':>14}", *rows]))

    return Callback(
        "model_summary",
        on_schedule=summarise,
        schedule=once_at_start,
        reads=(),
        writes=(),
        on_error="warn",
    )


@factory
def dataset_stats() -> Callback:
    """Log `ds_stats/{key}/len`, the samples of each data set, once at the start of the run.

    Of one whose length is not known it is said.

    >>> dataset_stats().writes
    ('ds_stats/*/len',)
    """
    return Callback(
        "dataset_stats",
        on_schedule=_lengths,
        schedule=once_at_start,
        reads=(),
        writes=("ds_stats/*/len",),
        on_error="warn",
    )


def _lengths(state: TrainState) -> list[Effect]:
    known = {name: length for name, length in state.dataset_lengths.items() if length is not None}
    unknown = sorted(state.dataset_lengths.keys() - known.keys())
    logged = Log({f"ds_stats/{name}/len": n for name, n in known.items()}, summary=True)
    said = Say(f"no length is known of the data sets {', '.join(unknown)}")
    return [*([logged] if known else []), *([said] if unknown else [])]
