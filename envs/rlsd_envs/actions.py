"""A check of the actions given to ``step``, cheap enough to be made at every step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlsd_envs.errors import InvalidAction


class ActionCheck:
    """Refuses actions of a wrong shape or type, or outside a discrete space.

    Compiled environments index arrays with a discrete action without looking at it; a Box action out of its bounds does
    no such harm (SB3 clips it, and so do most environments), and is let through.

    :param space: the action space of one environment
    :param n_envs: number of environments
    """

    def __init__(self, space: gym.Space[Any], n_envs: int) -> None:
        self.space = space
        self.shape = (n_envs, *(space.shape or ()))
        self.kinds = "iu" if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else "iufb"
        self.low, self.high = _bounds(space)

    def __call__(self, actions: NDArray[Any]) -> None:
        """Check ``(n_envs, *action_shape)`` actions.

        :raises InvalidAction: naming the first environment whose action is wrong
        """
        shape, dtype = np.shape(actions), np.asarray(actions).dtype
        if shape != self.shape:
            raise InvalidAction(f"Actions of shape {shape} given; {self.space} needs {self.shape}, one row each.")
        if dtype.kind not in self.kinds:
            raise InvalidAction(f"Actions of type {dtype} given; {self.space} needs {self.space.dtype}.")
        if self.high is not None and (np.less(actions, self.low).any() or np.greater(actions, self.high).any()):
            index = next(i for i, a in enumerate(actions) if np.any(a < self.low) or np.any(a > self.high))
            raise InvalidAction(f"Action {actions[index]} for environment {index} is outside of {self.space}.")


def _bounds(space: gym.Space[Any]) -> tuple[Any, Any]:
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return None, None
