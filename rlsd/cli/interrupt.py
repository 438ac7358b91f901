"""Ctrl-C, SIGTERM and SIGHUP: what they do at each stage of a command, and who answers them."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rlsd.cli.console import warn
from rlsd_envs.lifeline import SIGNALS

SAVING = "Stopping at the end of this rollout, to save. Once more stops at once."

#: Seconds. ``timeout`` and SLURM send a signal to a process and to its group: these two are one wish.
TOGETHER = 0.5

_last_signal = -math.inf


@contextmanager
def on_signals(answer: Callable[[], None]) -> Iterator[None]:
    """While inside, call ``answer`` for each signal, once for signals that come together.

    Outside the main thread, where Python delivers no signals, this does nothing. What ``nohup`` ignores stays ignored.
    """
    here = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        global _last_signal
        if os.getpid() != here:  # a forked worker: the main process answers for it
            return
        before, _last_signal = _last_signal, time.monotonic()
        if _last_signal - before >= TOGETHER:
            answer()

    before = {}
    try:
        for number in SIGNALS:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt() -> NoReturn:
    """Answer a signal by ``KeyboardInterrupt``, as Python answers Ctrl-C."""
    raise KeyboardInterrupt


def ignore() -> None:
    """Answer a signal by nothing: what is being done is short, and should not be torn."""


@contextmanager
def stop_on_signals(request_stop: Callable[[], None], answering: str = SAVING) -> Iterator[Callable[[], bool]]:
    """While inside, answer the first signal by ``request_stop()`` and the next by ``KeyboardInterrupt``.

    :param answering: what is said to the first signal.
    :returns: a function that tells whether there was one.
    """
    asked = False

    def answer() -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        request_stop()
        warn(answering)

    with on_signals(answer):
        yield lambda: asked
