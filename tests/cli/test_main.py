"""``rlsd`` itself."""

import errno

import pytest
from safetensors import SafetensorError

import rlsd
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


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "logs/a.zip"),
        OSError(errno.EROFS, "Read-only file system", "logs"),
        OSError(errno.EMFILE, "Too many open files"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "logs/gone"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=repr,
)
def test_what_the_machine_refuses_is_one_line_and_exit_code_1(capsys, monkeypatch, error):
    def fail(words):
        raise error

    monkeypatch.setattr("rlsd.cli.train.run", fail)
    assert main(["train"]) == 1, "exit code"
    said = capsys.readouterr().err
    assert said.startswith("error: "), said
    assert said.count("\n") == 1, f"more than one line: {said}"
    assert main(["train", "--debug"]) == 1, "exit code"
    assert "Traceback" in capsys.readouterr().err, "no traceback where it was asked for"


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    def fail(words):
        raise TypeError("a mistake")

    monkeypatch.setattr("rlsd.cli.train.run", fail)
    with pytest.raises(TypeError, match="a mistake"):
        main(["train"])
