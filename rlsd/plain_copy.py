"""A plain SB3 agent that acts with other weights than the agent in training, and shares nothing with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors.base import graphless_copy
from rlsd.actors.random_search import search_around
from rlsd.rng import private_numbers
from rlsd.teachers.frozen_policy import copy_into

#: What no copy of an agent takes along: its environment, what it learns from, and where it writes.
_LEFT_OUT = ("env", "_vec_normalize_env", "replay_buffer", "rollout_buffer", "_logger")


def plain_copy(agent: BaseAlgorithm, algorithm: type[BaseAlgorithm], tensors: Mapping[str, Tensor]) -> BaseAlgorithm:
    """Return a plain SB3 agent with other weights, to act and to be saved. It has no environment and no buffers.

    :param agent: the agent in training.
    :param algorithm: the plain SB3 class that the copy is of.
    :param tensors: parameters and buffers of the whole policy by name; none for the agent's own.
    :raises ValueError: when they are not those of its policy.
    """
    live = vars(agent)
    memo: dict[int, Any] = {id(live[name]): None for name in _LEFT_OUT if name in live}
    owners = [agent, *agent.policy.modules()]
    policy = graphless_copy(agent.policy, owners, memo)
    left_out = set(agent._excluded_save_params()) - set(algorithm._excluded_save_params(agent))
    copied: Any = algorithm.__new__(algorithm)
    for name, value in live.items():
        if name not in left_out:
            copied.__dict__[name] = copy.deepcopy(value, memo)
    copied.device = next(policy.parameters()).device
    if tensors:
        copy_into(policy, tensors)
        search_around(copied)
    if getattr(copied, "use_sde", False):
        with private_numbers(0):
            copied.policy.reset_noise()
    return cast(BaseAlgorithm, copied)
