"""One training of a comparison: found again when it is there, gone on with when it stopped, else run by ``rlsd train``.

Every training is a process of its own, the same that a person would start, and what it reached is read from its folder.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsd.cli.console import warn
from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.main import EXIT_USER_ERROR
from rlsd.cli.options import TrainOptions
from rlsd.cli.runfolder import RunFolder, file_name
from rlsd.cli.sweep import EXIT_LOST, Launcher

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan

#: The last episodes of training that are averaged: how well the policy does while it explores.
TRAINING_EPISODES = 100

#: Flags that a run of the same trial may have otherwise; what they amount to is compared instead, or does not matter.
_NOT_COMPARED = {
    *("n_timesteps", "n_envs", "hyperparams", "recipe", "distill", "config"),
    *("save_freq", "log_folder", "tensorboard_log", "progress", "verbose", "resume", "debug", "trust"),
}


@dataclass(frozen=True)
class Result:
    """What one training reached.

    :param final: mean return of the final agent, deterministic, over ``episodes`` evaluation episodes.
    :param final_std: their standard deviation.
    :param training: mean return of the last training episodes, 100 at most, with exploration; None when none ended.
    :param steps: environment steps.
    :param seconds: of training, without start-up and final evaluation.
    :param sessions: times it was started; more than one when it was stopped and resumed.
    :param code: version and commit it was trained with.
    """

    env: str
    variant: str
    seed: int
    final: float
    final_std: float
    episodes: int
    training: float | None
    steps: int
    seconds: float
    sessions: int
    code: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Trial:
    """One variant on one environment with one seed.

    :param variant: its name.
    :param seed: of everything random.
    :param words: the command line after ``rlsd train``.
    :param plan: what these words amount to; its seed may be another.
    :param folder: where its runs go: ``rlsd train`` adds ``ALGO/ENV_NUMBER``.
    """

    variant: str
    seed: int
    words: tuple[str, ...]
    plan: Plan
    folder: Path

    @property
    def label(self) -> str:
        """A name for people."""
        return f"{self.plan.env_id} {self.variant} seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the training wrote to its terminal."""
        return self.folder / f"{file_name(self.plan.env_id)}.log"

    def result(self) -> Result | None:
        """Return what the trial reached, None while it is not finished."""
        return next((result for run in self._runs() if (result := self._result(run))), None)

    def unfinished(self) -> RunFolder | None:
        """Return the newest run of the trial that can be resumed."""
        runs = [run for run in self._runs() if run.can_be_resumed]
        return runs[-1] if runs else None

    def run(self, launcher: Launcher) -> Result | None:
        """Bring it to its end, from where it is; asked to stop, it saves first. None when it failed or was stopped."""
        for _ in range(launcher.tries):
            if (done := self.result()) is not None or launcher.stopping:
                return done
            stopped = self.unfinished()
            again = EXIT_USER_ERROR if stopped is None else self._train(launcher, ("--resume", str(stopped.root)))
            # A checkpoint that cannot be read is left where it is, and the run is started over.
            code = self._train(launcher, self.words) if again == EXIT_USER_ERROR else again
            if code != EXIT_LOST:
                break
        return self.result()

    def _train(self, launcher: Launcher, words: tuple[str, ...]) -> int:
        """Run ``rlsd train`` to its end, and return its exit code."""
        return launcher.run(("-m", "rlsd", "train", *words), self.log)

    def _runs(self) -> list[RunFolder]:
        """Return the runs in the trial's folder that were started as it would be now, the oldest first."""
        name = file_name(self.plan.env_id)
        places = (self.folder / self.plan.options.algo).glob(f"{name}_*")
        numbered = {int(number): place for place in places if (number := place.name[len(name) + 1 :]).isdigit()}
        runs = [RunFolder(numbered[number], name) for number in sorted(numbered)]
        return [run for run in runs if self._is_mine(run)]

    def _is_mine(self, run: RunFolder) -> bool:
        """Whether the run had the settings of this trial: a default may have changed since, with the same words."""
        options, distill = self.plan.options.to_dict(), self.plan.distill
        try:
            return bool(
                _compared(run.read_yaml("args.yml")) == _compared({**options, "seed": self.seed})
                and run.read_yaml("config.yml") == plain(self.plan.hyperparams.values)
                and (distill is None or run.read_yaml("distill.yml") == plain(distill.to_dict()))
            )
        except UserError:  # a run that was cut off while its folder was made
            return False

    def _result(self, run: RunFolder) -> Result | None:
        """Return what a run reached, None while it is not finished, and where its files cannot be read."""
        try:
            with blame_input(f"{run.root} is damaged"):
                return self._reached(run)
        except UserError as error:
            _warn_once(f"not taken for finished: {error}")
            return None

    def _reached(self, run: RunFolder) -> Result | None:
        found = run.read_results()
        if found.get("timesteps", 0) < self.plan.n_timesteps or "mean_reward" not in found:
            return None
        sessions = run.read_yaml("run.yml")["sessions"]
        return Result(
            env=self.plan.env_id,
            variant=self.variant,
            seed=self.seed,
            final=float(found["mean_reward"]),
            final_std=float(found["std_reward"]),
            episodes=int(found["n_eval_episodes"]),
            training=training_return(run.monitor),
            steps=int(found["timesteps"]),
            seconds=float(found["wall_clock_seconds"]),
            sessions=len(sessions),
            code=f"{sessions[-1]['versions']['rlsd']} {sessions[-1]['git_commit'] or ''}".strip(),
        )


def training_return(monitor: Path) -> float | None:
    """Return the mean return of the last episodes in a file of SB3's ``Monitor``, None when it has none."""
    try:
        lines = monitor.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    returns = [float(row["r"]) for row in csv.DictReader(lines[1:])][-TRAINING_EPISODES:]
    return sum(returns) / len(returns) if returns else None


@cache
def _warn_once(text: str) -> None:
    """Warn of what is found again whenever it is looked for."""
    warn(text)


def plain(data: Any) -> Any:
    """Return ``data`` as it comes back from a file: tuples are lists there."""
    return json.loads(json.dumps(data))


def _compared(args: dict[str, Any]) -> Any:
    flags = {**TrainOptions().to_dict(), **args}
    return plain({key: value for key, value in flags.items() if key not in _NOT_COMPARED})
