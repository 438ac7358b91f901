"""Processes of a sweep as Ray tasks: their exit codes come back, and one that is lost or cancelled is told apart."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from ray_here import MARKS

from rlsd.cli.main import EXIT_INTERRUPTED
from rlsd.cli.sweep import EXIT_LOST

pytestmark = MARKS


@pytest.fixture(scope="module")
def launcher(cluster: None) -> Any:
    """A launcher on a Ray of this machine."""
    from rlsd.cli.ray_launcher import RayLauncher

    return RayLauncher("auto")


def test_what_a_process_says_and_its_exit_code_come_back(launcher, tmp_path):
    log = tmp_path / "deep" / "log"
    assert launcher.run(("-c", "print('hello'); raise SystemExit(3)"), log) == 3
    assert log.read_text() == "hello\n"
    assert launcher.cpus == 2


def test_a_process_that_is_lost_with_its_task_is_told_apart_from_one_that_failed(launcher, tmp_path):
    code = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"  # the task that waits for it
    assert launcher.run(("-c", code), tmp_path / "log") == EXIT_LOST


def test_a_process_is_asked_to_stop_when_the_sweep_is(launcher, tmp_path):
    log, codes = tmp_path / "log", []
    code = (
        "import signal, threading; stop = threading.Event(); signal.signal(signal.SIGTERM, lambda *_: stop.set()); "
        "print('here', flush=True); stop.wait(120); print('saved', flush=True)"
    )
    running = threading.Thread(target=lambda: codes.append(launcher.run(("-c", code), log)))
    running.start()
    _wait_for(log, "here")
    launcher.stop()
    running.join(120)
    _wait_for(log, "saved")
    assert codes == [EXIT_INTERRUPTED]
    assert launcher.run(("-c", "print('more')"), log) == EXIT_INTERRUPTED, "it starts more"
    launcher.stopping = False


def _wait_for(log: Path, word: str) -> None:
    """Wait until a process has said a word."""
    said = threading.Event()
    for _ in range(600):
        if log.is_file() and word in log.read_text():
            return
        said.wait(0.1)
    pytest.fail(f"{word!r} was not said")
