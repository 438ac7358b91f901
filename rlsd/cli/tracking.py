"""``--track``: a run in Weights & Biases, which reads along what goes to TensorBoard, or in MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rlsd.cli.errors import UserError, choices, one_line
from rlsd.cli.extras import need

if TYPE_CHECKING:
    from stable_baselines3.common.logger import Logger

    from rlsd.cli.runfolder import RunFolder

#: What decides a run, flat and plain.
Settings = Mapping[str, Any]
TRACKERS = ("wandb", "mlflow")
#: Holds what a run is called in the tracker, so that it goes on there when it is resumed.
_FILE = "track.yml"
#: Parameters that MLflow takes at a time, and their letters.
_AT_ONCE, _LONGEST = 100, 500


def check(name: str | None) -> None:
    """Raise when a run could not be tracked.

    :raises UserError: when there is no such tracker, it is not installed, or nobody is logged in.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise UserError(f"unknown --track {name!r}; {choices(name, TRACKERS)}")
    need("track", f"--track {name}")
    if name == "wandb" and os.environ.get("WANDB_MODE", "online") not in ("offline", "disabled", "dryrun"):
        import wandb

        try:
            known = bool(wandb.login(prompt=False))
        except Exception as error:
            raise UserError(f"--track wandb: {one_line(error)}") from error
        if not known:
            raise UserError("--track wandb: nobody is logged in: `wandb login`, or WANDB_MODE=offline to sync later")


class Tracker:
    """One run in a tracker.

    :param name: of the tracker.
    :param project: there.
    """

    def __init__(self, name: str, project: str) -> None:
        self.name, self.project = name, project
        self._run: Any = None

    def start(self, settings: Settings, folder: RunFolder, called: str, anew: bool) -> None:
        """Begin the run, or go on with it; before the logger is made, whose files W&B reads along."""
        found = {} if anew or not (folder.params / _FILE).is_file() else folder.read_yaml(_FILE)
        known = found.get(self.name)
        try:
            (self._wandb if self.name == "wandb" else self._mlflow)(settings, folder, called, known)
        except Exception as error:
            raise UserError(f"--track {self.name}: {one_line(error)}") from error

    def _wandb(self, settings: Settings, folder: RunFolder, called: str, known: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=self.project,
            name=called,
            id=known,
            resume="allow",
            config=dict(settings),
            dir=str(folder.root),
            sync_tensorboard=True,
            settings=wandb.Settings(console="off", silent=True),
        )
        folder.write_yaml(_FILE, {self.name: self._run.id})

    def _mlflow(self, settings: Settings, folder: RunFolder, called: str, known: str | None) -> None:
        import mlflow

        mlflow.set_experiment(self.project)
        self._run = mlflow.start_run(run_id=known, run_name=None if known else called)
        if known is None:
            params = [(key, str(value)[:_LONGEST]) for key, value in settings.items()]
            for start in range(0, len(params), _AT_ONCE):
                mlflow.log_params({_plain(key): value for key, value in params[start : start + _AT_ONCE]})
        folder.write_yaml(_FILE, {self.name: self._run.info.run_id})

    def attach(self, logger: Logger) -> None:
        """Have a logger tell the tracker what it is told; W&B reads it from TensorBoard's files."""
        if self.name == "mlflow":
            logger.output_formats.append(_to_mlflow())

    def finish(self, done: bool) -> None:
        """End the run.

        :param done: whether it came to its end.
        """
        if self._run is None:
            return
        if self.name == "wandb":
            self._run.finish(exit_code=0 if done else 1)
        else:
            import mlflow

            mlflow.end_run("FINISHED" if done else "KILLED")
        self._run = None


def _to_mlflow() -> Any:
    """Return what writes the numbers of SB3's log as metrics."""
    import mlflow
    from stable_baselines3.common.logger import KVWriter

    class ToMLflow(KVWriter):
        def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
            numbers = {key: value for key, value in key_values.items() if isinstance(value, int | float | np.number)}
            mlflow.log_metrics({_plain(key): float(value) for key, value in numbers.items()}, step=step)

        def close(self) -> None:
            """Close nothing: the run is ended by its tracker."""

    return ToMLflow()


def _plain(key: str) -> str:
    """Return a key in the letters that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in key)
