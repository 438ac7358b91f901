"""The program ``rlsd``, also as ``python -m rlsd``. It answers signals while the rest and torch are imported."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, see :func:`rlsd.cli.main.main`.

    :param words: the words after the program; those of this process by default.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and (name == "SIGINT" or signal.getsignal(number) is not signal.SIG_IGN):
            signal.signal(number, _stop)
    from rlsd.cli import main

    return main.run_program(lambda: main.main(words))


def _stop(number: int, frame: object) -> None:
    """End at once: nothing has begun, and an exception in the midst of imports would come out as any other."""
    try:
        os.write(2, b"stopped\n")
    finally:
        os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
