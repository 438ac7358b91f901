"""A dataclass becomes the flags of a command."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rlsd.cli.errors import UserError
from rlsd.cli.flags import Count, MaybeCount, MaybeText, check_lowest, read_flags


@dataclass
class Options:
    """Some of each kind."""

    steps: Count = 8
    """How many."""
    jobs: MaybeCount = None
    """How many at once."""
    file: MaybeText = None
    """Where to."""


def read(*words):
    return read_flags(Options(), "rlsd example", words)


def test_what_is_not_said_is_as_it_was_and_counts_may_be_written_short():
    assert read() == Options()
    assert read("--steps", "1e5", "--file", "3") == Options(steps=100_000, file="3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--steps", "1.5"), "'1.5' is not a whole number"),
        (("--stepz", "3"), "did you mean --steps"),
        (("stray",), "stray"),
    ],
)
def test_a_wrong_word_is_one_line(words, said):
    with pytest.raises(UserError) as caught:
        read(*words)
    assert said in str(caught.value) and "\n" not in str(caught.value) and "│" not in str(caught.value)


def test_help_is_what_the_docstrings_say(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    assert "How many at once." in capsys.readouterr().out


def test_a_number_below_the_lowest_is_named():
    check_lowest(Options(jobs=None), {"jobs": 1, "steps": 0})
    with pytest.raises(UserError, match=r"^--steps must be 9 or more, got 8$"):
        check_lowest(Options(), {"steps": 9})
