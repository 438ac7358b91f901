"""The actors of off-policy algorithms with continuous actions: their own network, optimizer, and no gradient clip."""

from __future__ import annotations

from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsd.actors.base import Actor, uncompiled
from rlsd.actors.comparing import close, predicts_alike
from rlsd.actors.on_policy import gsde_log_std
from rlsd.distributions import Gaussian, Point
from rlsd.observations import Observations


class SquashedGaussianActor(Actor):
    """The policy of SAC, TQC and CrossQ: a Gaussian, then a tanh.

    The parameters are the Gaussian's, before the tanh: it is a bijection, so the divergence is that of the actions.
    """

    policies = (
        "stable_baselines3.sac.policies.SACPolicy",
        "sb3_contrib.tqc.policies.TQCPolicy",
        "sb3_contrib.crossq.policies.CrossQPolicy",
    )

    def __init__(self, policy: nn.Module) -> None:
        self.family = Gaussian(spaces.flatdim(cast(Any, policy).action_space))

    def module(self, policy: Any) -> nn.Module:  # noqa: D102
        return uncompiled(policy.actor)

    def optimizer(self, policy: Any) -> Optimizer:  # noqa: D102
        return cast(Optimizer, policy.actor.optimizer)

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        mean, log_std, rest = module.get_action_dist_params(states)
        if isinstance(module.action_dist, StateDependentNoiseDistribution):
            log_std = gsde_log_std(module.action_dist, log_std, rest["latent_sde"])
        return torch.cat([mean, log_std], dim=-1)

    def mismatch(self, policy: Any, states: Observations) -> str:  # noqa: D102
        acted = self.act(policy, states)
        mean, log_std = self.parameters(policy.actor, states).chunk(2, dim=-1)
        if not close(acted, mean.tanh()):
            return "_predict"
        if not predicts_alike(policy, states):
            return "predict"
        drawn, log_prob = policy.actor.action_log_prob(states)
        inside = drawn.abs() < 0.99  # beyond, a tanh cannot be undone in 32 bits
        before = torch.atanh(drawn.clamp(-0.99, 0.99))
        each = torch.distributions.Normal(mean, log_std.exp()).log_prob(before) - (1.0 - drawn.square() + 1e-6).log()
        usable = inside.all(-1)
        return "" if close(each.sum(-1)[usable], log_prob.reshape(-1)[usable]) else "action_log_prob"


class DeterministicActor(Actor):
    """The policy of TD3 and DDPG: one action a state. Both sides are compared as points."""

    policies = ("stable_baselines3.td3.policies.TD3Policy",)

    def __init__(self, policy: nn.Module) -> None:
        self.family = Point(spaces.flatdim(cast(Any, policy).action_space))

    def module(self, policy: Any) -> nn.Module:  # noqa: D102
        return uncompiled(policy.actor)

    def optimizer(self, policy: Any) -> Optimizer:  # noqa: D102
        return cast(Optimizer, policy.actor.optimizer)

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        return cast(Tensor, module(states))

    def mismatch(self, policy: Any, states: Observations) -> str:  # noqa: D102
        if not close(self.act(policy, states), self.parameters(policy.actor, states)):
            return "_predict"
        return "" if predicts_alike(policy, states) else "predict"
