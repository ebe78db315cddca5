"""A plan: the pipeline in the fold's order, and the forecast of each callback."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noether import dataflow
from noether.arguments import is_count, limits
from noether.callback import Callback, chain
from noether.errors import ConfigurationError
from noether.feed import Feed, feed, horizon
from noether.forecast import Forecast, Line, forecast, line, silent
from noether.progress import Progress


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, as far as it can be known before."""

    line: Line
    forecasts: tuple[Forecast, ...]
    """One for each callback, in the fold's order."""
    warnings: tuple[tuple[str, str], ...] = ()
    """The callbacks that can never run, by name, and why."""

    def sources(self, callback: Callback) -> dict[str, list[str]]:
        """The metrics a callback needs or would use, each with the names of who writes it."""
        pipeline = [found.callback for found in self.forecasts]
        wanted = sorted(dataflow.needed(callback) | set(callback.reads_optional))
        return {
            metric: [pipeline[position].name for position in dataflow.writers(metric, pipeline)]
            for metric in wanted
        }


def planned(
    served: Feed, total: Progress, pipeline: Sequence[Callback], *, start: int = 0, session: int = 1
) -> Plan:
    """The plan of a pipeline, in the fold's order, from the feed's geometry.

    It may begin at the update after which a resumed session goes on. Raises ConfigurationError
    where the length of the run in updates isn't known.
    """
    if total.update is None:
        raise ConfigurationError(
            [
                "until: seconds alone don't say how many updates there will be; give a limit in "
                "epochs, updates or samples (on the command line --epochs or --updates)"
            ]
        )
    if total.sample is None:
        raise ConfigurationError(
            [
                "the training set is an iterable or a DataLoader, and the samples of its epochs "
                "are not known before; a plan needs a data set with a length"
            ]
        )
    along = line(served, total, start=start, session=session)
    forecasts = forecast(tuple(pipeline), along)
    return Plan(along, forecasts, tuple(silent(forecasts, along)))


def plan(
    callbacks: Callback | Iterable[Callback],
    *,
    samples: int,
    batch_size: int = 64,
    until: Mapping[str, float],
    drop_last: bool = False,
) -> Plan:
    """Plan a pipeline for a training set of so many samples.

    until: limits among epochs, updates and samples, as `noether.train` takes them.

    Raises ConfigurationError for what `noether.train` would refuse.

    >>> from noether import Callback, every
    >>> report = Callback("report", on_schedule=lambda state: None, schedule=every(epochs=2))
    >>> found = plan(report, samples=100, batch_size=10, until={"epochs": 7})
    >>> [(f.callback.name, list(f.sure)) for f in found.forecasts]
    [('report', [20, 40, 60])]
    """
    wrong = list(limits(until))
    wrong += [
        f"{name} is {value!r}; expected a positive integer"
        for name, value in (("samples", samples), ("batch_size", batch_size))
        if not is_count(value)
    ]
    if wrong:
        raise ConfigurationError(wrong)
    options: dict[str, Any] = {"accumulate": 1, "collate": None, "seed": 0, "shuffle": False}
    served = feed(range(samples), batch_size=batch_size, drop_last=drop_last, **options)
    pipeline = chain(callbacks if isinstance(callbacks, Callback) else tuple(callbacks))
    return planned(served, horizon(served, until), dataflow.order(pipeline))
