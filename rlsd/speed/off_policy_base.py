"""What the updates of off-policy agents by hand have in common: what they offer, and what they ask of an agent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from torch import Tensor, nn
from torch.optim import Adam

from rlsd.speed.adam import can_flatten
from rlsd.speed.adam_lists import ListAdam
from rlsd.speed.off_policy_nets import Unchanged


class Update(Protocol):
    """One algorithm's gradient step for one policy. It keeps no reference to the agent or the policy."""

    #: The optimizers' steps, in the order of :meth:`optimizers`.
    adams: list[ListAdam]
    #: Whether the networks are what they were when this was made.
    unchanged: Unchanged

    def optimizers(self, agent: Any) -> list[Adam]:
        """Return the agent's optimizers."""

    def bind(self) -> None:
        """Take up where the parameters lie now."""

    def compare(self, agent: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Give what hand and autograd compute from the same numbers. Draws no random number, changes no parameter."""

    def step(self, agent: Any, data: Any, discount: Any, number: int) -> None:
        """Do gradient step ``number`` of this update with a minibatch."""

    def record(self, agent: Any, steps: int) -> None:
        """Count the gradient steps, hand their metrics to the agent's logger as SB3 does, and forget them."""


def can_step(optimizer: Any, *parameters: nn.Parameter) -> bool:
    """Tell whether an optimizer is a plain Adam over exactly these parameters, of which nobody watches a gradient."""
    return (
        isinstance(optimizer, Adam)
        and can_flatten(optimizer)
        and {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in parameters}
        and not any(p._backward_hooks for p in parameters)
    )


def probe(agent: Any, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, noise as wide as an action, and targets ``(rows, 1)`` that nobody drew."""
    generator = torch.Generator().manual_seed(0)
    actions = int(np.prod(agent.action_space.shape))
    return (
        torch.randn(rows, get_flattened_obs_dim(agent.observation_space), generator=generator),
        torch.randn(rows, actions, generator=generator),
        torch.randn(rows, 1, generator=generator),
    )
