"""The backend ``dummy``: every environment in this process, one after the other."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from rlsd_envs.actions import ActionCheck
from rlsd_envs.backend import Backend


class LocalVecEnv(Backend, DummyVecEnv):
    """SB3's ``DummyVecEnv``, which checks the actions it is given.

    :param env_fns: functions that each return one environment
    """

    backend = "dummy"

    def __init__(self, env_fns: list[Any]) -> None:
        super().__init__(env_fns)
        self._check_actions = ActionCheck(self.action_space, self.num_envs)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions ``(n_envs, *action_shape)`` for ``step_wait``.

        :raises InvalidAction: see :class:`rlsd_envs.actions.ActionCheck`
        """
        self._check_actions(actions)
        super().step_async(actions)
