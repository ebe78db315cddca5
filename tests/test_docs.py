"""The pages: their pictures are those the plan draws, their links lead somewhere, they hold."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import noether.schedules
from noether import Callback, Progress
from noether.cli import main
from noether.plan import plan
from noether.schedules import parse

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGE = DOCS / "schedules.md"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
TERMS = sorted(set(noether.schedules.__all__) - {"Schedule", "Tick", "parse"})


def drawing() -> ModuleType:
    """The script that draws the pictures."""
    spec = importlib.util.spec_from_file_location("draw", DOCS / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)


# ---------------------------------------------------------------- pictures


def test_the_pictures_are_those_that_the_plan_draws() -> None:
    draw = drawing()
    drawn = draw.pictures()
    there = {path: path.read_text(encoding="utf-8") for path in draw.FOLDER.glob("*.svg")}
    assert sorted(drawn) == sorted(there)
    assert [path.name for path in drawn if drawn[path] != there[path]] == [], "make pictures"


def test_every_image_of_the_page_is_drawn_into_a_file_of_its_own() -> None:
    names = [name for _, name in drawing().images()]
    assert len(names) == len(set(names)) == PAGE.read_text(encoding="utf-8").count("![")


def test_a_stale_a_missing_and_a_leftover_picture_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = drawing()
    page = tmp_path / "schedules.md"
    page.write_text("![at(updates=1)](schedules/a.svg)\n\n![always](schedules/b.svg)\n")
    monkeypatch.setattr(draw, "PAGE", page)
    monkeypatch.setattr(draw, "FOLDER", tmp_path / "schedules")
    assert draw.main([]) == 0
    assert draw.main(["--check"]) == 0
    (tmp_path / "schedules/a.svg").write_text("another one")
    (tmp_path / "schedules/b.svg").unlink()
    (tmp_path / "schedules/c.svg").write_text("of a picture that is gone")
    capsys.readouterr()
    assert draw.main(["--check"]) == 1
    assert re.findall(r"\w\.svg", capsys.readouterr().err) == ["a.svg", "b.svg", "c.svg"]
    assert draw.main([]) == draw.main(["--check"]) == 0


# ---------------------------------------------------------------- what the page says


@pytest.mark.parametrize("term", TERMS)
def test_every_term_has_a_section_and_but_where_a_picture(term: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = " ".join(re.findall(r"^#+ (.+)$", prose(PAGE), re.M))
    assert f"`{term}`" in headings
    shown = " ".join(alternative for alternative, _ in drawing().images())
    assert (re.search(rf"\b{term}\b", shown) is not None) is (term != "where")
    assert "`&`, `|`, `~`" in text


def boundaries() -> list[list[str]]:
    """The rows of the table of what fires at the ends of a run."""
    section = prose(PAGE).partition("\n## Boundaries\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(.+)` \| (\S+) \| (\S+) \| (\S+) \|$", section, re.M)
    assert len(rows) > 10
    return [[row[0].replace("\\|", "|"), *row[1:]] for row in rows]


@pytest.mark.parametrize("row", boundaries(), ids=lambda row: str(row[0]))
def test_the_table_of_boundaries_says_what_the_plan_says(row: list[str]) -> None:
    text, *said = row
    schedule = parse(text)
    callback = Callback("it", on_schedule=print, schedule=schedule)
    made = plan(callback, samples=18, batch_size=4, until={"epochs": 4})
    [found] = made.forecasts
    end = Progress(4, 20, 72)
    holds = schedule.fires(end, end, event="end", total=made.line.total)
    closing = "fires" if found.sure.closing else "spared" if holds else "-"
    fires = {True: "fires", False: "-"}
    assert said == [fires[found.sure.opening], fires[20 in found.sure], closing]


def test_the_excerpt_of_a_plan_is_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = re.search(
        r"```console\n\$ noether ([^\n]+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL
    )
    assert block is not None
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(block[1].split()) == 0
    printed = capsys.readouterr().out.splitlines()
    shown = [line for line in block[2].splitlines() if line != "..."]
    assert len(shown) > 10
    assert [line for line in shown if line.rstrip() not in map(str.rstrip, printed)] == []


# ---------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """What a link within a page may lead to."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_something_that_is_there(page: Path) -> None:
    targets = [t for t in LINK.findall(prose(page)) if not t.startswith(("https:", "http:"))]
    paths = [target.partition("#")[0] for target in targets]
    assert [path for path in paths if path and not (page.parent / path).exists()] == []
    inner = {target[1:] for target in targets if target.startswith("#")}
    assert inner <= anchors(page)


def test_the_examples_of_the_pages_run_with_the_tests(pytestconfig: pytest.Config) -> None:
    assert {"docs", "README.md"} <= set(pytestconfig.getini("testpaths"))
