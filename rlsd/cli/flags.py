"""From a dataclass to the flags of a command: its docstrings are the ``--help``, a wrong word is one clear line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Annotated, TypeVar

import tyro

from rlsd.cli.errors import UserError

_Options = TypeVar("_Options")


def _read_count(words: list[str]) -> int | None:
    number = float(words[0])
    if not number.is_integer():
        raise ValueError(f"{words[0]!r} is not a whole number")
    return int(number)


_COUNT = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="N",
    # 1e5 is how people write step counts.
    instance_from_str=_read_count,
    is_instance=lambda value: value is None or isinstance(value, int),
    str_from_instance=lambda value: ["auto" if value is None else str(value)],
)
_TEXT = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="TEXT",
    instance_from_str=lambda words: words[0],
    is_instance=lambda value: value is None or isinstance(value, str),
    str_from_instance=lambda value: ["none" if value is None else value],
)
#: A whole number, which may be written ``1e5``; one that may be left to the command; a word that may be left out.
Count = Annotated[int, _COUNT]
MaybeCount = Annotated[int | None, _COUNT]
MaybeText = Annotated[str | None, _TEXT]


def read_flags(default: _Options, prog: str, argv: Sequence[str]) -> _Options:
    """Read the command line into a dataclass.

    :param default: an instance, for what ``argv`` does not mention.
    :param prog: the command, for the help.
    :param argv: the words after it.
    :raises UserError: with tyro's message on one line.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(type(default), prog=prog, args=list(argv), default=default)
    except SystemExit as exit_:
        if exit_.code in (0, None):  # --help
            raise
        raise UserError(_unboxed(complaint.getvalue())) from None


def check_lowest(options: object, lowest: dict[str, int]) -> None:
    """Raise a :class:`UserError` when a flag's number is lower than ``lowest`` says."""
    for name, low in lowest.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} must be {low} or more, got {value}")


def _unboxed(text: str) -> str:
    """Return the first paragraph of a message that tyro drew a box around, and what it thinks was meant."""
    lines = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
    first: list[str] = []
    for line in lines:
        if not line or set(line) == {"─"}:
            break
        first.append(line)
    message = " ".join(first) or " ".join(text.split())
    meant = next((after for line, after in zip(lines, lines[1:], strict=False) if line.startswith("Perhaps")), "")
    hint = re.match(r"\S+(, --\S+)*", meant)
    return f"{message}; did you mean {hint[0]}?" if hint else f"{message}; see --help"
