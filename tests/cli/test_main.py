"""``rlsd`` itself."""

import os
import sys

import pytest

import rlsd
from rlsd.cli.console import say, warn
from rlsd.cli.errors import UserError
from rlsd.cli.main import COMMANDS, main


def test_version_and_help(capsys):
    assert main(["--version"]) == 0, "--version"
    assert capsys.readouterr().out == f"rlsd {rlsd.__version__}\n", "version"
    for words in ([], ["--help"]):
        assert main(words) == 0, "help"
        text = capsys.readouterr().out
        assert all(name in text for name in COMMANDS), "a command is not in the help"


def test_an_unknown_command_gets_the_nearest(capsys):
    assert main(["trian"]) == 2, "exit code"
    assert "did you mean train?" in capsys.readouterr().err, "hint"


def test_the_recipes_are_listed_with_a_line_each(capsys):
    assert main(["recipes"]) == 0, "exit code"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(rlsd.recipes()), "names"
    assert all(len(line.split()) > 3 for line in lines), "descriptions"
    assert main(["recipes", "--help"]) == 0, "help"
    assert main(["recipes", "x"]) == 2, "recipes takes nothing"


def test_debug_shows_where_an_error_came_from(capsys, monkeypatch):
    def fail(words):
        raise UserError("wrong") from ValueError("deep down")

    monkeypatch.setattr("rlsd.cli.train.run", fail)
    assert main(["train"]) == 2, "exit code"
    assert capsys.readouterr().err == "error: wrong\n", "a traceback was shown unasked"
    assert main(["train", "--debug"]) == 2, "exit code"
    assert "deep down" in capsys.readouterr().err, "no traceback"


def test_ctrl_c_before_training_is_no_traceback(capsys, monkeypatch):
    def stop(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlsd.cli.train.run", stop)
    assert main(["train"]) == 130, "exit code"
    assert capsys.readouterr().err == "stopped\n", "message"


@pytest.mark.parametrize(("speak", "name"), [(say, "stdout"), (warn, "stderr")])
def test_a_reader_that_has_gone_stops_nothing(monkeypatch, speak, name):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, name, stream)
        speak("heard")
        assert os.read(reader, 100) == b"heard\n", "while somebody reads"
        os.close(reader)
        speak("unheard")
        speak("unheard")
