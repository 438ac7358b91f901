"""The lines on the terminal at a run's end."""

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlsd.cli.report import say_stopped
from rlsd.cli.session import End


def going_on(capsys):
    """Return the words by which a stopped run is said to go on."""
    session = SimpleNamespace(
        agent=SimpleNamespace(num_timesteps=512),
        plan=SimpleNamespace(n_timesteps=1024),
        folder=SimpleNamespace(root=Path("logs/my runs/A-v0_1")),
        end=End.SAVED,
    )
    say_stopped(session)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Go on with: "), last
    return shlex.split(last.removeprefix("Go on with: "))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a program ``rlsd``; nothing is on the path, and Python is elsewhere."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rlsd").touch(mode=0o755)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "empty" / "python"))
    return tmp_path


RESUME = ["train", "--resume", "logs/my runs/A-v0_1"]


def test_a_stopped_run_goes_on_with_the_program_on_the_path(folder, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert going_on(capsys) == ["rlsd", *RESUME]


def test_a_stopped_run_goes_on_with_the_program_beside_python(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python"))
    assert going_on(capsys) == ["bin/rlsd", *RESUME]


def test_a_stopped_run_goes_on_with_python_itself_where_there_is_no_program(folder, monkeypatch, capsys):
    assert going_on(capsys) == [sys.executable, "-m", "rlsd", *RESUME]
    monkeypatch.undo()
    done = subprocess.run([sys.executable, "-m", "rlsd", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("rlsd "), done.stderr
