"""`noether hooks`: what it says is true of the callbacks, and its examples can be used."""

import json
from typing import Any

import pytest
import yaml

from noether import hooks
from noether.cli import main
from noether.config.aliases import BASES, CLASSES, ours
from noether.config.catalogue import found, listing, page, sample, yaml_example
from noether.config.entries import read_entries
from noether.errors import ConfigurationError

BUILT = [name for name, (mine, _) in CLASSES.items() if mine in hooks.__all__]
TEXTUAL = [name for name in hooks.__all__ if "my_project" not in yaml_example(name)]
"""Those whose example names no function of the user's."""


def said(name: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        found(name)
    return str(caught.value)


@pytest.mark.parametrize("name", hooks.__all__)
def test_each_of_them_can_be_made_of_what_the_page_invents(name: str) -> None:
    options, callback = sample(getattr(hooks, name))
    assert callback is not None, options


@pytest.mark.parametrize("name", TEXTUAL)
def test_an_example_in_yaml_is_read_as_it_stands(name: str) -> None:
    entries, mistakes = read_entries(yaml.safe_load(yaml_example(name)), ())
    assert mistakes == []
    (callback,) = [callback for _, callback in entries]
    assert callback.origin is not None
    assert callback.origin.qualname == name


@pytest.mark.parametrize("name", hooks.__all__)
def test_a_page_has_an_example_in_both_languages(name: str) -> None:
    python, yaml_, after = page(name).partition("\n\nin YAML:\n")
    text, mark, example = python.partition("\n\nin Python:\n")
    assert (bool(yaml_), bool(mark)) == (True, True)
    assert after.lstrip().startswith("- ")
    assert example.startswith("  >>> ")
    assert ">>>" not in text


def test_a_page_says_when_it_runs_by_itself() -> None:
    assert "when: every(epochs=1) | once_at_end" in page("checkpoint")
    assert "when:" not in page("offline_loss")


@pytest.mark.parametrize("name", BUILT)
def test_the_name_of_a_class_leads_to_ours(name: str) -> None:
    mine, module = CLASSES[name]
    for kind in (name, f"noether.core.callbacks.{module}.{name}"):
        first, _, rest = page(kind).partition("\n\n")
        assert first == f"{kind} is `kind: {mine}` here"
        assert rest == page(mine)


def test_what_has_no_page_is_answered_with_what_there_is_instead() -> None:
    assert said("EtaCallback") == "EtaCallback: " + said("eta").removeprefix("eta: ")
    assert "the live line is there without an entry" in said("eta")
    for name in BASES:
        assert "use `kind: evaluate`" in said(name)
    assert said("EmaCalback").endswith("Did you mean EmaCallback?")
    assert said("early_stoping").endswith("Did you mean early_stopping?")
    assert "Known here: accuracy" in said("Whatever")


def test_one_of_them_is_told_to_other_tools(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "--json", "OfflineLossCallback"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["name"] == ours("OfflineLossCallback") == "offline_loss"
    assert told["writes"] == ["loss/<dataset>/*", "lossdiff/<dataset>/*"]
    assert told["reads"] == []
    assert main(["hooks", "--json", "ofline_loss"]) == 2


def test_promises_are_lists_for_other_tools() -> None:
    kinds: list[Any] = [each[promise] for each in listing() for promise in ("reads", "writes")]
    assert all(isinstance(kind, list) for kind in kinds)
    assert ["<metric>"] in kinds
