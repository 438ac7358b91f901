"""A line per training episode in ``*.monitor.csv``, in the format of SB3's ``Monitor``.

Written by a callback, not by the environments: it is the same for every kind of environment, a resumed run goes on in
the same file, and no open file keeps an environment from being saved in a checkpoint.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import ResultsWriter

from rlsd.cli.console import warn
from rlsd.cli.errors import refusal
from rlsd.io import files


class EpisodeLog(BaseCallback):
    """Writes return, length and time of every finished training episode, and the step it ended at.

    :param path: the file; when it exists, lines are added after those of episodes that ended before the present step.
    :param env_id: for the file's header.
    """

    def __init__(self, path: Path, env_id: str) -> None:
        super().__init__()
        self._path = path
        self._env_id = env_id
        self._writer: ResultsWriter | None = None
        self._zero = 0.0
        self._iteration_start = 0

    def _on_training_start(self) -> None:
        going_on, seconds = _take_up(self._path, self.num_timesteps)
        # Seconds go on from where the last session ended, so that the curve has no gap and no step back.
        self._zero = time.monotonic() - seconds
        header: dict[str, float | str] = {"t_start": time.time() - seconds, "env_id": self._env_id}
        try:
            self._writer = ResultsWriter(str(self._path), header, extra_keys=("step",), override_existing=not going_on)
        except OSError as error:
            self._give_up(error)

    def _on_step(self) -> bool:
        for info in self.locals.get("infos", ()):
            episode = info.get("episode")
            if episode is not None:
                self._write(episode, self.num_timesteps)
        return True

    def _on_rollout_start(self) -> None:
        self._iteration_start = self.model.num_timesteps

    def _on_rollout_end(self) -> None:
        # ARS shows its callbacks no steps, but leaves the episodes of all candidates here.
        if not isinstance(self.model.ep_info_buffer, list):
            return
        step = self._iteration_start
        for episode in self.model.ep_info_buffer:
            step += int(episode["l"])
            self._write(episode, min(step, self.model.num_timesteps))

    def _write(self, episode: dict[str, Any], step: int) -> None:
        if self._writer is not None:
            seconds = round(time.monotonic() - self._zero, 6)
            row = {"r": float(episode["r"]), "l": int(episode["l"]), "t": seconds, "step": step}
            try:
                self._writer.write_row(row)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        warn(f"{self._path} can no longer be written, and training goes on without it: {refusal(error)}")
        with suppress(OSError):
            self.close()

    def close(self) -> None:
        """Close the file. SB3 does not say when training ends by an exception, so this is for a ``finally``."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _take_up(path: Path, step: int) -> tuple[bool, float]:
    """Cut off what a run that was killed had written after its last checkpoint: it will happen again.

    :return: whether there is a file to go on with, and the seconds at its last line.
    """
    if step == 0 or not path.is_file():
        return False, 0.0
    # A line without its end was being written when the run was killed, however well what is there of it reads.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    if len(lines) < 2 or not lines[0].startswith("#"):
        return False, 0.0
    kept, seconds = lines[:2], 0.0
    for row in lines[2:]:
        try:
            _, _, when, ended = row.split(",")
            if int(ended) > step:
                break
            seconds = float(when)
        except ValueError:
            break
        kept.append(row)
    files.write_text(path, "\n".join([*kept, ""]))
    return True, seconds
