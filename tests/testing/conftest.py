"""Settings of the tests of laws that are broken on purpose."""

from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings


@pytest.fixture
def unshrunk() -> Iterator[None]:
    """The first example that breaks a law will do."""
    usual = settings.get_current_profile_name()
    settings.register_profile("unshrunk", settings.get_profile(usual), phases=[Phase.generate])
    settings.load_profile("unshrunk")
    yield
    settings.load_profile(usual)
