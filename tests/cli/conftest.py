"""Settings of the command line's tests."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator

import pytest

from rlsd.cli import interrupt
from rlsd_envs.lifeline import SIGNALS


@pytest.fixture(autouse=True)
def _long_after_the_last_signal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no signal come together with that of the test before, and ``nohup`` and ``&`` ignore none of them."""
    monkeypatch.setattr(interrupt, "_last_signal", -math.inf)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
