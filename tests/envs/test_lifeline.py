"""Workers live on when a whole group is sent a signal, and end with the main process and whatever they started."""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from rlsd_envs.lifeline import SIGNALS

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="what the tests watch processes with is Linux's")

#: Says the process ids of its workers and of what those started, and does what it is told.
PROGRAM = """
import os, signal, sys
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv
from toy_environments import Starter
from rlsd_envs.lifeline import guard, sheltered
from rlsd_envs.workers import WorkerVecEnv

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    kind, method = sys.argv[1:]
    if kind == "ours":
        env = WorkerVecEnv([Starter, Starter], method)
    else:
        guard(os.getpid())
        with sheltered():
            env = SubprocVecEnv([Starter, Starter], method)
    env.reset()
    print(*(pid for pids in env.env_method("family") for pid in pids), flush=True)
    for word in sys.stdin:
        if word == "step\\n":
            env.step(np.array([1, 1]))
        elif word == "hang\\n":
            env.step_async(np.array([2, 2]))
        elif word == "close\\n":
            env.close()
        print(word, end="", flush=True)
"""

WORKERS = [("ours", "fork")] + [
    pytest.param(kind, method, marks=pytest.mark.slow)
    for kind, method in [("ours", "forkserver"), ("ours", "spawn"), ("sb3", "forkserver"), ("sb3", "spawn")]
]


HOW = ["close", *(pytest.param(how, marks=pytest.mark.slow) for how in ("hang then close", "the end"))]


@pytest.fixture
def start(tmp_path):
    """Starts the program as the leader of a group, and leaves nothing of it behind."""
    (tmp_path / "program.py").write_text(PROGRAM)
    programs, families, handles = [], [], []

    def begin(kind, method):
        paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        program = subprocess.Popen(
            [sys.executable, tmp_path / "program.py", kind, method],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,
            text=True,
        )
        programs.append(program)
        pids = [int(pid) for pid in program.stdout.readline().split()]
        assert len(pids) == 4, "it did not start"
        families.extend(pids)
        handles.extend(os.pidfd_open(pid) for pid in pids)
        return program, handles[-4:]

    yield begin
    for program in programs:
        program.kill()
        program.wait()
        for stream in (program.stdin, program.stdout):
            with suppress(OSError):
                stream.close()
    for watched in handles:
        os.close(watched)
    for pid in families:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def do(program, word):
    program.stdin.write(word + "\n")
    program.stdin.flush()
    return program.stdout.readline().strip()


def has_ended(watched, seconds=60):
    """Whether a process ends within a time, which is waited only where it does not."""
    return bool(select.select([watched], [], [], seconds)[0])


@pytest.mark.parametrize(("kind", "method"), WORKERS)
def test_workers_outlive_signals_to_the_group_and_end_with_the_main_process(start, kind, method):
    program, family = start(kind, method)
    for number in SIGNALS:
        os.killpg(program.pid, number)
        assert do(program, "step") == "step", f"signal {number} ended a worker"
    assert not any(has_ended(one, 0) for one in family[::2]), "a worker has ended"
    assert do(program, "hang") == "hang"
    program.kill()
    assert all(has_ended(one) for one in family), "something outlived the main process"


@pytest.mark.parametrize(("kind", "method"), WORKERS[:2])
@pytest.mark.parametrize("how", HOW)
def test_what_an_environment_left_running_ends_with_its_worker(start, kind, method, how):
    program, family = start(kind, method)
    for word in how.split(" then ") if how != "the end" else ():
        assert do(program, word) == word
    program.stdin.close()
    assert all(has_ended(one) for one in family), "something was left"
    assert program.wait(60) == 0, "it did not end by itself"
