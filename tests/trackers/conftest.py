"""Where trackers' libraries may write."""

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What trackers keep of themselves goes where tests may write."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if "trackio" not in sys.modules:  # it looks once
            os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))
        for name in ("CACHE", "CONFIG", "DATA"):
            monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield
