"""One process at a time in the folder of a run, whoever comes second and whatever became of the first."""

import os
import signal
import socket
import subprocess
import sys

import filelock  # noqa: F401 - before a test says that this is Windows, by which it would choose its locks
import pytest

from rlsd.cli import lock
from rlsd.cli.errors import UserError
from rlsd.cli.lock import locked

HOLDS = """
import os, sys, time
from pathlib import Path
from rlsd.cli.lock import locked
with locked(Path(sys.argv[1])):
    if len(sys.argv) > 2 and os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that trains in the folder, as far as others can tell."""
    started = []

    def start(*words):
        path = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-c", HOLDS, str(tmp_path), *words]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": path}))
        said = [started[-1].stdout.readline().strip() for _ in range(1 + len(words))]
        return started[-1], said

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refused(folder):
    with pytest.raises(UserError) as caught, locked(folder):
        pass
    return str(caught.value)


def test_the_second_is_told_who_is_there_on_which_machine_and_since_when(tmp_path, holder):
    process, _ = holder()
    said = refused(tmp_path)
    assert said.startswith(f"process {process.pid} on {socket.gethostname()}, since 2"), said
    assert said.endswith(f"trains in {tmp_path}: wait for its end, or stop it"), said
    assert "\n" not in said


def _remove_all(folder):
    for path in folder.iterdir():
        path.unlink()


def _close_all(folder):
    for path in folder.iterdir():
        path.chmod(0)


def _another_users(folder):
    for name in (lock.LOCK, lock.HOLDER):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()  # nobody can open it, root neither


@pytest.mark.parametrize("harm", [_remove_all, _close_all, _another_users, lambda folder: folder.chmod(0o555)])
def test_no_file_that_is_gone_or_closed_opens_the_folder(tmp_path, holder, harm):
    holder()
    harm(tmp_path)
    try:
        assert "trains in" in refused(tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_a_child_that_outlives_a_killed_process_does_not_keep_the_lock(tmp_path, holder):
    process, said = holder("forks")
    child = next(int(word) for word in said if word.isdigit())
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_lock_ends_with_the_block_and_leaves_nothing(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            assert [path.name for path in tmp_path.iterdir()] == [lock.HOLDER]
            assert "trains in" in refused(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_locked_is_said_to_be_open(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(lock.fcntl, "flock", fail)
    with locked(tmp_path):
        assert f"{tmp_path} cannot be locked (no locks available)" in capsys.readouterr().err


def test_where_folders_cannot_be_opened_a_file_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with locked(tmp_path):
        assert "trains in" in refused(tmp_path)
    with locked(tmp_path):
        pass
