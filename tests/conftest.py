"""Profiles and settings of the whole suite."""

import os

import hypothesis
import pytest
import torch

# Two test processes on two cores: more threads would only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
hypothesis.settings.register_profile("default", max_examples=100, deadline=None, print_blob=True)
hypothesis.settings.register_profile("deep", max_examples=1000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
