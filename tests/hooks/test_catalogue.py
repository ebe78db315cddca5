"""What holds of every callback of the catalogue, and what its entry in YAML may say."""

from typing import Any

import pytest

from noether import hooks
from noether.config.entries import EVERY, read_entry
from noether.config.structure import parameters
from noether.testing import check_callback
from tests.hooks.cases import ALL, Case

ALLOWED = ("tests.sample_project",)
BOTH = [(name, how) for name in hooks.__all__ for how in ("required", "full")]


def entry(name: str, how: str) -> dict[str, Any]:
    return {"kind": name, **getattr(ALL[name], how)}


def test_the_whole_catalogue_is_here() -> None:
    assert sorted(ALL) == hooks.__all__


@pytest.mark.parametrize("name", hooks.__all__)
def test_a_built_in_breaks_no_law(name: str) -> None:
    case: Case = ALL[name]
    check_callback(case.callback, max_examples=12, results=case.results, metrics=case.metrics)


@pytest.mark.parametrize(("name", "how"), BOTH)
def test_a_built_in_is_made_from_yaml(name: str, how: str) -> None:
    callback, mistakes = read_entry(entry(name, how), ALLOWED)
    assert mistakes == []
    assert callback is not None
    assert callback.origin is not None
    assert callback.origin.qualname == name
    assert callback.name == getattr(ALL[name], how).get("name", callback.name)


@pytest.mark.parametrize("name", hooks.__all__)
def test_its_full_entry_says_every_option_otherwise_than_the_default(name: str) -> None:
    said = {key: value for key, value in ALL[name].full.items() if key not in EVERY}
    timed = EVERY.keys() & ALL[name].full.keys()
    taken = parameters(getattr(hooks, name))
    assert sorted((taken.keys() | {"name"}) - ({"schedule"} if timed else set())) == sorted(said)
    assert all(value != taken[key].default for key, value in said.items() if key in taken)


@pytest.mark.parametrize("name", hooks.__all__)
def test_it_refuses_an_option_that_it_does_not_have(name: str) -> None:
    _, mistakes = read_entry({**entry(name, "required"), "paitence": 1}, ALLOWED)
    assert any("paitence" in str(mistake) for mistake in mistakes)
