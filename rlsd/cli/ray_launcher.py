"""The processes of a sweep as Ray tasks, each on a CPU of the cluster. The nodes share the sweep's folders."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlsd.cli.errors import blame_input
from rlsd.cli.main import EXIT_INTERRUPTED
from rlsd.cli.sweep import EXIT_LOST, LOOK_UP, PATIENCE_WITHOUT_US, Launcher
from rlsd.scaling.ray_cluster import connect, import_ray
from rlsd_envs.lifeline import guard


class RayLauncher(Launcher):
    """Runs processes of ``rlsd`` on the nodes of a cluster.

    :param address: of the cluster, ``auto`` or ``HOST:PORT``.
    :raises UserError: when Ray is missing, or nobody answers there.
    """

    #: A node that is lost takes its trainings along: they go on elsewhere, from their latest checkpoint.
    tries = 4

    def __init__(self, address: str) -> None:
        super().__init__()
        with blame_input("--ray"):
            self._ray = import_ray()
            connect(address, {})
        # Ray itself would start a lost one over; Trial.run lets it go on.
        self._task = self._ray.remote(num_cpus=1, max_retries=0)(_process)

    @property
    def cpus(self) -> int:
        """CPUs of the cluster, for a training each."""
        return max(int(self._ray.cluster_resources().get("CPU", 1)), 1)

    def run(self, words: Sequence[str], log: Path) -> int:
        """Run a Python process with these words somewhere, and return its exit code, :data:`EXIT_LOST` for none."""
        log.parent.mkdir(parents=True, exist_ok=True)
        if self.stopping:
            return EXIT_INTERRUPTED
        task, cancelled, errors = self._task.remote(tuple(words), str(log), os.getcwd()), False, self._ray.exceptions
        while True:
            try:
                return int(self._ray.get(task, timeout=LOOK_UP))
            except errors.GetTimeoutError:
                at_once = time.monotonic() > self._kill_at
                if at_once or (self.stopping and not cancelled):
                    self._ray.cancel(task, force=at_once)
                    cancelled = True
            except (errors.RayError, KeyboardInterrupt) as error:  # a cancelled task may raise either
                if self.stopping:
                    return EXIT_INTERRUPTED
                if isinstance(error, (errors.RayTaskError, KeyboardInterrupt)):
                    raise
                return EXIT_LOST  # the node, or the task's process, is gone


def _process(words: tuple[str, ...], log: str, folder: str) -> int:
    """Run a process on the node that this is, and take it along when this is cancelled or killed."""
    with Path(folder, log).open("ab") as file:
        process: Any = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=True,
        )
        guard(process.pid, PATIENCE_WITHOUT_US)
        try:
            while True:  # looking up: what cancels a task does not wake it
                with suppress(subprocess.TimeoutExpired):
                    return int(process.wait(LOOK_UP))
        finally:
            if process.poll() is None:
                process.terminate()  # it saves
                process.wait()
