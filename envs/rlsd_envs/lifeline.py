"""What ties worker processes to the process that started them: its signals are not for them, its end is.

A terminal, ``timeout``, SLURM and systemd send a signal to all processes of a program. Only the main one can answer it:
it saves, and for that its workers must live on. Where the main process ends, they end, with whatever they started.
"""

from __future__ import annotations

import multiprocessing.util as multiprocessing_util
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that are for the main process alone."""

GRACE_SECONDS = 3.0
"""What workers get to end by themselves when the main process has gone without a word."""

_GUARDIAN = Path(__file__).with_name("guardian.py")
_guardian: tuple[int, int] | None = None  # whose it is, and the pipe to it


@contextmanager
def sheltered() -> Iterator[None]:
    """Let the processes that ``multiprocessing`` executes inside start with :data:`SIGNALS` blocked.

    Whose workers they are makes no difference. Blocked in the moment of the start, since a new interpreter takes
    seconds before it could ignore anything; and not in this process, whose own signals are not to be lost.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which has no groups of processes either
        yield
        return
    plain = multiprocessing_util.spawnv_passfds

    def blocked(path: bytes, args: Any, passfds: Any) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return plain(path, args, passfds)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    multiprocessing_util.spawnv_passfds = blocked
    try:
        yield
    finally:
        multiprocessing_util.spawnv_passfds = plain


def leave_signals_to_the_main_process() -> None:
    """Be a worker: answer no signal, and lead a group of processes of one's own, by which all can be ended.

    What this process starts inherits neither: an environment can terminate its simulator as ever.
    """
    if hasattr(os, "setpgid"):
        with suppress(OSError):  # it leads a session
            os.setpgid(0, 0)
    for number in SIGNALS:
        signal.signal(number, _answer_nothing)
        if hasattr(signal, "siginterrupt"):
            signal.siginterrupt(number, False)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _answer_nothing(*_: object) -> None:
    pass


def end_group(leader: int, seconds: float) -> None:
    """End what is left of the group of a worker that has ended, or does not.

    :param seconds: to end by itself, once asked; after them it is killed.
    """
    if not hasattr(os, "killpg"):
        return
    deadline = time.monotonic() + seconds
    with suppress(OSError):  # as soon as there is nobody left
        os.killpg(leader, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.killpg(leader, 0)
            time.sleep(0.01)
        os.killpg(leader, signal.SIGKILL)


def guard(pid: int, grace: float = GRACE_SECONDS) -> None:
    """Have a process, and whatever it starts, end when this process has: also by ``kill -9``, and when they hang.

    A small process looks after that. Where there is no ``fork``, workers end with the pipe to them.

    :param pid: of a worker, or of this process for whatever it ever starts.
    :param grace: seconds that they get to end by themselves; the longest asked for holds for all.
    """
    global _guardian
    if not hasattr(os, "fork"):
        return
    with suppress(OSError):  # no handle or no process is left: better unguarded than not at all
        if _guardian is None or _guardian[0] != os.getpid():
            _guardian = (os.getpid(), _start_guardian())
        os.write(_guardian[1], f"{pid} {grace}\n".encode())


def _start_guardian() -> int:
    """Start it, and return the pipe on which it is told whom to guard."""
    reader, writer = os.pipe()
    try:
        words = [sys.executable, "-I", "-S", str(_GUARDIAN), str(os.getpid()), str(reader)]
        with sheltered():
            multiprocessing_util.spawnv_passfds(os.fsencode(sys.executable), words, [reader])
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)
    return writer
