"""Acting by the parameters of an action distribution: for who acts in an agent's place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from rlsd.distributions import Bernoulli, Categorical, Family, Gaussian, Point, QValues

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def drawn(family: Family, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return an action for each state, ``(batch, n)``, before a tanh where there is one; Q-learners act greedily.

    :param parameters: ``(batch, family.size)``, on the generator's device.
    :param generator: None for the global one.
    :raises TypeError: for distributions of the user's own.
    """
    if isinstance(family, QValues):
        return parameters.argmax(-1, keepdim=True)
    if isinstance(family, Categorical):
        parts = parameters.split(family.sizes, dim=-1)
        return torch.cat([torch.multinomial(part.softmax(-1), 1, generator=generator) for part in parts], dim=-1)
    if isinstance(family, Bernoulli):
        return torch.bernoulli(parameters.sigmoid(), generator=generator)
    if isinstance(family, Gaussian):
        mean, log_std = parameters.split(family.dim, dim=-1)
        action: Tensor = mean + log_std.exp() * torch.randn(mean.shape, generator=generator, device=mean.device)
        return action
    if isinstance(family, Point):
        return parameters
    raise TypeError(f"nobody can act by a {type(family).__name__} in the agent's place")


def log_prob(family: Family, parameters: Tensor, actions: Tensor) -> Tensor:
    """Return the logarithm of the actions' probability or density, ``(batch,)``, before a tanh where there is one.

    :param parameters: ``(batch, family.size)``.
    :param actions: ``(batch, n)``, as :func:`drawn` returns them.
    """
    if isinstance(family, Categorical):
        parts = parameters.split(family.sizes, dim=-1)
        each = [F.log_softmax(part, -1).gather(1, actions[:, i : i + 1].long()) for i, part in enumerate(parts)]
        return torch.cat(each, dim=-1).sum(-1)
    if isinstance(family, Bernoulli):
        return torch.where(actions > 0.5, F.logsigmoid(parameters), F.logsigmoid(-parameters)).sum(-1)
    assert isinstance(family, Gaussian), f"a {type(family).__name__} has no probabilities"
    mean, log_std = parameters.split(family.dim, dim=-1)
    density: Tensor = -0.5 * ((actions - mean) / log_std.exp()).square() - log_std - _HALF_LOG_2PI
    return density.sum(-1)


def in_units(agent: Any, family: Family, actions: Tensor) -> np.ndarray:
    """Return actions as an agent's environment takes them, ``(batch, *action shape)``."""
    space, squashed = agent.action_space, agent.policy.squash_output
    array = (actions.tanh() if squashed and isinstance(family, Gaussian) else actions).cpu().numpy()
    array = array.reshape(-1, *space.shape)
    if isinstance(space, spaces.Box):
        array = agent.policy.unscale_action(array) if squashed else np.clip(array, space.low, space.high)
    return np.asarray(array, dtype=space.dtype)
