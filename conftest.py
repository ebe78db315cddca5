"""The examples in the documents run as tests."""

from doctest import ELLIPSIS

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS), SkipParser()],
    patterns=["README.md", "docs/*.md"],
).pytest()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run a document's earlier examples first, where another process was given them."""
    if isinstance(item, SybilItem):
        ran = item.example.namespace.setdefault("__ran__", set())
        for earlier in item.example.document:
            if earlier.start < item.example.start and earlier.start not in ran:
                ran.add(earlier.start)
                earlier.evaluate()
        ran.add(item.example.start)
