"""The public door of `noether.testing`, and what it says where hypothesis is not installed."""

import subprocess
import sys

import pytest

WITHOUT = "import sys; sys.modules['hypothesis'] = None\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_without_hypothesis_noether_works_and_its_testing_says_what_is_missing() -> None:
    told = run("import noether; noether.every(updates=2); import noether.testing")
    assert told.returncode == 1
    last = told.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: noether.testing needs hypothesis: pip install noether-callbacks[testing]"
    )


@pytest.mark.parametrize("module", ["walks", "terms"])
def test_no_part_of_it_is_reached_by_a_side_door(module: str) -> None:
    told = run(f"import noether.testing.{module}")
    assert "pip install noether-callbacks[testing]" in told.stderr
