"""Two tasks from one environment: as it is, and with every action inverted. A bit in the observation tells which.

What is right in one is wrong in the other, on the same states, so an agent that learns the second after the first
shows how much of the first it keeps. The bit makes it possible to know both; nothing makes it keep the first.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from rlsd_envs.registry import find_spec
from rlsd_envs.single import AnyEnv


class Flipped(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment whose actions can be inverted, with a last number in the observation: 0 as it is, 1 inverted.

    A discrete action ``a`` of ``n`` becomes ``n - 1 - a``, a continuous one ``low + high - a``: the sign of a torque
    with symmetric bounds. Rewards, starts and episode lengths are the environment's own::

        env = Flipped(gym.make("CartPole-v1"), flipped=True)

    :param env: has vectors as observations, and discrete actions or continuous ones with bounds.
    :param flipped: whether actions are inverted.
    :raises ValueError: when the environment has other spaces.
    """

    def __init__(self, env: AnyEnv, flipped: bool = False) -> None:
        RecordConstructorArgs.__init__(self, flipped=flipped)
        super().__init__(env)
        if not isinstance(flipped, bool | np.bool_):
            raise ValueError(f"flipped must be true or false, got {flipped!r}.")
        self._flipped = bool(flipped)
        self.observation_space = _with_bit(env.observation_space)
        _check_actions(env.action_space)
        self._bit = np.array([flipped], dtype=self.observation_space.dtype)

    @property
    def flipped(self) -> bool:
        """Whether actions are inverted."""
        return self._flipped

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, as the environment does."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observed(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the action, or its inverse."""
        observation, *rest = self.env.step(self.inverse(action) if self._flipped else action)
        return (self._observed(observation), *rest)

    def inverse(self, action: Any) -> Any:
        """Return the action that does the opposite; the inverse of the inverse is the action."""
        space = self.env.action_space
        if isinstance(space, spaces.Discrete):
            return 2 * space.start + space.n - 1 - action
        assert isinstance(space, spaces.Box)
        return (space.low + space.high - action).astype(space.dtype)

    def _observed(self, observation: Any) -> Any:
        return np.concatenate((observation, self._bit))


def make_flipped(env_id: str, flipped: bool = False, **kwargs: Any) -> Flipped:
    """Make a registered environment and put :class:`Flipped` around it.

    :param env_id: such as ``"Acrobot-v1"``.
    :param flipped: as for :class:`Flipped`.
    :param kwargs: for the environment's own constructor.
    :raises UnknownEnvironment: no such id.
    """
    # Whoever makes this one has it checked already, and in whole.
    return Flipped(gym.make(find_spec(env_id), disable_env_checker=True, **kwargs), flipped)


def _with_bit(space: spaces.Space[Any]) -> spaces.Box:
    if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        raise ValueError(f"Flipped adds a number to observations that are vectors, not to {space}.")
    low, high = np.append(space.low, 0), np.append(space.high, 1)
    return spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype.type)


def _check_actions(space: spaces.Space[Any]) -> None:
    bounded = isinstance(space, spaces.Box) and space.is_bounded()
    if not (isinstance(space, spaces.Discrete) or bounded):
        raise ValueError(f"Flipped inverts discrete actions and continuous ones with bounds, not {space}.")
