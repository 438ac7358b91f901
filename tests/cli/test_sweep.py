"""Waiting for trials, and being interrupted while waiting."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

from rlsd.cli.interrupt import stop_on_signals
from rlsd.cli.sweep import as_finished


def test_all_futures_come_each_once():
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(pow, 2, power) for power in range(20)]
        came = list(as_finished(futures))
    assert sorted(future.result() for future in came) == [2**power for power in range(20)]


def test_a_signal_that_does_not_wake_the_main_thread_is_answered():
    stop, asked = threading.Event(), []

    def work() -> bool:
        os.kill(os.getpid(), signal.SIGINT)  # taken by this thread, as the main one is asleep and has it blocked
        return stop.wait(60)

    def request_stop() -> None:
        asked.append(True)
        stop.set()

    with ThreadPoolExecutor(1) as pool, stop_on_signals(request_stop, "Stopping"):
        started = pool.submit(signal.pthread_sigmask, signal.SIG_UNBLOCK, [signal.SIGINT])
        started.result()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            (future,) = as_finished([pool.submit(work)])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert asked == [True], "the signal was not answered"
    assert future.result(), "it was answered too late"
