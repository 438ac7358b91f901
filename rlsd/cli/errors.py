"""Errors that the person at the keyboard can put right, told apart from faults in the program."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A wrong input. The command line prints its message as one line and exits with code 2."""


class MachineError(Exception):
    """The machine refused something, such as room on its disk. One line, and exit code 1."""


#: What a machine refuses whatever is asked of it, by the numbers that this system has for that.
_REFUSALS = {
    getattr(errno, name)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EROFS",
        "EIO",
        "ESTALE",
        "ENODEV",
        "EMFILE",
        "ENFILE",
        "ENOMEM",
        "EAGAIN",
    )
    if hasattr(errno, name)
}
#: How the errors of libraries that are written in Rust end.
_RUST = re.compile(r"\(os error (\d+)\)")


def nearest(name: str, known: Iterable[str], show: int = 3) -> str:
    """Return ``"did you mean A or B?"`` with the known names nearest to ``name``, or ``""`` when none is near."""
    names = sorted(set(known))
    by_lower_case = {known_name.lower(): known_name for known_name in names}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=show, cutoff=0.5)
    return f"did you mean {' or '.join(by_lower_case[match] for match in close)}?" if close else ""


def choices(name: str, known: Collection[str], title: str = "known") -> str:
    """Return the names nearest to ``name``, where some are near, and all of them."""
    return f"{nearest(name, known)} {title}: {', '.join(known)}".lstrip()


#: Characters of a message that a terminal is shown.
_LONGEST = 4000


def one_line(error: BaseException) -> str:
    """Return the message of ``error`` on one line, with its type where the message alone would say nothing."""
    text = " ".join(str(error)[:_LONGEST].split())
    # str(KeyError("x")) is "'x'": without its type nobody would know what went wrong.
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__}: {text}".rstrip(": ")


def refusal(error: BaseException) -> str | None:
    """Return in one line what the machine refused, where ``error`` was raised because of that; else None.

    Libraries raise errors of their own where a file cannot be written, in the midst of handling the system's.
    """
    if isinstance(error, OSError):
        return _described(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _REFUSALS:
            return _described(cause)
        if (found := _RUST.search(str(cause))) and int(found[1]) in _REFUSALS:
            return os.strerror(int(found[1]))
        cause = cause.__cause__ or cause.__context__
    return None


def _described(error: OSError) -> str:
    if not error.strerror:
        return one_line(error)
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


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
