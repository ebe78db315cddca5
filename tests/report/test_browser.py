"""The page as a browser shows it."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
from PIL import Image

from noether.report import history, page
from tests.report.test_page import NASTY, invented

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), "")
DARK = "--blink-settings=preferredColorScheme=0"
BLUE = (0x3B, 0x82, 0xF6)
"""The colour of the first curve."""

MEASURE = """<script>
const long = (path) => path.getTotalLength() > 50;
window.addEventListener("load", () => setTimeout(() => {
  const told = document.documentElement.dataset;
  told.overflow = document.documentElement.scrollWidth - window.innerWidth;
  told.curves = [...document.querySelectorAll("path.js-line")].filter(long).length;
  told.stars = document.querySelectorAll("path.point").length;
  parent.postMessage({ ...told }, "*");
}));
</script>"""
WATCH = """<script>
addEventListener("error", (e) => { document.documentElement.dataset.failed = e.message; });
addEventListener("securitypolicyviolation", (e) => {
  document.documentElement.dataset.failed = e.violatedDirective; });
</script>"""

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page about one run, and one about two, that measure themselves."""
    folder = tmp_path_factory.mktemp("pages")
    rows = [{"loss/val/total": 1 / n, f"accuracy/{NASTY}": n / 50} for n in range(1, 50)]
    runs = [invented(folder / name, *rows) for name in ("1", "2")]
    for name, chosen in (("one", runs[:1]), ("two", runs)):
        text = page([history(run) for run in chosen])
        text = text.replace("</head>", f"{WATCH}</head>").replace("</body>", f"{MEASURE}</body>")
        (folder / f"{name}.html").write_text(text)
    return folder


def browse(file: Path, *options: str, size: tuple[int, int] = (1200, 1400)) -> str:
    """What a browser without a window says of the file."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=4000", *options]
    profile = f"--user-data-dir={file.parent / 'profile'}"
    done = subprocess.run(
        [*command, profile, file.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def facts(dom: str) -> dict[str, str]:
    """What the page has noted on its root element."""
    root = re.search(r"<html[^>]*>", dom)
    assert root is not None
    return dict(re.findall(r'data-(\w+)="([^"]*)"', root[0]))


@pytest.mark.parametrize(("name", "curves"), [("one", 2), ("two", 4)])
def test_curves_and_best_points_are_drawn_without_an_error(
    pages: Path, name: str, curves: int
) -> None:
    found = facts(browse(pages / f"{name}.html", "--dump-dom"))
    assert "failed" not in found
    # The name of every second metric doesn't tell what is better.
    assert (int(found["curves"]), int(found["stars"])) == (curves, curves / 2)


def test_a_telephone_shows_all_of_its_width(pages: Path) -> None:
    frame = pages / "frame.html"
    noting = "Object.assign(document.documentElement.dataset, e.data)"
    frame.write_text(
        f"<script>addEventListener('message', (e) => {noting});</script>"
        "<iframe src='two.html' style='width: 375px; height: 3000px; border: 0'></iframe>"
    )
    found = facts(browse(frame, "--dump-dom"))
    assert int(found["overflow"]) == 0
    assert int(found["curves"]) == 4


CHOOSE = """<script>
window.addEventListener("load", () => setTimeout(() => {
  const chosen = document.querySelector("select");
  chosen.value = "UNIT";
  chosen.dispatchEvent(new Event("change"));
  const { data, layout } = document.querySelector(".js-plotly-plot");
  const told = document.documentElement.dataset;
  told.across = data[0].x.join();
  told.title = layout.xaxis.title.text;
}));
</script>"""


@pytest.mark.parametrize(
    ("unit", "title", "wanted"),
    [
        ("seconds", "training time in minutes", [n**2 / 120 for n in range(1, 50)]),
        ("sample", "sample", [8 * n for n in range(1, 50)]),
        ("update", "update", [*range(1, 50)]),
    ],
)
def test_curves_are_drawn_along_what_is_chosen(
    pages: Path, unit: str, title: str, wanted: list[float]
) -> None:
    file = pages / f"{unit}.html"
    script = CHOOSE.replace("UNIT", unit)
    file.write_text((pages / "one.html").read_text().replace("</body>", f"{script}</body>"))
    found = facts(browse(file, "--dump-dom"))
    assert found["title"] == title
    assert [float(x) for x in found["across"].split(",")] == pytest.approx(wanted)


@pytest.mark.parametrize(("options", "ground"), [([], 255), ([DARK], 0x14)])
def test_it_is_seen_on_light_and_on_dark_ground(
    pages: Path, options: list[str], ground: int
) -> None:
    picture = pages / f"{ground}.png"
    browse(pages / "one.html", f"--screenshot={picture}", *options)
    with Image.open(picture) as opened:
        seen = numpy.asarray(opened.convert("RGB"))
    assert seen[2, 2, 0] == ground
    assert (seen == BLUE).all(axis=-1).sum() > 200
