"""Returns and lengths of episodes, as SB3's ``Monitor`` counts them, for all environments at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import ResultsWriter


class EpisodeStatistics:
    """Adds up rewards and steps of each environment, and says at the end of an episode what SB3's ``Monitor`` would.

    All environments write to one file, where SB3's ``Monitor`` opens one for each: a thousand environments would
    exhaust a process's file handles. ``load_results`` of SB3 reads both alike.

    :param n_envs: number of environments
    :param monitor_file: write ``<monitor_file>.monitor.csv`` with a line per episode; None writes nothing
    :param env_id: for the header of that file
    """

    def __init__(self, n_envs: int, monitor_file: Path | None = None, env_id: str = "None") -> None:
        self.started = time.time()
        self.returns = np.zeros(n_envs, dtype=np.float64)
        self.lengths = np.zeros(n_envs, dtype=np.int64)
        self._writer: ResultsWriter | None = None
        if monitor_file is not None:
            self._writer = ResultsWriter(str(monitor_file), header={"t_start": self.started, "env_id": env_id})

    def restart(self) -> None:
        """Forget the episodes that are running: the environments were reset."""
        self.returns[:] = 0.0
        self.lengths[:] = 0

    def add(self, rewards: NDArray[Any]) -> None:
        """Add the rewards ``(n_envs,)`` of one step."""
        self.returns += rewards
        self.lengths += 1

    def finish(self, index: int) -> dict[str, float]:
        """End the episode of one environment.

        :return: ``r`` its return, ``l`` its length in steps, ``t`` seconds since this object was made
        """
        episode = {
            "r": round(float(self.returns[index]), 6),
            "l": int(self.lengths[index]),
            "t": round(time.time() - self.started, 6),
        }
        self.returns[index] = 0.0
        self.lengths[index] = 0
        if self._writer is not None:
            self._writer.write_row(episode)
        return episode

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._writer is not None:
            self._writer.close()
