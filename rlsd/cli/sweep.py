"""A sweep: many trials, several at a time, each in a process of its own; what is finished is left alone."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from rlsd.cli.console import say, warn
from rlsd.cli.interrupt import SAVING, stop_on_signals
from rlsd.cli.main import EXIT_INTERRUPTED
from rlsd_envs.lifeline import guard

T = TypeVar("T")
ResultT_co = TypeVar("ResultT_co", covariant=True)

#: Seconds after which the main thread sees a signal that came at the wrong moment.
LOOK_UP = 0.2

#: Seconds that a training gets to end when it is to stop at once, and to save when this process was killed.
_PATIENCE, PATIENCE_WITHOUT_US = 10.0, 60.0

#: The exit code of a process that was lost with the machine it was on.
EXIT_LOST = -1


class SweptTrial(Protocol[ResultT_co]):
    """One of the trials of a sweep."""

    @property
    def label(self) -> str:
        """A name for people."""

    @property
    def log(self) -> Path:
        """What its process says."""

    def result(self) -> ResultT_co | None:
        """Return what it came to, None while it is not finished."""

    def run(self, launcher: Launcher) -> ResultT_co | None:
        """Bring it to its end. None when it failed or was stopped."""


def run_sweep(
    trials: Sequence[SweptTrial[T]],
    jobs: int,
    noun: str,
    told: Callable[[T], str],
    stopping: str = SAVING,
    launcher: Launcher | None = None,
) -> tuple[list[T | None], bool]:
    """Run what is not finished, ``jobs`` at a time, and say what each came to.

    :param noun: what the trials are called, in the plural.
    :param told: what is said of a result.
    :param stopping: what is said to the signal that puts an end to it.
    :param launcher: where the processes run; None for this machine.
    :returns: what each trial came to, None where it is not finished, and whether a signal put an end to it.
    """
    launcher = launcher or Launcher()
    results = [trial.result() for trial in trials]
    missing = [number for number, result in enumerate(results) if result is None]
    say(f"{len(trials)} {noun}: {len(trials) - len(missing)} finished, {len(missing)} to run, {jobs} at a time")
    with ThreadPoolExecutor(jobs) as pool, stop_on_signals(launcher.stop, stopping):
        futures = {pool.submit(trials[number].run, launcher): number for number in missing}
        try:
            for done, future in enumerate(as_finished(futures), 1):
                trial, result = trials[futures[future]], future.result()
                results[futures[future]] = result
                progress = f"[{done} of {len(missing)}]"
                if launcher.stopping:
                    continue
                if result is None:
                    warn(f"  {trial.label}: failed, see {trial.log}: {last_line(trial.log)}  {progress}")
                else:
                    say(f"  {trial.label}: {told(result)}  {progress}")
        except KeyboardInterrupt:
            launcher.stop()
    return results, launcher.stopping


class Launcher:
    """Runs processes of ``rlsd`` that can be stopped together."""

    #: How often a trial is gone on with whose process was lost.
    tries = 1

    def __init__(self) -> None:
        self.stopping = False
        self._kill_at = math.inf
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    def stop(self) -> None:
        """Ask the running processes to stop, and start no more. Asked again, they stop at once, or are killed."""
        if self.stopping:
            self._kill_at = time.monotonic() + _PATIENCE
        self.stopping = True
        with self._lock:
            for process in self._running:
                process.terminate()

    def run(self, words: Sequence[str], log: Path) -> int:
        """Run a Python process with these words to its end, and return its exit code.

        :param words: what follows the interpreter: ``-m MODULE ...`` or ``FILE ...``.
        :param log: what it says is added to this file.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            with self._lock:
                if self.stopping:
                    return EXIT_INTERRUPTED
                process = subprocess.Popen(
                    [sys.executable, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                    # Ctrl-C goes to this process alone, which passes it on: two signals would mean "at once".
                    start_new_session=True,
                )
                self._running.add(process)
            guard(process.pid, PATIENCE_WITHOUT_US)
            try:
                return self._end_of(process)
            finally:
                with self._lock:
                    self._running.discard(process)

    def _end_of(self, process: subprocess.Popen[bytes]) -> int:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(LOOK_UP)
            if time.monotonic() > self._kill_at:
                process.kill()


def as_finished(futures: Iterable[Future[T]]) -> Iterator[Future[T]]:
    """Yield futures as they finish, in the main thread.

    It looks up from waiting several times a second. ``as_completed`` waits without end, and a signal that comes just as
    the main thread lies down to wait is answered only when something else wakes it: here, hours later.
    """
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, LOOK_UP, FIRST_COMPLETED)
        yield from done


def last_line(log: Path) -> str:
    """Return the last line of a log that says anything."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
