"""Observations of which a part is for a teacher only: it is stored with the others, and the policy never sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.torch_layers import CombinedExtractor

from rlsd_envs.single import AnyEnv

#: The keys of :class:`Privileged`.
STUDENT, TEACHER = "student", "teacher"


class Privileged(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """An environment that shows some numbers of its vector to a teacher only.

    Its observation is a Dict: ``"student"`` has what is left, ``"teacher"`` all. The student's policy is kept from the
    teacher's part by :class:`StudentExtractor`::

        env = Privileged(gym.make("CartPole-v1"), hidden=[1, 3])  # without velocities
        PPO("MultiInputPolicy", env, policy_kwargs={"features_extractor_class": StudentExtractor})

    Where the observation is a Dict already, as of ``gymnasium.wrappers.AddRenderObservation``, the extractor is enough.

    :param env: has vectors as observations.
    :param hidden: which of their numbers the student does not see.
    :raises ValueError: when there are no such numbers, or none is left.
    """

    def __init__(self, env: AnyEnv, hidden: Sequence[int]) -> None:
        RecordConstructorArgs.__init__(self, hidden=hidden)
        super().__init__(env)
        space = env.observation_space
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
            raise ValueError(f"Privileged hides numbers of observations that are vectors, not of {space}.")
        size = space.shape[0]
        if not hidden or not all(0 <= i < size for i in hidden) or len({*hidden}) == size:
            raise ValueError(f"hidden must be some, not all, of the places 0 to {size - 1}, got {[*hidden]}.")
        self._visible = [i for i in range(size) if i not in hidden]
        seen = spaces.Box(space.low[self._visible], space.high[self._visible], dtype=space.dtype.type)
        self.observation_space = spaces.Dict({STUDENT: seen, TEACHER: space})

    def observation(self, observation: Any) -> dict[str, Any]:
        """Return both parts of an observation."""
        whole = np.asarray(observation)
        return {STUDENT: whole[self._visible], TEACHER: whole}


class StudentExtractor(CombinedExtractor):
    """SB3's extractor for a Dict, without the keys that only a teacher may see.

    Give it as ``policy_kwargs={"features_extractor_class": rlsd_envs.StudentExtractor}``. Where the policy is used it
    may be shown observations without these keys.

    :param observation_space: has all keys.
    :param hidden: the keys that it leaves out.
    :param cnn_output_dim: as in SB3.
    :param normalized_image: as in SB3.
    :raises ValueError: when there is no such key, or none is left.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        hidden: Sequence[str] = (TEACHER,),
        cnn_output_dim: int = 256,
        normalized_image: bool = False,
    ) -> None:
        keys = [*observation_space.spaces] if isinstance(observation_space, spaces.Dict) else []
        left = [key for key in keys if key not in hidden]
        if isinstance(hidden, str) or not {*hidden} <= {*keys} or not left:
            raise ValueError(f"hidden must be some, not all, of the keys {keys}, got {hidden!r}.")
        visible = spaces.Dict({key: observation_space[key] for key in left})
        super().__init__(visible, cnn_output_dim, normalized_image)
