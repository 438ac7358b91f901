"""Settings of the command line's tests."""

from __future__ import annotations

import math

import pytest

from rlsd.cli import interrupt


@pytest.fixture(autouse=True)
def _long_after_the_last_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test's signal come together with that of the test before it."""
    monkeypatch.setattr(interrupt, "_last_signal", -math.inf)
