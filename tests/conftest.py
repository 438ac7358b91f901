"""Settings of the whole suite: one thread, examples that hypothesis draws the same way every time, and one Ray."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from torch.distributions import Distribution

# Small networks run slower on several threads than on one, and tests run side by side.
torch.set_num_threads(1)

hypothesis.settings.register_profile("rlsd", deadline=None, derandomize=True, max_examples=15)
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


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One Ray on this machine for all tests that need it, with little memory, whose workers find the tests' modules."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'rlsd[ray]'")
    settings = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "object_store_memory": 100 * 2**20}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        warnings.simplefilter("ignore")
        try:
            ray.init("local", **settings)
        except Exception:  # a busy machine may need longer than the 30 s that Ray waits
            ray.shutdown()
            ray.init("local", **settings)
    yield
    ray.shutdown()
