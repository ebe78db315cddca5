"""What each command does. Torch is imported once a configuration has been parsed, not before."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from noether.errors import CheckpointError, ConfigurationError


def loaded(options: argparse.Namespace) -> Any:
    """The run that the configuration describes."""
    from noether.config import load  # late: --help needs none of it

    if options.allow:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, and only for who trusts a package
    run = load(options.config, options.overrides, options.allow)
    for note in run.notes if os.environ.get("RANK", "0") == "0" else ():
        print(f"note: {note}", file=sys.stderr)
    return run


def train(options: argparse.Namespace) -> None:
    """Train to the end."""
    given = {"resume": options.resume, "console": options.console}
    loaded(options).train(**{name: value for name, value in given.items() if value is not None})


def evaluate(options: argparse.Namespace) -> None:
    """Make every data pass once, and print what was found."""
    options.config = configuration(
        Path(options.run), "evaluate it there, by noether.evaluate(model,"
    )
    found = loaded(options).evaluate(options.run, checkpoint=options.checkpoint)
    if found.rank == 0:
        for name in sorted(found.fresh):
            print(f"{name}: {found.metrics[name]:.6g}")


def export(options: argparse.Namespace) -> None:
    """Write weights into a file; an average is found by the callback of the run that keeps it."""
    callbacks: Any = ()
    if options.weights != "live":
        way = "export it there, by noether.export_weights(callbacks=...,"
        options.config = configuration(Path(options.run), way)
        callbacks = loaded(options).callbacks
    from noether.weights import export_weights  # torch, late

    names = ("checkpoint", "weights", "dtype", "force")
    given = {name: getattr(options, name) for name in names}
    export_weights(options.run, options.output, callbacks=callbacks, **given)


def configuration(run: Path, way: str) -> Path:
    """The configuration of a run, or of the newest one of a series; `way` is there without one."""
    import yaml

    from noether.rundir import CHECKPOINTS, runs

    newest = run if (run / CHECKPOINTS).is_dir() else next(iter(runs(run)), run)
    if not (newest / "config.yaml").is_file():
        raise ConfigurationError([f"{run} is no run directory with a config.yaml, nor a series"])
    found = None
    with suppress(ValueError, yaml.YAMLError):  # which reading it in earnest tells better
        found = yaml.safe_load((newest / "config.yaml").read_text(encoding="utf-8"))
    if isinstance(found, dict) and "model" not in found:
        raise ConfigurationError(
            [
                f"{newest} was trained from Python, and its config.yaml can't build its parts; "
                f"{way} ..., run={str(newest)!r})"
            ]
        )
    return newest / "config.yaml"


def check(options: argparse.Namespace) -> None:
    """Build everything and print the order in which the callbacks run."""
    run = loaded(options)
    from noether.config.rehearsal import rehearse  # torch, late: the file has been parsed
    from noether.forecast import line, warnings

    served, total, pipeline = rehearse(run)
    for callback in pipeline:
        when = "" if callback.schedule is None else f"  {callback.schedule}"
        print(f"{callback.name}{when}")
    if total.sample is not None:
        warned(run, warnings(pipeline, line(served, total)))
    print("ok")


def warned(run: Any, found: Iterable[tuple[str, str]]) -> None:
    """Say on stderr which callbacks can never run, where the file says so, and why."""
    for name, why in found:
        where = f"{run.places[name]}: " if name in run.places else ""
        print(f"{where}warning: callback {name!r} can never run: {why}", file=sys.stderr)


def plan(options: argparse.Namespace) -> None:
    """Print a run's firings before the run, as tables and time line or as JSON; draw them."""
    run = loaded(options)
    from noether.config.rehearsal import outlined  # torch, late: the file has been parsed
    from noether.plan import document, planned, svg, table

    made = planned(*outlined(run, until=planned_length(options)))
    if options.svg is not None:
        written(options.svg, svg(made), beside=options.config)
    if options.json:
        sys.stdout.writelines(document(made))
    else:
        ascii = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"
        print(table(made, shutil.get_terminal_size((100, 24)).columns, ascii=ascii))
    warned(run, made.warnings)


def planned_length(options: argparse.Namespace) -> dict[str, int] | None:
    """The limit that takes the place of `run.until`, if one is given."""
    for unit in ("updates", "epochs"):
        number = getattr(options, unit)
        if number is not None and not 0 <= number < 2**63:
            raise ConfigurationError([f"--{unit} {number}: expected 0 or more, below 2**63"])
        if number is not None:
            return {unit: number}
    return None


def written(path: str, text: str, *, beside: str) -> None:
    """Write a file that was asked for, unless that is the one that was read."""
    if not path or Path(path).resolve() == Path(beside).resolve():
        raise ConfigurationError([f"--svg {path!r}: give the name of a picture, plan.svg say"])
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError([f"{path} cannot be written: {error.strerror}"]) from error


def inspect(options: argparse.Namespace) -> None:
    """Print what a run directory holds; raises CheckpointError where no checkpoint is valid."""
    from noether import inspection  # late: it reads YAML
    from noether.console import Console

    console = Console()
    try:
        found = inspection.inspect(options.run, quick=options.quick, tell=console.verifying)
    finally:
        console.wipe()
    if options.json:
        print(json.dumps(inspection.document(found), indent=1, default=str))
    else:
        print(inspection.text(found, shutil.get_terminal_size((100, 24)).columns))
    if not inspection.sound(found):
        raise CheckpointError(f"{options.run} holds no valid checkpoint")


def report(options: argparse.Namespace) -> None:
    """Write the page, and while runs go on write it again."""
    from noether import report as reports  # late: it reads YAML
    from noether.console import Console

    paths = list(map(Path, options.runs))
    reports.publish(paths, options.output, Console(), show=options.open, live=options.live)


def hooks(options: argparse.Namespace) -> None:
    """Print the table of built-in callbacks, one in full, or all of it as JSON."""
    from noether.config import catalogue  # late

    if options.json:
        names = () if options.name is None else ([options.name],)
        print(json.dumps(catalogue.listing(*names), indent=1))
    else:
        print(catalogue.page(options.name) if options.name else catalogue.table())
