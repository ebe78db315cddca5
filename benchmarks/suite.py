"""Measure noether beside a loop by hand and beside other libraries.

    python benchmarks/suite.py                   all scenarios
    python benchmarks/suite.py S1 S7 --rounds 9  two of them
    python benchmarks/suite.py S8 --updates 1000000

Writes benchmarks.json, in which a scenario replaces only its own rows, and from that
benchmarks.md and benchmarks.svg.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from measured import Row, apart
from peers import PACKAGES
from picture import svg
from report import page, section
from scenarios import SCENARIOS

DOCS = Path(__file__).parent.parent / "docs"


def machine() -> str:
    """What was measured on, in words."""
    system = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return f"{system}, Python {platform.python_version()}, {', '.join(versions())}"


def versions() -> list[str]:
    """The libraries that are installed."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return found


def measured(name: str, rounds: int, updates: int) -> list[Row]:
    """The rows of a scenario."""
    return SCENARIOS[name].measure(rounds, updates)


def result(name: str, rounds: int | None, updates: int | None) -> dict[str, Any]:
    """All that is told of a scenario, measured in a process of its own."""
    scenario = SCENARIOS[name]
    rounds = rounds or scenario.rounds
    updates = (updates or scenario.updates) if scenario.updates else 0
    rows = apart(measured, name, rounds, updates)
    return {
        "title": scenario.title,
        "text": scenario.text,
        "drawn": scenario.drawn,
        "rounds": rounds,
        "updates": updates,
        "machine": machine(),
        "rows": [asdict(row) for row in rows],
    }


def written(folder: Path, name: str, found: Mapping[str, Any]) -> None:
    """Put a scenario's result among the others, and tell of them all anew."""
    path = folder / "benchmarks.json"
    earlier = json.loads(path.read_text("utf-8")) if path.exists() else {}
    results = dict(sorted({**earlier, name: found}.items()))
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    (folder / "benchmarks.md").write_text(page(results), "utf-8")
    (folder / "benchmarks.svg").write_text(svg(results), "utf-8")


def main() -> None:
    """Measure the scenarios that are named, and write each as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="S1 ... S8", help="scenarios; all if none")
    parser.add_argument("--rounds", type=int, help="times that each way is measured")
    parser.add_argument("--updates", type=int, help="updates that count; S5 and S7 have none")
    parser.add_argument("--into", type=Path, default=DOCS, help="the folder to write into")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SCENARIOS):
        parser.error(f"no scenario is named {', '.join(sorted(unknown))}")
    options.into.mkdir(parents=True, exist_ok=True)
    for name in options.names or SCENARIOS:
        begun = time.monotonic()
        found = result(name, options.rounds, options.updates)
        written(options.into, name, found)
        print(f"{section(name, found)}\nmeasured in {time.monotonic() - begun:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
