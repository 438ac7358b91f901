"""Settings of the whole suite: one thread, and examples that hypothesis draws the same way every time."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from torch.distributions import Distribution

# Small networks run slower on several threads than on one, and tests run side by side.
torch.set_num_threads(1)

hypothesis.settings.register_profile("rlsd", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("rlsd")


def pytest_collection_finish() -> None:
    """Let the garbage collector look no more at a million objects of modules and tests, which stay to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _checks_of_arguments() -> Iterator[None]:
    """Put torch's checks of distribution arguments back: torch.compile switches them off for the whole process."""
    before = Distribution._validate_args
    yield
    Distribution.set_default_validate_args(before)
