"""The `trackers:` of a configuration's `run:`, by their short names."""

from collections.abc import Mapping
from typing import Any

from noether.config.hints import Mistake
from noether.config.structure import parameters, structured
from noether.config.words import found
from noether.errors import suggestion


def read_trackers(written: Any) -> tuple[list[Any], list[Mistake]]:
    """The trackers, and every mistake in them.

    >>> [tracker.name for tracker in read_trackers(["csv", {"kind": "jsonl", "path": "a"}])[0]]
    ['csv', 'jsonl']
    """
    if not isinstance(written, list):
        return [], [Mistake((), f"expected a list of names, found {found(written)}")]
    trackers, mistakes = [], []
    for index, entry in enumerate(written):
        tracker, wrong = _read(entry)
        trackers += [] if tracker is None else [tracker]
        mistakes += [mistake.under(index) for mistake in wrong]
    return trackers, mistakes


def _read(entry: Any) -> tuple[Any, list[Mistake]]:
    from noether import trackers  # late: it reads journals

    options = dict(entry) if isinstance(entry, Mapping) else {"kind": entry}
    kind = options.pop("kind", None)
    known = {name: getattr(trackers, name) for name in trackers.__all__ if name.islower()}
    if not isinstance(kind, str) or kind not in known:
        expected = f"expected a tracker, found {found(kind)}. {suggestion(str(kind), known)}"
        return None, [Mistake(("kind",) if isinstance(entry, Mapping) else (), expected)]
    made = known[kind]
    values, mistakes = structured(parameters(made), options, lambda entry: (None, []))
    return (None, mistakes) if mistakes else (made(**values), [])
