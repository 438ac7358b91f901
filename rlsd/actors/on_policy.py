"""PPO's and A2C's ways of acting: a policy with one optimizer, whose networks give an action distribution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsd.actors.base import Actor, unused
from rlsd.distributions import Bernoulli, Categorical, Family, Gaussian
from rlsd.observations import Observations, split_context

#: What sb3-contrib puts in place of the logit of an action that the mask forbids.
_FORBIDDEN = -1e8


class ActorCritic(Actor):
    """The way of acting of PPO, A2C and TRPO: an ``ActorCriticPolicy`` with any of its action distributions.

    For policies that build their distribution as SB3 does, the parameters come straight from the networks and no
    ``Distribution`` is made. A policy that overrides ``get_distribution`` is asked through its own method.
    """

    policies = ("stable_baselines3.common.policies.ActorCriticPolicy",)
    has_values = True
    _overridable = ("get_distribution", "_get_action_dist_from_latent")

    def __init__(self, policy: nn.Module) -> None:
        self.family = family_of(cast(Any, policy).action_space)
        base = next(cls for cls in type(policy).__mro__ if f"{cls.__module__}.{cls.__qualname__}" in self.policies)
        own = [name for name in self._overridable if getattr(type(policy), name) is not getattr(base, name)]
        self._plain = not own

    def module(self, policy: Any) -> nn.Module:  # noqa: D102
        return cast(nn.Module, policy)

    def optimizer(self, policy: Any) -> Optimizer:  # noqa: D102
        return cast(Optimizer, policy.optimizer)

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        if self._plain:
            return self._from_latent(module, module.mlp_extractor.forward_actor(_features(module, states)))
        with _borrowed_action_dist(module):
            return parameters_of(module.get_distribution(states))

    def values(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        observations, _ = split_context(states)
        return cast(Tensor, module.predict_values(observations)).squeeze(-1)

    def _from_latent(self, module: Any, latent: Tensor) -> Tensor:
        head: Tensor = module.action_net(latent)
        if not isinstance(self.family, Gaussian):
            return head
        if isinstance(module.action_dist, StateDependentNoiseDistribution):
            log_std = gsde_log_std(module.action_dist, module.log_std, latent)
        else:
            log_std = module.log_std.expand_as(head)
        return torch.cat([head, log_std], dim=-1)


class MaskedActorCritic(ActorCritic):
    """MaskablePPO's way of acting: the mask that was in force is stored with each state, and holds for both sides."""

    policies = ("sb3_contrib.common.maskable.policies.MaskableActorCriticPolicy",)

    def __init__(self, policy: nn.Module) -> None:
        super().__init__(policy)
        if isinstance(self.family, Bernoulli):  # sb3-contrib masks each bit as a choice of two
            self.family = Categorical((2,) * self.family.size)

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        observations, context = split_context(states)
        if self._plain:
            logits = self._from_latent(module, module.mlp_extractor.forward_actor(_features(module, observations)))
        else:
            with _borrowed_action_dist(module):
                dist = module.get_distribution(observations)
            parts = dist.distributions if hasattr(dist, "distributions") else [dist.distribution]
            logits = torch.cat([part.logits for part in parts], dim=-1)
        return torch.where(context["@mask"] > 0.5, logits, _FORBIDDEN)

    def context(self, agent: Any) -> dict[str, np.ndarray]:  # noqa: D102
        masks = agent.rollout_buffer.action_masks
        return {"@mask": masks.reshape(-1, masks.shape[-1]).astype(np.uint8)}


class RecurrentActorCritic(ActorCritic):
    """RecurrentPPO's way of acting: the LSTM's state before each step is stored with it, and both sides start there."""

    policies = ("sb3_contrib.common.recurrent.policies.RecurrentActorCriticPolicy",)
    has_values = False  # the memory of the critic's own LSTM is not stored with the states

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        observations, context = split_context(states)
        # (batch, layers, hidden) as stored, (layers, batch, hidden) as an LSTM takes it
        memory = tuple(context[key].transpose(0, 1).contiguous() for key in ("@hidden", "@cell"))
        if self._plain:
            features = _features(module, observations)
            keep = (1.0 - context["@start"]).view(1, -1, 1)
            out, _ = module.lstm_actor(features.unsqueeze(0), tuple(keep * part for part in memory))
            return self._from_latent(module, module.mlp_extractor.forward_actor(out.squeeze(0)))
        with _borrowed_action_dist(module):
            return parameters_of(module.get_distribution(observations, memory, context["@start"])[0])

    def context(self, agent: Any) -> dict[str, np.ndarray]:  # noqa: D102
        buffer = agent.rollout_buffer

        # (steps, layers, envs, hidden) -> (steps * envs, layers, hidden)
        def by_state(array: np.ndarray) -> np.ndarray:
            swapped = array.swapaxes(1, 2)
            return swapped.reshape(-1, *swapped.shape[2:])

        return {
            "@hidden": by_state(buffer.hidden_states_pi),
            "@cell": by_state(buffer.cell_states_pi),
            "@start": buffer.episode_starts.reshape(-1).astype(np.float32),
        }


def _features(module: Any, observations: Observations) -> Tensor:
    # The base class's method, as ActorCriticPolicy.get_distribution does: it takes one extractor and returns one.
    return BaseModel.extract_features(module, cast(Any, observations), module.pi_features_extractor)


def family_of(action_space: spaces.Space[Any]) -> Family:
    """Return the family of action distributions that SB3's actor-critic policies use for an action space.

    :raises TypeError: for a space SB3 has no distribution for.
    """
    if isinstance(action_space, spaces.Discrete):
        return Categorical((int(action_space.n),))
    if isinstance(action_space, spaces.MultiDiscrete):
        return Categorical(tuple(int(n) for n in action_space.nvec))
    if isinstance(action_space, spaces.MultiBinary):
        return Bernoulli(spaces.flatdim(action_space))
    if isinstance(action_space, spaces.Box):
        return Gaussian(spaces.flatdim(action_space))
    raise TypeError(f"cannot distil actions of {action_space}: use Box, Discrete, MultiDiscrete or MultiBinary")


def parameters_of(distribution: Distribution) -> Tensor:
    """Return the flat parameters ``(batch, family.size)`` of an SB3 distribution object."""
    inner: Any = distribution.distribution
    if isinstance(distribution, MultiCategoricalDistribution):
        return torch.cat([part.logits for part in inner], dim=-1)
    if isinstance(distribution, (CategoricalDistribution, BernoulliDistribution)):
        return cast(Tensor, inner.logits)
    if isinstance(distribution, (DiagGaussianDistribution, StateDependentNoiseDistribution)):
        return torch.cat([inner.mean, inner.stddev.log()], dim=-1)
    raise TypeError(f"no closed form is known for a {type(distribution).__name__}")


def gsde_log_std(dist: StateDependentNoiseDistribution, log_std: Tensor, latent: Tensor) -> Tensor:
    """Return the log standard deviation of gSDE's action distribution, ``(batch, action_dim)``, as SB3 computes it."""
    latent_sde = latent if dist.learn_features else latent.detach()
    variance = latent_sde.square() @ dist.get_std(log_std).square()
    return 0.5 * torch.log(variance + dist.epsilon)


@contextmanager
def _borrowed_action_dist(policy: ActorCriticPolicy) -> Iterator[None]:
    """Let the policy compute through another distribution object: its own is overwritten by each forward pass."""
    own = policy.action_dist
    policy.action_dist = unused(own)
    try:
        yield
    finally:
        policy.action_dist = own
