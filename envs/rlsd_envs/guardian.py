"""A program that waits for its parent's end, and then ends the processes it was told of with all that they started.

Run by its path, without any package, so that it is small and starts at once: ``guardian.py PARENT PIPE``, where PIPE is
a file handle on which lines ``PROCESS GRACE`` come. See :func:`rlsd_envs.lifeline.guard`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

_PERIOD = 0.5  # seconds from one look at what the guarded have started to the next
_SHARE = 0.01  # of a core, at most, that looking takes on a machine with many processes


def main(parent: int, pipe: int) -> None:
    """Wait, and then end them: asked first, killed when they have not ended after the longest grace among them."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # who reads what the parent says should see its end
        os.dup2(nowhere, stream)
    os.set_blocking(pipe, False)
    known: dict[int, str] = {}
    grace = 0.0
    # Not the end of the pipe alone: a forked worker holds it, too.
    while os.getppid() == parent:
        began = time.monotonic()
        grace = max(grace, listen(pipe, known))
        look_around(known)
        period = max(_PERIOD, (time.monotonic() - began) / _SHARE)
        select.select([pipe], [], [], period)
    grace = max(grace, listen(pipe, known))  # its end may come before its first word is heard
    look_around(known)
    send(known, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while known and time.monotonic() < deadline:
        time.sleep(0.05)
        look_around(known)
    send(known, signal.SIGKILL)


def listen(pipe: int, known: dict[int, str]) -> float:
    """Take in whom to guard, and return the longest grace that was asked for."""
    said = b""
    with suppress(BlockingIOError):
        said = os.read(pipe, 65536)
    lines = [line.split() for line in said.decode().splitlines()]
    known |= {int(pid): birth(int(pid)) for pid, _ in lines}
    return max((float(seconds) for _, seconds in lines), default=0.0)


def look_around(known: dict[int, str]) -> None:
    """Forget who has ended, and take in what the others have started."""
    for pid, born in list(known.items()):
        if not born or birth(pid) != born:  # ended, and its number may be another's by now
            del known[pid]
    parents = all_parents()
    parents.pop(os.getpid(), None)
    while added := {pid for pid, parent in parents.items() if parent in known and pid not in known}:
        known |= {pid: birth(pid) for pid in added}


def send(known: dict[int, str], number: int) -> None:
    """Send a signal to each, and to the groups that they lead."""
    for pid in known:
        with suppress(OSError):
            leads = os.getpgid(pid) == pid
            os.killpg(pid, number) if leads else os.kill(pid, number)


def birth(pid: int) -> str:
    """Return what tells a process from others of its number: when it began. Empty when there is none that lives."""
    if os.path.isdir("/proc/self"):
        fields = status(pid)
        return fields[19] if fields and fields[0] not in "ZX" else ""
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "alive"


def all_parents() -> dict[int, int]:
    """Return the parent of every process, as far as the system tells."""
    with suppress(OSError):
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return {pid: int(fields[1]) for pid in pids if (fields := status(pid))}
    return {}


def status(pid: int) -> list[str]:
    """Return a process's state, its parent, and what else the kernel says; nothing when there is none."""
    with suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()
    return []


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
