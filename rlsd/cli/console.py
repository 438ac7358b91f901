"""The one place that writes to the terminal: results on stdout, warnings and errors on stderr.

Nothing that is said can end what is being done: a stream that is full, closed or gone swallows what it cannot take.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO


def say(text: str = "") -> None:
    """Write a line of ordinary output."""
    _write(text, sys.stdout)


def warn(text: str) -> None:
    """Write a line on stderr, where it does not mix with output that is piped on."""
    _write(text, sys.stderr)


def _write(text: str, stream: TextIO | None) -> None:
    # Without a stream, or with one that somebody closed (ValueError), nobody listens.
    with suppress(OSError, ValueError):
        if stream is not None:
            print(text, file=stream, flush=True)


class _Swallowing(io.FileIO):
    """A file that takes whatever is written, and loses what its disk or reader does not take."""

    def write(self, data: object) -> int:
        """Write ``data``; what cannot be written counts as written."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def swallowing(stream: TextIO | None) -> TextIO:
    """Return a stream to the same place that raises nothing: not when that is full, closed, gone or knows no ``±``.

    Everybody who prints is meant, SB3's tables and an environment's own words too.

    :param stream: of this process; None where it was started without one.
    """
    try:
        assert stream is not None
        handle = stream.fileno()
        os.fstat(handle)
    except (AssertionError, OSError, ValueError, AttributeError):
        return open(os.devnull, "w", encoding="utf-8")
    with suppress(OSError, ValueError):
        stream.flush()
    raw = _Swallowing(handle, "w", closefd=False)
    raw.name = getattr(stream, "name", handle)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=True, write_through=True
    )


def swallow_failures() -> None:
    """Let this process write to streams that raise nothing, and give it all three.

    A process that is started without one gives its number to the next file that it opens: what C code writes to the
    terminal would end up in there.
    """
    for handle in (0, 1, 2):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    sys.stdout, sys.stderr = swallowing(sys.stdout), swallowing(sys.stderr)
