"""The command line. Torch is imported once a configuration has been parsed, not before."""

import argparse
import io
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from noether.errors import CheckpointError, ConfigurationError

ERROR, CONFIGURATION, PREEMPTED, INTERRUPTED = 1, 2, 75, 130


def main(arguments: Sequence[str]) -> int:
    """Run a command; gives the exit code: 0 done, 1 error, 2 configuration, 75 preempted, 130."""
    forgive_names()
    options = parsed(arguments)
    try:
        options.command(options)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        # Nobody reads any more; without this, Python complains at exit that it cannot flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except ConfigurationError as error:
        return told(str(error), CONFIGURATION, options)
    except KeyboardInterrupt:
        way = "; --resume auto goes on from the last checkpoint"
        return told(f"interrupted{way if options.command is train else ''}", INTERRUPTED, options)
    except SystemExit as end:
        if end.code != PREEMPTED:
            raise
        from noether.distributed import launched  # late: torch has been imported by now

        code = 0 if launched() else PREEMPTED
        return told("preempted; --resume auto goes on from here", code, options)
    except Exception as error:
        return told(f"error: {described(error)}", ERROR, options)


def forgive_names() -> None:
    """Let no name end a command that the terminal has no characters for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; overrides may also stand behind them, where argparse does not look for any."""
    made = parser()
    options, rest = made.parse_known_args(arguments)
    stray = [text for text in rest if text.startswith("-") or "overrides" not in options]
    if stray:
        made.error(f"unrecognized arguments: {' '.join(stray)}")
    vars(options).setdefault("overrides", []).extend(rest)
    return options


def told(message: str, code: int, options: argparse.Namespace) -> int:
    """Say on stderr what ended the command; gives its exit code."""
    if options.traceback:
        traceback.print_exc()
    print(message, file=sys.stderr)
    return code


def described(error: Exception) -> str:
    """An error in a line, its notes on the next ones; the type where the message says little."""
    notes = getattr(error, "__notes__", [])
    own = type(error).__module__.startswith("noether.")
    message = str(error) if own else f"{type(error).__name__}: {error}"
    return "\n".join([message, *notes])


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    made = argparse.ArgumentParser(
        prog="noether", description="A functional callback pipeline for PyTorch training."
    )
    made.add_argument("--version", action="version", version=installed())
    commands = made.add_subparsers(title="commands", required=True, metavar="COMMAND")
    training = configured(commands, "train", train, "train what a configuration says")
    training.add_argument(
        "--resume",
        metavar="auto|must|PATH",
        help="go on with the newest run that isn't done, or with the run or checkpoint at PATH; "
        "must refuses to start afresh",
    )
    said = training.add_mutually_exclusive_group()
    for flag, form, what in SPOKEN:
        said.add_argument(flag, dest="console", action="store_const", const=form, help=what)
    evaluating = commands.add_parser("evaluate", help=EVALUATES, description=EVALUATES)
    evaluating.add_argument("run", metavar="RUN", help="a run directory, or a series of them")
    evaluating.add_argument(
        "--checkpoint", default="latest", metavar="latest|best|TAG", help="which one of the run"
    )
    common(evaluating, evaluate)
    exporting = commands.add_parser("export", help=EXPORTS, description=EXPORTS)
    exporting.add_argument("run", metavar="RUN", help="a run directory, or a series of them")
    exporting.add_argument(
        "--checkpoint", default="latest", metavar="latest|best|TAG", help="which one of the run"
    )
    exporting.add_argument(
        "--weights", default="live", metavar="live|NAME", help="the live ones, or an average: ema"
    )
    exporting.add_argument(
        "-o", "--output", metavar="FILE.safetensors", help="by default a file in the run directory"
    )
    exporting.add_argument("--dtype", choices=("float16", "bfloat16", "float32"))
    exporting.add_argument("--force", action="store_true", help="replace a file that is there")
    common(exporting, export, overridden=False)
    configured(commands, "check", check, "validate and build all of it, run and write nothing")
    planning = configured(
        commands, "plan", plan, "say beforehand what will run when; train nothing"
    )
    length = planning.add_mutually_exclusive_group()
    length.add_argument("--updates", type=int, metavar="N", help="plan a run of N updates")
    length.add_argument("--epochs", type=int, metavar="N", help="plan a run of N epochs")
    planning.add_argument("--json", action="store_true", help="print the whole plan as JSON")
    planning.add_argument("--svg", metavar="FILE", help="draw the time line into FILE")
    inspecting = commands.add_parser("inspect", help=INSPECTS, description=INSPECTS)
    inspecting.add_argument("run", metavar="RUN", help="a run directory, a series, a checkpoint")
    inspecting.add_argument("--quick", action="store_true", help="check sizes, and no digests")
    inspecting.add_argument("--json", action="store_true", help="print all of it as JSON")
    inspecting.set_defaults(command=inspect, traceback=False)
    reporting = commands.add_parser("report", help=REPORTS, description=REPORTS)
    reporting.add_argument("runs", nargs="+", metavar="RUN", help="a run directory, or a series")
    reporting.add_argument(
        "-o",
        "--output",
        metavar="FILE.html",
        help="by default report.html, in the run if it is one",
    )
    reporting.add_argument("--open", action="store_true", help="show it in the browser")
    reporting.add_argument("--live", action="store_true", help="write it again while a run goes on")
    reporting.set_defaults(command=report, traceback=False)
    listing = commands.add_parser("hooks", help="the built-in callbacks and their options")
    listing.add_argument("name", nargs="?", metavar="NAME", help="one of them, in full")
    listing.add_argument("--json", action="store_true", help="print it as JSON")
    listing.set_defaults(command=hooks, traceback=False)
    return made


def configured(
    commands: Any, name: str, command: Callable[[argparse.Namespace], None], purpose: str
) -> argparse.ArgumentParser:
    """A command that reads a configuration."""
    made: argparse.ArgumentParser = commands.add_parser(name, help=purpose, description=purpose)
    made.add_argument("config", metavar="CONFIG", help="a YAML file")
    return common(made, command)


def common(
    made: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], None],
    *,
    overridden: bool = True,
) -> argparse.ArgumentParser:
    """What all commands with a configuration take."""
    if overridden:
        made.add_argument(
            "overrides", nargs="*", metavar="key=value", help="run.until.epochs=3, for instance"
        )
    made.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="trust a package of yours: the file may name its factories",
    )
    made.add_argument("--traceback", action="store_true", help="print where an error comes from")
    made.set_defaults(command=command)
    return made


SPOKEN = (
    ("--quiet", "quiet", "say nothing but warnings and errors"),
    ("--plain", "plain", "print lines alone, on a terminal too"),
    ("--json-logs", "json", "print one JSON value a line, metrics among them"),
)
EXPORTS = "write the weights of a checkpoint into a safetensors file"
INSPECTS = "say what a run directory holds, and which checkpoint a resume takes; change nothing"
REPORTS = "write a page about runs: curves, firings, times, and why they stopped"
EVALUATES = "make every data pass of a run once, with the weights of a checkpoint"


def installed() -> str:
    """The version of the package, where it is installed."""
    try:
        return version("noether-callbacks")
    except PackageNotFoundError:
        return "unknown"


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
