"""The one place that writes to the terminal: results on stdout, warnings and errors on stderr."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def say(text: str = "") -> None:
    """Write a line of ordinary output."""
    _write(text, sys.stdout)


def warn(text: str) -> None:
    """Write a line on stderr, where it does not mix with output that is piped on."""
    _write(text, sys.stderr)


def _write(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        # Who read it has gone, as `| head` does, and what is being done goes on unheard.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
