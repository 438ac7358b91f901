"""Errors are short, and help."""

import pytest

from rlsd.cli.errors import UserError, blame_input, choices, nearest, one_line


def test_the_nearest_names_are_offered_whatever_their_case():
    assert nearest("cartpole-v1", ["CartPole-v1", "Ant-v5"]) == "did you mean CartPole-v1?", "case mattered"
    assert nearest("zzz", ["CartPole-v1"]) == "", "something far off was offered"


def test_all_names_are_listed_behind_the_nearest():
    assert choices("b", ["a", "b1"]) == "did you mean b1? known: a, b1"
    assert choices("zzz", ["a", "b"], "commands") == "commands: a, b", "a blank for a name that is not near"


def test_a_message_of_many_lines_becomes_one():
    assert one_line(ValueError("a\n  b\n\nc")) == "a b c", "line breaks stayed"
    assert one_line(KeyError("x")) == "KeyError: 'x'", "a bare key says nothing"
    assert one_line(AssertionError()) == "AssertionError", "an empty message says nothing"


def test_what_goes_wrong_over_input_is_the_users_to_mend():
    with pytest.raises(UserError, match=r"^reading x: bad$") as caught, blame_input("reading x"):
        raise RuntimeError("bad")
    assert isinstance(caught.value.__cause__, RuntimeError), "--debug could not show where it happened"
    with pytest.raises(UserError, match=r"^as it is$"), blame_input("reading x"):
        raise UserError("as it is")


def test_ctrl_c_is_nobodys_mistake():
    with pytest.raises(KeyboardInterrupt), blame_input():
        raise KeyboardInterrupt
