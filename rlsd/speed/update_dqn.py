"""DQN's gradient step by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import QNetwork
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from rlsd.actors.comparing import overrides_none
from rlsd.speed.adam_lists import ListAdam
from rlsd.speed.mlp import MLPBuffers, Preprocessor, layers_of
from rlsd.speed.off_policy_base import Update, can_step, probe
from rlsd.speed.off_policy_nets import Unchanged, known, places

_OF_NETWORK = ("forward", "extract_features", "parameters")


class DQNUpdate:
    """See :class:`rlsd.speed.off_policy_base.Update`.

    :param agent: one that :func:`make` accepts.
    :param rows: the size of the minibatches.
    :param quick: what rounds otherwise, too.
    """

    def __init__(self, agent: Any, rows: int, quick: bool) -> None:
        policy, self._quick, self._rows = agent.policy, quick, rows
        self.adams: list[ListAdam] = [ListAdam(policy.optimizer, quick)]
        (self._adam,) = self.adams
        self._inputs = Preprocessor(policy)
        layers = layers_of(policy.q_net.q_net) or []
        self._network, self._into = MLPBuffers(layers, rows, quick), places(layers, self._adam)
        self._target = MLPBuffers(layers_of(policy.q_net_target.q_net) or [], rows, quick)
        self._slope = torch.empty(rows, layers[-1].outputs)
        self._error = torch.empty(rows, 1)
        self._each = float(np.float32(1.0 / rows))
        self.unchanged = Unchanged(policy)
        self._losses: list[float] = []

    def optimizers(self, agent: Any) -> list[Adam]:  # noqa: D102
        return [agent.policy.optimizer]

    def bind(self) -> None:  # noqa: D102
        self._network.bind()
        self._target.bind()

    def compare(self, agent: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:  # noqa: D102
        states, _, target = probe(agent, self._rows)
        actions = torch.arange(self._rows).remainder(self._slope.shape[1]).unsqueeze(1)
        with torch.no_grad():
            ours = self._regress(states, actions, target)
        loss = F.smooth_l1_loss(torch.gather(agent.q_net.q_net(states), 1, actions), target)
        yield [ours], [loss]
        yield self._adam.gradients, list(torch.autograd.grad(loss, self._adam.parameters))

    def _regress(self, states: Tensor, actions: Tensor, target: Tensor) -> Tensor:
        """Write the gradient of the loss, which is returned."""
        values = self._network.forward(states).gather(1, actions)
        loss = F.smooth_l1_loss(values, target)
        # Beyond a distance of 1 the slope is that at 1.
        error = torch.sub(values, target, out=self._error).clamp_(-1, 1).mul_(self._each)
        self._network.backward(self._slope.zero_().scatter_(1, actions, error), self._into)
        return loss

    def step(self, agent: Any, data: Any, discount: Any, number: int) -> None:  # noqa: D102
        later = self._target.forward(self._inputs(data.next_observations)).amax(dim=1, keepdim=True)
        target = data.rewards + (1 - data.dones) * discount * later
        self._losses.append(self._regress(self._inputs(data.observations), data.actions.long(), target).item())
        self._adam.clear()
        self._clip(self._adam.arrive(), agent.max_grad_norm)
        self._adam.step()

    @staticmethod
    def _clip(gradients: list[Tensor], most: float) -> None:
        # torch.nn.utils.clip_grad_norm_
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        # On one number numpy is the quicker one. Torch divides a number by a tensor as here, by its reciprocal.
        coefficient = np.float32(1.0) / (norm.numpy() + np.float32(1e-6)) * np.float32(most)
        if not coefficient >= 1.0:
            torch._foreach_mul_(gradients, float(coefficient))

    def record(self, agent: Any, steps: int) -> None:  # noqa: D102
        agent._n_updates += steps
        agent.logger.record("train/n_updates", agent._n_updates, exclude="tensorboard")
        agent.logger.record("train/loss", np.mean(self._losses))
        self._losses = []


def make(agent: Any, rows: int, quick: bool) -> Update | None:
    """Return the update of an agent with SB3's perceptrons, None for any other."""
    policy = agent.policy
    for network in (policy.q_net, policy.q_net_target):
        if type(network) is not QNetwork or not overrides_none(network, QNetwork, _OF_NETWORK):
            return None
        stack = layers_of(network.q_net)
        if type(network.features_extractor) is not FlattenExtractor or not known(stack):
            return None
        if stack is None or stack[-1].activation is not None:
            return None
    plain = isinstance(agent.max_grad_norm, (int, float)) and Unchanged(policy)()
    # The clip is of all that the policy has, and the target has no gradient.
    return DQNUpdate(agent, rows, quick) if plain and can_step(policy.optimizer, *policy.q_net.parameters()) else None
