"""A plan as text, as JSON and as a picture; all three tell the same firings."""

import itertools
import json
import xml.etree.ElementTree as ET
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from noether import Callback, chain, every, on_improvement, once_at_end, once_at_start
from noether.plan import Plan, calendar, document, plan, svg, table
from noether.plan.calendar import busiest
from tests import strategies as invent


def hook(state: object) -> None: ...


def callback(name: str, schedule: Any, **fields: Any) -> Callback:
    return Callback(name, on_schedule=hook, schedule=schedule, **fields)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of small runs; what is known of them, and what isn't."""
    schedules = draw(st.lists(st.none() | invent.schedules, min_size=1, max_size=4))
    reporter = callback("<reporter>", every(epochs=1), writes=invent.METRICS)
    pipeline = chain(reporter, *(callback(f"c{i}", s) for i, s in enumerate(schedules)))
    length, batch = draw(st.integers(1, 40)), draw(st.integers(1, 9))
    until = {"updates": draw(st.integers(0, 40))}
    return plan(pipeline, samples=length, batch_size=batch, until=until)


EXAMPLE = plan(
    chain(
        callback("hello", once_at_start),
        callback("validation", every(epochs=1), writes=["loss/val"]),
        callback("best & first", on_improvement("loss/val", mode="min"), reads=["loss/val"]),
        callback("always", None),
        callback("save", every(epochs=3) | once_at_end),
        Callback("norms", after_update=hook, writes=["norm/{I}"]),
    ),
    samples=10,
    batch_size=2,
    until={"epochs": 4},
)

TABLE = """\
order         runs  schedule                                reads                     writes
hello         1     once_at_start
validation    4     every(epochs=1)                                                   loss/val
best & first  0..4  on_improvement("loss/val", mode="min")  loss/val from validation
always        21
save          2     every(epochs=3) | once_at_end
norms         -                                                                       norm/norms

calendar of 4 epochs, 20 updates, 40 samples
  tick    epoch  update  sample  fires
  start       0       0       0  hello, always
  update      0       1       2  always
  update      0       2       4  always
  update      0       3       6  always
  update      0       4       8  always
  update      1       5      10  validation, always
  update      1       6      12  always
  update      1       7      14  always
  update      1       8      16  always
  update      1       9      18  always
  update      2      10      20  validation, always
  update      2      11      22  always
  ...

most at once
  tick    epoch  update  sample  fires
  start       0       0       0  hello, always
  update      1       5      10  validation, always
  update      2      10      20  validation, always
  update      3      15      30  validation, always, save
  update      4      20      40  validation, always

time line
  hello         [....................
  validation     ....|....|....|....|
  best & first   ....?....?....?....?
  always        [||||||||||||||||||||
  save           ..............|.....]
  update        0                   20
                | fires  # on every update  ? may fire  [ ] on the opening and the closing tick

decided as the run goes
  best & first  by loss/val"""


def test_a_plan_as_a_table() -> None:
    assert table(EXAMPLE, 40, ascii=True) == TABLE


def test_the_table_of_a_long_run_has_a_column_for_many_updates() -> None:
    made = plan(
        chain(callback("a", every(updates=1)), callback("b", every(epochs=50))),
        samples=10,
        batch_size=1,
        until={"epochs": 100},
    )
    rows = [line.split("  ")[-1] for line in table(made, 60).splitlines() if "\u2588" in line]
    assert set(rows[0].strip()) == {"\u2588"}
    assert len(rows[0]) < 60


@given(made=plans())
def test_the_document_holds_the_calendar_and_its_counts(made: Plan) -> None:
    told = json.loads("".join(document(made)))
    assert told["order"] == [found.callback.name for found in made.forecasts]
    assert [c["name"] for c in told["callbacks"]] == told["order"]
    entries = [(e.tick, e.now.epoch, e.now.update, e.now.sample, e.fires) for e in calendar(made)]
    rows = [
        (e["tick"], e["epoch"], e["update"], e["sample"], tuple(e["fires"]))
        for e in told["calendar"]
    ]
    assert rows == entries
    times = Counter(name for row in rows for name in row[-1])
    for told_of in told["callbacks"]:
        assert times[told_of["name"]] == told_of["at_least"] <= told_of["at_most"]
        assert told_of["count"] in (None, told_of["at_least"])
        assert (told_of["count"] is None) == bool(told_of["unknown"])


@given(made=plans())
def test_the_calendar_is_in_order_and_names_each_once(made: Plan) -> None:
    entries = list(calendar(made))
    places = [{"start": 0, "update": 1, "end": 2}[entry.tick] for entry in entries]
    assert places == sorted(places)
    updates = [entry.now.update for entry in entries if entry.tick == "update"]
    assert updates == sorted(set(updates))
    order = [found.callback.name for found in made.forecasts]
    for entry in entries:
        assert list(entry.fires) == [name for name in order if name in entry.fires]


@given(made=plans())
def test_the_busiest_ticks_have_the_most_firings(made: Plan) -> None:
    found = busiest(made, 3, within=1_000)
    sizes = sorted((len(e.fires) for e in calendar(made) if len(e.fires) > 1), reverse=True)
    assert [len(entry.fires) for entry in found] == sizes[:3]


def drawn(picture: str, name: str) -> list[tuple[str, float, float]]:
    """The marks of a row: class, x and width."""
    space = "{http://www.w3.org/2000/svg}"
    for group in ET.fromstring(picture).iter(f"{space}g"):
        title = group.findtext(f"{space}title") or ""
        if title.startswith(f"{name}: "):
            return [
                (r.attrib["class"], float(r.attrib["x"]), float(r.attrib["width"]))
                for r in group.iter(f"{space}rect")
            ]
    raise LookupError(name)


def test_the_picture_has_a_mark_for_each_firing() -> None:
    picture = svg(EXAMPLE)
    kinds = {
        f.callback.name: Counter(k for k, _, _ in drawn(picture, f.callback.name))
        for f in EXAMPLE.forecasts[:5]
    }
    assert kinds == {
        "hello": {"sure": 1},
        "validation": {"sure": 4},
        "best & first": {"perhaps": 4},
        "always": {"sure": 21},
        "save": {"sure": 2},
    }
    places = [x for _, x, _ in drawn(picture, "validation")]
    steps = [b - a for a, b in itertools.pairwise(places)]
    assert max(steps) - min(steps) < 0.2


@given(made=plans())
def test_any_picture_is_well_formed_and_keeps_its_marks_inside(made: Plan) -> None:
    picture = svg(made)
    root = ET.fromstring(picture)
    width = float(root.attrib["width"])
    for found in made.forecasts:
        for _, x, length in drawn(picture, found.callback.name):
            assert 0 <= x <= x + length <= width


def test_a_long_run_is_drawn_in_bands() -> None:
    pipeline = chain(callback("dense", every(updates=2)), callback("early", every(updates=2)))
    made = plan(pipeline, samples=64, until={"updates": 1_000_000})
    assert len(drawn(svg(made), "dense")) == 1
    assert len(svg(made)) < 10_000
