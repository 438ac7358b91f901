"""One process at a time in the folder of a run."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rlsd.cli.console import warn
from rlsd.cli.errors import UserError, one_line
from rlsd.io import files

if sys.platform != "win32":
    import fcntl

#: Who trains there, in words; the lock on systems where a folder cannot be locked itself.
HOLDER, LOCK = ".holder", ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder. The lock ends with its process, however that ends.

    The folder itself is locked: whoever can read it sees the lock, no file can be removed from under it, and children
    that were forked meanwhile let go of it.

    :raises UserError: when another process trains in it; the message says who.
    """
    with ExitStack() as held:
        try:
            held.enter_context(_folder_locked(folder))
        except (BlockingIOError, TimeoutError) as error:
            raise UserError(f"{_holder(folder)} trains in {folder}: wait for its end, or stop it") from error
        except (OSError, NotImplementedError) as error:
            warn(f"{folder} cannot be locked ({one_line(error)}): see that no other process trains in it")
        else:
            held.enter_context(_name_left(folder))
        yield


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    if sys.platform == "win32":
        import filelock  # with asyncio: too slow for a command that only says what is wrong with it

        with filelock.FileLock(folder / LOCK, timeout=0):
            yield
        return
    handle = _Handle(folder)
    try:
        handle.lock()
        yield
    finally:
        handle.close()


class _Handle:
    """An open folder. A lock lives as long as any copy of its handle, so a forked child closes its own."""

    def __init__(self, folder: Path) -> None:
        self._number: int | None = os.open(folder, os.O_RDONLY)
        os.register_at_fork(after_in_child=self.close)

    def lock(self) -> None:
        assert self._number is not None
        fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        if self._number is not None:
            os.close(self._number)
            self._number = None


@contextmanager
def _name_left(folder: Path) -> Iterator[None]:
    """Leave word of who trains here, for whom the lock keeps out."""
    name = folder / HOLDER
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError):  # the lock holds without it
        files.write_text(name, f"process {os.getpid()} on {socket.gethostname()}, since {since},")
    try:
        yield
    finally:
        with suppress(OSError):
            name.unlink()


def _holder(folder: Path) -> str:
    try:
        return " ".join((folder / HOLDER).read_text(encoding="utf-8", errors="replace").split())[:200]
    except OSError:
        return "another process"
