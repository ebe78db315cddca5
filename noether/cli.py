"""The command line: what it takes, and what becomes of errors."""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from noether.commands import check, evaluate, export, hooks, inspect, plan, report, train
from noether.errors import ConfigurationError

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
