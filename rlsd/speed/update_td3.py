"""The gradient step of TD3 and DDPG by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.td3.policies import Actor
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from rlsd.actors.comparing import overrides_none
from rlsd.speed.adam_lists import ListAdam
from rlsd.speed.mlp import MLPBuffers, Preprocessor, layers_of
from rlsd.speed.off_policy_base import Update, can_step, probe
from rlsd.speed.off_policy_nets import Critics, Unchanged, are_critics, known, places, polyak

_OF_ACTOR = ("forward", "extract_features", "parameters")


class TD3Update:
    """See :class:`rlsd.speed.off_policy_base.Update`.

    :param agent: one that :func:`make` accepts.
    :param rows: the size of the minibatches.
    :param quick: what rounds otherwise, too.
    """

    def __init__(self, agent: Any, rows: int, quick: bool) -> None:
        policy, self._quick, self._rows = agent.policy, quick, rows
        self.adams: list[ListAdam] = [ListAdam(optimizer, quick) for optimizer in self.optimizers(agent)]
        self._actor_adam, self._critic_adam = self.adams
        self._inputs = Preprocessor(policy)
        layers = layers_of(policy.actor.mu) or []
        self._actor, self._into = MLPBuffers(layers, rows, quick), places(layers, self._actor_adam)
        self._target_actor = MLPBuffers(layers_of(policy.actor_target.mu) or [], rows, quick)
        actions = layers[-1].outputs
        self._critics = Critics(policy.critic, rows, actions, quick, self._critic_adam)
        self._targets = Critics(policy.critic_target, rows, actions, quick)
        self._slope = torch.empty(rows, actions)
        pairs = ((policy.critic_target, policy.critic), (policy.actor_target, policy.actor))
        self._pairs = [tuple([p.detach() for p in network.parameters()] for network in pair) for pair in pairs]
        self.unchanged = Unchanged(policy)
        self._forget()

    def _forget(self) -> None:
        self._actor_losses: list[float] = []
        self._critic_losses: list[float] = []

    def optimizers(self, agent: Any) -> list[Adam]:  # noqa: D102
        return [agent.actor.optimizer, agent.critic.optimizer]

    def bind(self) -> None:  # noqa: D102
        for part in (self._actor, self._target_actor, self._critics, self._targets):
            part.bind()

    def compare(self, agent: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:  # noqa: D102
        states, noise, target = probe(agent, self._rows)
        with torch.no_grad():
            self._critics.regress(states, noise, target, 1.0)
        x = torch.cat([states, noise], dim=1)
        loss: Any = sum(F.mse_loss(network(x), target) for network in agent.critic.q_networks)
        yield self._critic_adam.gradients, list(torch.autograd.grad(loss, self._critic_adam.parameters))
        with torch.no_grad():
            self._learn_to_act(states)
        actions = agent.actor.mu(states)
        yield [self._actor.outputs[-1]], [actions]
        loss = -agent.critic.q_networks[0](torch.cat([states, actions], dim=1)).mean()
        yield self._actor_adam.gradients, list(torch.autograd.grad(loss, self._actor_adam.parameters))

    def _learn_to_act(self, states: Tensor) -> Tensor:
        """Write the gradient of the actor's loss, which is returned, for the states that the critics saw last."""
        value, slope = self._critics.slope_of_first(self._actor.forward(states))
        self._actor.backward(self._actor.through_last(self._slope.copy_(slope)), self._into)
        return -value

    def step(self, agent: Any, data: Any, discount: Any, number: int) -> None:  # noqa: D102
        agent._n_updates += 1
        states, next_states = self._inputs(data.observations), self._inputs(data.next_observations)
        noise = torch.empty_like(data.actions).normal_(0, agent.target_policy_noise)
        noise = noise.clamp_(-agent.target_noise_clip, agent.target_noise_clip)
        later = (self._target_actor.forward(next_states) + noise).clamp_(-1, 1)
        target = data.rewards + (1 - data.dones) * discount * self._targets.lowest(next_states, later)
        self._critic_losses.append(self._critics.regress(states, data.actions, target, 1.0))
        self._critic_adam.clear()
        self._critic_adam.arrive()
        self._critic_adam.step()
        if agent._n_updates % agent.policy_delay == 0:
            self._actor_losses.append(self._learn_to_act(states).item())
            self._actor_adam.clear()
            self._actor_adam.arrive()
            self._actor_adam.step()
            for kept, learned in self._pairs:
                polyak(kept, learned, agent.tau, self._quick)

    def record(self, agent: Any, steps: int) -> None:  # noqa: D102
        record = agent.logger.record
        record("train/n_updates", agent._n_updates, exclude="tensorboard")
        if self._actor_losses:
            record("train/actor_loss", np.mean(self._actor_losses))
        record("train/critic_loss", np.mean(self._critic_losses))
        self._forget()


def make(agent: Any, rows: int, quick: bool) -> Update | None:
    """Return the update of an agent with SB3's perceptrons, None for any other."""
    policy = agent.policy
    for actor in (policy.actor, policy.actor_target):
        if type(actor) is not Actor or not overrides_none(actor, Actor, _OF_ACTOR):
            return None
        if type(actor.features_extractor) is not FlattenExtractor or not known(layers_of(actor.mu)):
            return None
    critic, target = policy.critic, policy.critic_target
    if not are_critics(critic, target) or not Unchanged(policy)():
        return None
    actor = policy.actor
    steps = can_step(actor.optimizer, *actor.parameters()) and can_step(critic.optimizer, *critic.parameters())
    return TD3Update(agent, rows, quick) if steps else None
