"""SAC's gradient step by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from rlsd.actors.comparing import overrides_none
from rlsd.speed.adam_lists import ListAdam
from rlsd.speed.mlp import Preprocessor, layers_of
from rlsd.speed.off_policy_base import Update, can_step, probe
from rlsd.speed.off_policy_nets import Critics, Drawn, GaussianActor, Unchanged, are_critics, known, polyak

_OF_ACTOR = ("forward", "get_action_dist_params", "action_log_prob", "extract_features", "parameters")


class SACUpdate:
    """See :class:`rlsd.speed.off_policy_base.Update`.

    :param agent: one that :func:`make` accepts.
    :param rows: the size of the minibatches.
    :param quick: what rounds otherwise, too.
    """

    def __init__(self, agent: Any, rows: int, quick: bool) -> None:
        policy, self._quick, self._rows = agent.policy, quick, rows
        self.adams: list[ListAdam] = [ListAdam(optimizer, quick) for optimizer in self.optimizers(agent)]
        self._actor_adam, self._critic_adam = self.adams[:2]
        self._inputs = Preprocessor(policy)
        actions = int(np.prod(agent.action_space.shape))
        self._actor = GaussianActor(policy.actor, rows, self._actor_adam)
        self._next = GaussianActor(policy.actor, rows)
        self._critics = Critics(policy.critic, rows, actions, quick, self._critic_adam)
        self._targets = Critics(policy.critic_target, rows, actions, quick)
        self._kept = [p.detach() for p in policy.critic_target.parameters()]
        self._learned = [p.detach() for p in policy.critic.parameters()]
        self._each = torch.tensor(-1.0) / rows
        self.unchanged = Unchanged(policy)
        self._forget()

    def _forget(self) -> None:
        self._ent_coefs: list[float] = []
        self._ent_coef_losses: list[float] = []
        self._actor_losses: list[float] = []
        self._critic_losses: list[float] = []

    def optimizers(self, agent: Any) -> list[Adam]:  # noqa: D102
        found: list[Adam] = [agent.actor.optimizer, agent.critic.optimizer]
        return found if agent.ent_coef_optimizer is None else [*found, agent.ent_coef_optimizer]

    def bind(self) -> None:  # noqa: D102
        for part in (self._actor, self._next, self._critics, self._targets):
            part.bind()

    def compare(self, agent: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:  # noqa: D102
        actor, critic = agent.actor, agent.critic
        states, noise, target = probe(agent, self._rows)
        with torch.no_grad():
            self._critics.regress(states, noise, target, 0.5)
            values = [network.outputs[-1].clone() for network in self._critics.networks]
        found = [network(torch.cat([states, noise], dim=1)) for network in critic.q_networks]
        yield values, found
        loss: Any = 0.5 * sum(F.mse_loss(one, target) for one in found)
        parameters = self._critic_adam.parameters
        yield self._critic_adam.gradients, list(torch.autograd.grad(loss, parameters))

        coefficient = torch.full((1,), 0.3)
        with torch.no_grad():
            drawn = self._actor.draw(states, noise)
            self._learn_to_act(drawn, coefficient)
        latent = actor.latent_pi(states)
        dist = actor.action_dist.proba_distribution(actor.mu(latent), torch.clamp(actor.log_std(latent), -20, 2))
        gaussian = dist.distribution.mean + noise * dist.distribution.scale
        actions = torch.tanh(gaussian)
        log_prob = dist.log_prob(actions, gaussian).reshape(-1, 1)
        dist.distribution = None
        yield [drawn.actions, drawn.log_prob], [actions, log_prob]
        x = torch.cat([states, actions], dim=1)
        lowest, _ = torch.min(torch.cat([network(x) for network in critic.q_networks], dim=1), dim=1, keepdim=True)
        loss = (coefficient * log_prob - lowest).mean()
        yield self._actor_adam.gradients, list(torch.autograd.grad(loss, self._actor_adam.parameters))

    def _learn_to_act(self, drawn: Drawn, ent_coef: Tensor) -> Tensor:
        """Write the gradient of the actor's loss, which is returned."""
        lowest, slope = self._critics.slope_of_lowest(drawn.actions)
        self._actor.backward(drawn, slope, (ent_coef * -self._each).expand_as(drawn.log_prob))
        return (ent_coef * drawn.log_prob - lowest).mean()

    def step(self, agent: Any, data: Any, discount: Any, number: int) -> None:  # noqa: D102
        states, next_states = self._inputs(data.observations), self._inputs(data.next_observations)
        drawn = self._actor.draw(states)
        ent_coef = self._ent_coef(agent, drawn.log_prob)
        self._ent_coefs.append(ent_coef.item())
        later = self._next.draw(next_states)
        ahead = self._targets.lowest(next_states, later.actions) - ent_coef * later.log_prob
        target = data.rewards + (1 - data.dones) * discount * ahead
        self._critic_losses.append(self._critics.regress(states, data.actions, target, 0.5))
        self._critic_adam.clear()
        self._critic_adam.arrive()
        self._critic_adam.step()
        self._actor_losses.append(self._update_actor(drawn, ent_coef))
        if number % agent.target_update_interval == 0:
            polyak(self._kept, self._learned, agent.tau, self._quick)

    def _update_actor(self, drawn: Drawn, ent_coef: Tensor) -> float:
        loss = self._learn_to_act(drawn, ent_coef).item()
        self._actor_adam.clear()
        self._actor_adam.arrive()
        self._actor_adam.step()
        return loss

    def _ent_coef(self, agent: Any, log_prob: Tensor) -> Tensor:
        """Return the entropy coefficient, after which it is trained, if it is."""
        if len(self.adams) == 2:
            fixed: Tensor = agent.ent_coef_tensor
            return fixed
        log_ent_coef, adam = agent.log_ent_coef.detach(), self.adams[2]
        ent_coef = torch.exp(log_ent_coef)
        short = log_prob + agent.target_entropy
        self._ent_coef_losses.append((-(log_ent_coef * short).mean()).item())
        adam.clear()
        torch.sum(short * self._each, 0, out=adam.gradients[0])
        adam.arrive()
        adam.step()
        return ent_coef

    def record(self, agent: Any, steps: int) -> None:  # noqa: D102
        agent._n_updates += steps
        record = agent.logger.record
        record("train/n_updates", agent._n_updates, exclude="tensorboard")
        record("train/ent_coef", np.mean(self._ent_coefs))
        record("train/actor_loss", np.mean(self._actor_losses))
        record("train/critic_loss", np.mean(self._critic_losses))
        if self._ent_coef_losses:
            record("train/ent_coef_loss", np.mean(self._ent_coef_losses))
        self._forget()


def make(agent: Any, rows: int, quick: bool) -> Update | None:
    """Return the update of an agent with SB3's perceptrons and its squashed Gaussian, None for any other."""
    policy = agent.policy
    actor, critic, target = policy.actor, policy.critic, policy.critic_target
    dist: Any = actor.action_dist
    if type(actor) is not Actor or not overrides_none(actor, Actor, _OF_ACTOR) or agent.use_sde:
        return None
    if type(dist) is not SquashedDiagGaussianDistribution or not are_critics(critic, target):
        return None
    parts: tuple[Any, ...] = (actor.latent_pi, actor.mu, actor.log_std)
    usable = known(*map(layers_of, parts)) and type(parts[1]) is type(parts[2]) is nn.Linear
    if not usable or type(actor.features_extractor) is not FlattenExtractor or not Unchanged(policy)():
        return None
    if agent.ent_coef_optimizer is not None and not can_step(agent.ent_coef_optimizer, agent.log_ent_coef):
        return None
    steps = can_step(actor.optimizer, *actor.parameters()) and can_step(critic.optimizer, *critic.parameters())
    return SACUpdate(agent, rows, quick) if steps else None
