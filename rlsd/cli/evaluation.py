"""How good the agent is: now and then during training, and thoroughly at the end."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from rlsd import faults
from rlsd.cli.console import warn
from rlsd.cli.errors import one_line
from rlsd.cli.masks import masked_prediction
from rlsd.cli.runfolder import RunFolder
from rlsd.io import files
from rlsd.io.resume import notes_of
from rlsd.speed.acting import lean_methods
from rlsd.speed.standing_in import standing_in

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

#: Steps of an evaluation's episode after which its return so far is taken: an environment may have no end.
#: Atari's limit is 27,000, the longest of the usual ones.
LONGEST_EPISODE = 30_000

#: Fewer say little: for a return that scatters by s, the mean of 20 scatters by s / 4.5.
FINAL_EPISODES = 20


@dataclass(frozen=True)
class Score:
    """Returns of deterministic evaluation episodes."""

    mean: float
    std: float
    episodes: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.std:.2f} over {self.episodes} episodes"


def cut_endless(evaluation: dict[str, Any], _: Any = None) -> None:
    """End an episode that does not end, in the eyes of SB3's ``evaluate_policy``, whose callback this is."""
    number = evaluation["i"]
    length = int(evaluation["current_lengths"][number])
    if length >= LONGEST_EPISODE and not evaluation["done"]:
        evaluation["dones"][number] = evaluation["done"] = True
        evaluation["info"]["episode"] = {"r": float(evaluation["current_rewards"][number]), "l": length}
        _warn_of_endless()


@cache
def _warn_of_endless() -> None:
    warn(
        f"An episode of an evaluation was cut off after {LONGEST_EPISODE:,} steps, with its return so far: the "
        "environment has no end of its own. Register it with max_episode_steps."
    )


def evaluate(agent: BaseAlgorithm, env: VecEnv, episodes: int) -> Score:
    """Run ``episodes`` episodes of the agent's most likely actions."""
    returns, _ = play(agent.policy, env, episodes)
    return Score(float(np.mean(returns)), float(np.std(returns)), np.size(returns))


def play(policy: BasePolicy, env: VecEnv, episodes: int, deterministic: bool = True) -> tuple[list[float], list[int]]:
    """Run ``episodes`` episodes, and return the return and the length of each.

    :param deterministic: whether the most likely action is taken, and not one that is drawn.
    """
    with standing_in(policy, lean_methods(policy)), standing_in(policy, masked_prediction(policy, env)):
        returns: Any
        lengths: Any
        returns, lengths = evaluate_policy(
            policy, env, episodes, deterministic, return_episode_rewards=True, callback=cut_endless
        )
    return returns, lengths


