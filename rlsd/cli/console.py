"""The one place that writes to the terminal: results on stdout, warnings and errors on stderr."""

from __future__ import annotations

import sys


def say(text: str = "") -> None:
    """Write a line of ordinary output."""
    print(text, flush=True)


def warn(text: str) -> None:
    """Write a line on stderr, where it does not mix with output that is piped on."""
    print(text, file=sys.stderr, flush=True)
