"""Any ``gymnasium.vector.VectorEnv`` as an SB3 ``VecEnv``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from rlsd_envs.actions import ActionCheck
from rlsd_envs.autoreset import AnyVectorEnv, autoreset_of
from rlsd_envs.backend import Backend
from rlsd_envs.infos import BlankInfos, Info, unpack
from rlsd_envs.observations import row
from rlsd_envs.scoring import Scoring
from rlsd_envs.statistics import EpisodeStatistics


class VectorEnvAdapter(Backend, VecEnv):
    """Runs a Gymnasium vector environment under SB3's contract.

    An episode that ends is followed by the next in the same step: the observation returned is the first of the new
    episode, and the ``info`` of that environment has

    - ``terminal_observation``: the last of the old episode;
    - ``TimeLimit.truncated``: whether only a time limit ended it;
    - ``episode``: its return ``r``, length ``l`` and the seconds ``t``, as SB3's ``Monitor`` has them;
    - whatever the environment said itself.

    Where no episode ends, SB3's own vector environments put ``TimeLimit.truncated: False`` into every ``info``; here it
    is left out.

    :param env: the vector environment, in any of Gymnasium's three autoreset modes
    :param scoring: which rewards and which ends count for training and for statistics
    :param statistics: counts returns and lengths; by default, without a file
    :param step_infos: hand out what the environments say at every step. False hands it out only at the end of an
        episode: some compiled environments say something about every environment at every step, and taking that apart
        can cost more than the step itself.
    """

    def __init__(
        self,
        env: AnyVectorEnv,
        scoring: Scoring | None = None,
        statistics: EpisodeStatistics | None = None,
        step_infos: bool = True,
    ) -> None:
        self.env = env
        self.scoring = scoring or Scoring()
        self.statistics = statistics or EpisodeStatistics(env.num_envs)
        self.step_infos = step_infos
        self._autoreset = autoreset_of(env)
        self._blank = BlankInfos(env.num_envs)
        self._closed = False
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._check_actions = ActionCheck(self.action_space, self.num_envs)

    def reset(self) -> VecEnvObs:
        """Reset all environments, with the seeds and options that were set since the last time.

        :return: observations ``(n_envs, ...)``
        """
        # Gymnasium's signature knows only a number; its own environments and those of this package also take a list.
        seed: Any = self._next_seed()
        observations, info = self.env.reset(seed=seed, options=self._next_options())
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [unpack(info, index) for index in range(self.num_envs)]
        self.statistics.restart()
        self.scoring.restart(info)
        return observations  # type: ignore[no-any-return]

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions ``(n_envs, *action_shape)`` for ``step_wait``.

        :raises InvalidAction: see :class:`rlsd_envs.actions.ActionCheck`
        """
        self._check_actions(actions)
        self._actions = np.asarray(actions, dtype=self.action_space.dtype)

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments with the actions kept.

        :return: observations ``(n_envs, ...)``, float32 rewards ``(n_envs,)``, ends ``(n_envs,)`` and one ``info`` each
        """
        observations, rewards, terminated, truncated, info = self.env.step(self._actions)
        ended = np.logical_or(terminated, truncated)
        score = self.scoring(rewards, terminated, truncated, info)
        self.statistics.add(score.true_rewards)
        infos = self._infos(info)
        if ended.any():
            restart = self._autoreset.restart(self.env, observations, info, ended)
            observations = restart.observations
            for place, index in enumerate(np.flatnonzero(ended).tolist()):
                final = infos[index] = restart.final_infos[place]
                final["terminal_observation"] = row(restart.final_observations, place)
                final["TimeLimit.truncated"] = bool(truncated[index] and not terminated[index])
                if score.game_over[index]:
                    final["episode"] = self.statistics.finish(index)
                self.reset_infos[index] = restart.reset_infos[place]
        return observations, score.rewards.astype(np.float32), ended, infos

    def close(self) -> None:
        """Close the environments and the file of the statistics. May be called again."""
        if not self._closed:
            self._closed = True
            self.statistics.close()
            self.env.close()

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Return one picture ``(height, width, 3)`` for each environment, None where there are no pictures."""
        frames: Any = self.env.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the single environments.

        :raises AttributeError: this environment is not made of single ones that have it
        """
        chosen = list(self._get_indices(indices))
        if attr_name in ("render_mode", "spec"):
            return [getattr(self.env, attr_name) for _ in chosen]
        values = self._single_access("get_attr", attr_name)(attr_name)
        return [values[index] for index in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the single environments.

        :raises AttributeError: this environment is not made of single ones
        """
        chosen = set(self._get_indices(indices))
        setter = self._single_access("set_attr", attr_name)
        if len(chosen) == self.num_envs:
            values = [value] * self.num_envs
        else:
            values = [value if i in chosen else old for i, old in enumerate(self.get_attr(attr_name))]
        setter(attr_name, values)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the single environments.

        :raises AttributeError: this environment is not made of single ones that have it, or not all were chosen
        """
        chosen = list(self._get_indices(indices))
        if sorted(chosen) != list(range(self.num_envs)):
            envs = getattr(self.env.unwrapped, "envs", None)
            if envs is None:
                raise AttributeError(self._refusal(method_name))
            return [envs[i].get_wrapper_attr(method_name)(*method_args, **method_kwargs) for i in chosen]
        return list(self._single_access("call", method_name)(method_name, *method_args, **method_kwargs))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether the environments are wrapped: in ``Monitor`` yes, for its statistics are kept; in nothing else."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def _infos(self, info: Info) -> list[Info]:
        if self.step_infos and info:
            return [unpack(info, index) for index in range(self.num_envs)]
        return self._blank.take()

    def _next_seed(self) -> int | list[int | None] | None:
        """Return the seeds as the plainest thing that says the same: many environments take only a number."""
        first = self._seeds[0]
        if first is None:
            return None if all(seed is None for seed in self._seeds) else list(self._seeds)
        consecutive = [first + index for index in range(self.num_envs)]
        return first if self._seeds == consecutive else list(self._seeds)

    def _next_options(self) -> dict[str, Any] | None:
        if any(options != self._options[0] for options in self._options):
            raise ValueError(f"Options must be the same for all environments with the backend {self.backend!r}.")
        return dict(self._options[0]) or None

    def _single_access(self, access: str, name: str) -> Any:
        method = getattr(self.env, access, None)
        if method is None:
            raise AttributeError(self._refusal(name))
        return method

    def _refusal(self, name: str) -> str:
        what = f"The backend {self.backend!r} steps all environments at once: there is no {name!r} of a single one"
        return f"{what}. Make them with backend='dummy' or 'subproc'."