class Evaluation(EvalCallback):
    """SB3's ``EvalCallback`` that a stopped run can go on with.

    Every evaluation starts from a seed that follows from the step, so its episodes do not depend on how often the run
    was stopped. With ``VecNormalize`` the statistics of the best agent are saved beside it. What was evaluated before
    a checkpoint is part of its notes: no damage to ``evaluations.npz`` lets a worse agent be taken for the best.

    :param env: see :func:`rlsd.cli.environments.evaluation_env`.
    :param folder: where ``best_model.zip`` and ``evaluations.npz`` go; what is there already is loaded.
    :param every: environment steps between evaluations.
    :param episodes: per evaluation.
    :param seed: of the evaluation at step 0.
    :param announce: is handed step and mean return after each evaluation.
    :param then: is called after each.
    """

    def __init__(
        self,
        env: VecEnv,
        folder: RunFolder,
        every: int,
        episodes: int,
        seed: int,
        announce: Callable[[int, float], None],
        then: BaseCallback | None = None,
    ) -> None:
        super().__init__(
            env,
            callback_after_eval=then,
            n_eval_episodes=episodes,
            log_path=str(folder.root),
            best_model_save_path=str(folder.root),
            verbose=0,
        )
        self._folder = folder
        self._every = every
        self._seed = seed
        self._announce = announce
        self.evaluations_average: list[list[float]] = []

    def _init_callback(self) -> None:
        # Without SB3's warning that a training env in worker processes and an evaluation env in this one differ.
        self.eval_freq = max(self._every // self.training_env.num_envs, 1)
        self._load(self.model.num_timesteps)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.n_calls = self.num_timesteps // self.training_env.num_envs

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq != 0:
            return True
        self.eval_env.seed((self._seed + self.num_timesteps) % 2**31)
        best, broken = self.best_mean_reward, faults.in_best(self.model)
        # SB3 writes the file in place, where a kill would leave half of it.
        self.log_path: Any = io.BytesIO()
        self.best_model_save_path = None if broken else str(self._folder.root)
        with standing_in(self.model.policy, masked_prediction(self.model.policy, self.eval_env)):
            going_on = super()._on_step()
        self._judge_average()
        self._write()
        if self.best_mean_reward > best:
            self._found_better(best, broken)
        self._announce(self.num_timesteps, self.last_mean_reward)
        return going_on

    def _judge_average(self) -> None:
        """Evaluate the average of the agent's weights, if one is kept, in the same episodes."""
        average = getattr(self.model, "weight_average", None)
        if average is None:
            return
        self.eval_env.seed((self._seed + self.num_timesteps) % 2**31)
        returns, lengths = play(average.agent().policy, self.eval_env, self.n_eval_episodes)
        self.evaluations_average.append(returns)
        self.logger.record("average/mean_reward", float(np.mean(returns)))
        self.logger.record("average/mean_ep_length", float(np.mean(lengths)))
        self.logger.dump(self.num_timesteps)

    @property
    def average(self) -> float | None:
        """The mean return of the average of the weights in the latest evaluation; None where none is kept."""
        return float(np.mean(self.evaluations_average[-1])) if self.evaluations_average else None

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        cut_endless(locals_)
        super()._log_success_callback(locals_, globals_)

    def _found_better(self, best: float, broken: str | None) -> None:
        if broken is not None:
            self.best_mean_reward = best
            warn(f"not taken for the best: {faults.report(broken, self.model)}; {self._folder.best_agent} stays")
        elif unwrap_vec_normalize(self.training_env) is not None:
            save_statistics(self.training_env, self._folder.best_statistics)

    def notes(self) -> dict[str, Any]:
        """Return all evaluations so far, as plain data."""
        return {key: np.asarray(value).tolist() for key, value in self._lists().items() if value}

    def _lists(self) -> dict[str, list[Any]]:
        """Return the evaluations by the names they have in ``evaluations.npz``."""
        return {
            "timesteps": self.evaluations_timesteps,
            "results": self.evaluations_results,
            "ep_lengths": self.evaluations_length,
            "successes": self.evaluations_successes,
            "average_results": self.evaluations_average,
        }

    def _load(self, step: int) -> None:
        """Load the evaluations up to ``step`` that an earlier session of this run made."""
        past = self._past(self._folder.checkpoints / str(step))
        kept = [i for i, when in enumerate(past.get("timesteps", ())) if when <= step]
        for key, values in self._lists().items():
            values[:] = [past[key][i] for i in kept if i < len(past.get(key, ()))]
        if kept:
            self.best_mean_reward = max(float(np.mean(returns)) for returns in self.evaluations_results)
            self._write()

    def _write(self) -> None:
        written = io.BytesIO()
        arrays: Any = {key: values for key, values in self._lists().items() if values}
        np.savez(written, **arrays)
        files.write_bytes(self._folder.evaluations, written.getvalue())

    def _past(self, checkpoint: Path) -> dict[str, Any]:
        """Return what a checkpoint holds of earlier evaluations; of one without notes, what the run's file does."""
        if checkpoint.is_dir() and "evaluations" in (notes := notes_of(checkpoint)):
            return dict(notes["evaluations"])
        if not self._folder.evaluations.is_file():
            return {}
        try:
            with self._folder.evaluations.open("rb") as file, np.load(file) as found:
                past: dict[str, Any] = {key: found[key].tolist() for key in found.files}
            shortest = min(len(past[key]) for key in ("timesteps", "results", "ep_lengths"))
            return {key: values[:shortest] for key, values in past.items()}
        # Written in place by earlier versions: a run that was killed meanwhile left the beginning of a zip.
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            warn(f"starting evaluations.npz anew, since it cannot be read: {one_line(error)}")
            return {}


def save_statistics(env: VecEnv, path: Path) -> None:
    """Save the statistics of the ``VecNormalize`` around an environment, whole or not at all."""
    statistics = unwrap_vec_normalize(env)
    assert statistics is not None
    with files.replacing(path) as unfinished:
        statistics.save(str(unfinished))
