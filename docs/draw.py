"""Draw the pictures of `schedules.md`: the text of each image is the schedules that it shows.

python docs/draw.py            writes every picture
python docs/draw.py --check    exits 1 and names those that are out of date
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from noether import Callback, every
from noether.plan import plan, svg
from noether.schedules import parse

PAGE = Path(__file__).with_name("schedules.md")
FOLDER = PAGE.with_suffix("")
IMAGE = re.compile(r"^!\[(.+)\]\(schedules/([\w-]+\.svg)\)$", re.MULTILINE)


def images() -> list[tuple[str, str]]:
    """The images of the page: what each shows, and the name of its file."""
    return IMAGE.findall(PAGE.read_text(encoding="utf-8"))


def picture(rows: Sequence[str]) -> str:
    """The firings of schedules, given as text, over the run that the page describes."""
    pipeline = [Callback(row, on_schedule=nothing, schedule=parse(row)) for row in rows]
    metrics = {metric for row in rows for metric in parse(row).reads}
    if metrics:
        measured = Callback("validation", on_schedule=nothing, writes=sorted(metrics))
        pipeline.insert(0, every(epochs=1)(measured))
    return svg(plan(pipeline, samples=18, batch_size=4, until={"epochs": 4}))


def nothing(state: object) -> None:
    """The hook of every row: a plan runs none."""


def pictures() -> dict[Path, str]:
    """The pictures of the page, by the path of their file."""
    return {FOLDER / name: picture(shown.split("; ")) for shown, name in images()}


def stale() -> list[Path]:
    """The files that are missing, differ from what would be drawn, or are on the page no more."""
    drawn = pictures()
    there = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.svg")}
    return sorted(path for path in {*drawn, *there} if drawn.get(path) != there.get(path))


def draw() -> None:
    """Write the pictures, and remove what is on the page no more."""
    drawn = pictures()
    FOLDER.mkdir(exist_ok=True)
    for path in {*FOLDER.glob("*.svg")} - {*drawn}:
        path.unlink()
    for path, text in drawn.items():
        path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Write the pictures, or say which are out of date."""
    parser = argparse.ArgumentParser(description="Draw the pictures of schedules.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    if not parser.parse_args(arguments).check:
        draw()
        return 0
    found = stale()
    for path in found:
        print(f"{path} is out of date; python docs/draw.py draws it", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
