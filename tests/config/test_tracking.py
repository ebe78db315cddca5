"""Trackers by their short names in a configuration's `run:`."""

from pathlib import Path
from typing import Any

import pytest

from noether import ConfigurationError, load
from tests.config.test_reading import ALLOW, BASE


def loaded(folder: Path, trackers: str) -> Any:
    text = BASE.replace("defaults: false}", f"defaults: false, trackers: {trackers}}}")
    (folder / "c.yaml").write_text(text)
    return load(folder / "c.yaml", [f"run.dir={folder / 'runs'}"], ALLOW)


def test_a_run_tracks_where_its_file_says(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    loaded(tmp_path, f"[csv, {{kind: jsonl, path: {lines}}}, tensorboard]").train()
    assert lines.is_file()
    folder = tmp_path / "runs" / "1" / "trackers"
    assert {each.name for each in folder.iterdir()} >= {"metrics.csv", "tensorboard"}


@pytest.mark.parametrize(
    ("trackers", "said"),
    [
        ("[cvs]", r"run\.trackers\.0: expected a tracker, found .*cvs.*csv"),
        ("csv", r"run\.trackers: expected a list of names"),
        ("[csv, {kind: jsonl, paht: a}]", r"run\.trackers\.1\.paht: unknown option.*path"),
        ("[{kind: jsonl, path: 3}]", r"run\.trackers\.0\.path: expected"),
        ("[{path: a}]", r"run\.trackers\.0\.kind: expected a tracker"),
    ],
)
def test_what_is_no_tracker_is_refused_where_it_stands(
    tmp_path: Path, trackers: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        loaded(tmp_path, trackers)
    assert "c.yaml:1" in str(caught.value)


def test_a_tracker_without_a_place_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        BASE.replace("defaults: false}", "defaults: false, trackers: [csv]}")
    )
    with pytest.raises(ConfigurationError, match="has no place to write to"):
        load(tmp_path / "c.yaml", (), ALLOW).train()
