"""Ctrl-C and SIGTERM: the first asks training to stop where it can go on exactly, the second stops it at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rlsd.cli.console import warn

SAVING = "Stopping at the end of this rollout, to save. Once more stops at once."


@contextmanager
def stop_on_signals(request_stop: Callable[[], None], answering: str = SAVING) -> Iterator[None]:
    """While inside, answer the first signal by ``request_stop()`` and the next by ``KeyboardInterrupt``.

    Outside the main thread, where Python delivers no signals, this does nothing.

    :param answering: what is said to the first signal.
    """
    asked = False

    def answer(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        warn(answering)
        request_stop()

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, answer)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
