"""Errors that the person at the keyboard can put right, told apart from faults in the program."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A wrong input. The command line prints its message as one line and exits with code 2."""


def nearest(name: str, known: Iterable[str], show: int = 3) -> str:
    """Return ``"did you mean A or B?"`` with the known names nearest to ``name``, or ``""`` when none is near."""
    names = sorted(set(known))
    by_lower_case = {known_name.lower(): known_name for known_name in names}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=show, cutoff=0.5)
    return f"did you mean {' or '.join(by_lower_case[match] for match in close)}?" if close else ""


def choices(name: str, known: Collection[str], title: str = "known") -> str:
    """Return the names nearest to ``name``, where some are near, and all of them."""
    return f"{nearest(name, known)} {title}: {', '.join(known)}".lstrip()


def one_line(error: BaseException) -> str:
    """Return the message of ``error`` on one line, with its type where the message alone would say nothing."""
    text = " ".join(str(error).split())
    # str(KeyError("x")) is "'x'": without its type nobody would know what went wrong.
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__}: {text}".rstrip(": ")


@contextmanager
def blame_input(what: str = "") -> Iterator[None]:
    """Turn whatever goes wrong inside into a :class:`UserError`, since only the user's input can be the cause.

    To be put around checks and construction, never around training: a fault there is ours, and needs its traceback.

    :param what: which input is read, for messages that do not say so themselves.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {one_line(error)}" if what else one_line(error)) from error
