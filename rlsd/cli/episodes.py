"""A line per training episode in ``*.monitor.csv``, in the format of SB3's ``Monitor``.

Written by a callback, not by the environments: it is the same for every kind of environment, a resumed run goes on in
the same file, and no open file keeps an environment from being saved in a checkpoint.
"""

from __future__ import annotations

import time
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import ResultsWriter


class EpisodeLog(BaseCallback):
    """Writes return, length and time of every finished training episode.

    :param path: the file; when it exists, lines are added.
    :param env_id: for the file's header.
    """

    def __init__(self, path: Path, env_id: str) -> None:
        super().__init__()
        self._path = path
        self._env_id = env_id
        self._writer: ResultsWriter | None = None
        self._zero = 0.0

    def _on_training_start(self) -> None:
        # Seconds go on from where the last session ended, so that the curve has no gap and no step back.
        self._zero = time.time() - _last_second(self._path)
        header: dict[str, float | str] = {"t_start": self._zero, "env_id": self._env_id}
        self._writer = ResultsWriter(str(self._path), header=header, override_existing=not self._path.exists())

    def _on_step(self) -> bool:
        for info in self.locals.get("infos", ()):
            episode = info.get("episode")
            if episode is not None and self._writer is not None:
                seconds = round(time.time() - self._zero, 6)
                self._writer.write_row({"r": float(episode["r"]), "l": int(episode["l"]), "t": seconds})
        return True

    def close(self) -> None:
        """Close the file. SB3 does not say when training ends by an exception, so this is for a ``finally``."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _last_second(path: Path) -> float:
    """Return the time in the last line of the file, 0 when there is none."""
    if not path.exists():
        return 0.0
    try:
        return float(path.read_text(encoding="utf-8").splitlines()[-1].split(",")[2])
    except (IndexError, ValueError):
        return 0.0
