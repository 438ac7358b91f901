"""How good the agent is: now and then during training, and thoroughly at the end."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from rlsd.cli.console import warn
from rlsd.cli.errors import one_line
from rlsd.cli.runfolder import RunFolder
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
    with standing_in(agent.policy, lean_methods(agent.policy)):
        returns, _ = evaluate_policy(
            agent, env, n_eval_episodes=episodes, return_episode_rewards=True, callback=cut_endless
        )
    return Score(float(np.mean(returns)), float(np.std(returns)), np.size(returns))


class Evaluation(EvalCallback):
    """SB3's ``EvalCallback`` that a stopped run can go on with.

    Every evaluation starts from a seed that follows from the step, so its episodes do not depend on how often the run
    was stopped. With ``VecNormalize`` the statistics of the best agent are saved beside it.

    :param env: see :func:`rlsd.cli.environments.evaluation_env`.
    :param folder: where ``best_model.zip`` and ``evaluations.npz`` go; what is there already is taken up.
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

    def _init_callback(self) -> None:
        # Without SB3's warning that a training env in worker processes and an evaluation env in this one differ.
        self.eval_freq = max(self._every // self.training_env.num_envs, 1)
        self._take_up(self.model.num_timesteps)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.n_calls = self.num_timesteps // self.training_env.num_envs

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq != 0:
            return True
        self.eval_env.seed((self._seed + self.num_timesteps) % 2**31)
        best = self.best_mean_reward
        going_on = super()._on_step()
        statistics = unwrap_vec_normalize(self.training_env)
        if statistics is not None and self.best_mean_reward > best:
            statistics.save(str(self._folder.best_statistics))
        self._announce(self.num_timesteps, self.last_mean_reward)
        return going_on

    def _log_success_callback(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        cut_endless(locals_)
        super()._log_success_callback(locals_, globals_)

    def _take_up(self, step: int) -> None:
        """Read the evaluations up to ``step`` that an earlier session of this run wrote."""
        if not self._folder.evaluations.is_file():
            return
        try:
            with self._folder.evaluations.open("rb") as file, np.load(file) as found:
                past: dict[str, Any] = {key: found[key].tolist() for key in found.files}
            kept = [i for i, when in enumerate(past["timesteps"]) if when <= step]
            self.evaluations_timesteps = [past["timesteps"][i] for i in kept]
            self.evaluations_results = [past["results"][i] for i in kept]
            self.evaluations_length = [past["ep_lengths"][i] for i in kept]
            if "successes" in past:
                self.evaluations_successes = [past["successes"][i] for i in kept]
        # A run that is killed while SB3 writes the file leaves the beginning of a zip.
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            warn(f"starting evaluations.npz anew, since it cannot be read: {one_line(error)}")
            return
        if kept:
            self.best_mean_reward = max(float(np.mean(returns)) for returns in self.evaluations_results)
