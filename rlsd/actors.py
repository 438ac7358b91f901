"""How an SB3 policy acts: the parameters of its action distribution, and the optimizer that trains them.

One adapter serves one way of acting, not one algorithm. An adapter keeps no reference to an agent: it is handed the
policy, the live one or a frozen copy, each time. So nothing can be bound to an agent that was since loaded anew.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
    make_proba_distribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsd.distributions import Bernoulli, Categorical, Family, Gaussian
from rlsd.observations import Observations


class Actor(ABC):
    """An adapter to one way of acting.

    :param policy: the agent's policy, from which the family of its action distribution is read.
    """

    family: Family

    @abstractmethod
    def __init__(self, policy: nn.Module) -> None: ...

    @abstractmethod
    def optimizer(self, policy: nn.Module) -> Optimizer:
        """Return the optimizer whose steps train what acts."""

    @abstractmethod
    def frozen(self, policy: nn.Module) -> nn.Module:
        """Return a copy of the policy that acts as it does now, shares no storage with it and asks for no gradient."""

    @abstractmethod
    def parameters(self, policy: nn.Module, observations: Observations) -> Tensor:
        """Return the action distributions' parameters, ``(batch, family.size)``, for states as a policy sees them.

        Must draw no random number and leave no trace on the policy.
        """


class ActorCritic(Actor):
    """PPO's and A2C's way of acting: an ``ActorCriticPolicy`` with any of its action distributions.

    For policies that build their distribution as SB3 does, the parameters come straight from the networks and no
    ``Distribution`` is made. A policy that overrides ``get_distribution`` is asked through its own method.
    """

    def __init__(self, policy: nn.Module) -> None:
        assert isinstance(policy, ActorCriticPolicy)
        self.family = family_of(policy.action_space)
        self._plain = _uses_own(ActorCriticPolicy, policy, "get_distribution", "_get_action_dist_from_latent")

    def optimizer(self, policy: nn.Module) -> Optimizer:  # noqa: D102
        return policy.optimizer  # type: ignore[return-value]

    def frozen(self, policy: nn.Module) -> nn.Module:  # noqa: D102
        assert isinstance(policy, ActorCriticPolicy)
        clean = _unused_action_dist(policy)
        # The optimizer would double the memory; the live distribution holds tensors of a graph, which cannot be copied.
        memo: dict[int, Any] = {id(policy.action_dist): clean, id(policy.optimizer): None}
        copied = copy.deepcopy(policy, memo)
        return copied.requires_grad_(False).train(False)

    def parameters(self, policy: nn.Module, observations: Observations) -> Tensor:  # noqa: D102
        assert isinstance(policy, ActorCriticPolicy)
        if not self._plain:
            with _borrowed_action_dist(policy):
                return parameters_of(policy.get_distribution(observations))
        # The base class's method, as ActorCriticPolicy.get_distribution does: it takes one extractor and returns one.
        features = super(ActorCriticPolicy, policy).extract_features(observations, policy.pi_features_extractor)
        latent = policy.mlp_extractor.forward_actor(features)
        head: Tensor = policy.action_net(latent)
        if not isinstance(self.family, Gaussian):
            return head
        if isinstance(policy.action_dist, StateDependentNoiseDistribution):
            log_std = _gsde_log_std(policy.action_dist, policy.log_std, latent)
        else:
            log_std = policy.log_std.expand_as(head)
        return torch.cat([head, log_std], dim=-1)


_ACTORS: dict[type[nn.Module], type[Actor]] = {ActorCriticPolicy: ActorCritic}


def actor_for(agent: BaseAlgorithm) -> Actor:
    """Return the adapter for the way the agent acts.

    :raises TypeError: when none is known.
    """
    policy = agent.policy
    for cls in type(policy).__mro__:
        if cls in _ACTORS and _same_call(cls, policy):
            return _ACTORS[cls](policy)
    known = ", ".join(cls.__name__ for cls in _ACTORS)
    raise TypeError(
        f"cannot distil a {type(agent).__name__} with a {type(policy).__name__}: "
        f"rlsd knows how these policies act: {known} (PPO and A2C)"
    )


def _same_call(base: type[nn.Module], policy: nn.Module) -> bool:
    """Tell whether the policy is asked for its distribution as its base is: recurrent ones also want a state."""
    asked = inspect.signature(type(policy).get_distribution).parameters.values()  # type: ignore[attr-defined]
    return sum(parameter.default is parameter.empty for parameter in asked) == 2  # the policy and the observations


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
        return Gaussian(int(action_space.shape[0]))
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


def _gsde_log_std(dist: StateDependentNoiseDistribution, log_std: Tensor, latent: Tensor) -> Tensor:
    # As StateDependentNoiseDistribution.proba_distribution: the noise's scale does not train the features.
    latent_sde = latent if dist.learn_features else latent.detach()
    variance = latent_sde.square() @ dist.get_std(log_std).square()
    return 0.5 * torch.log(variance + dist.epsilon)


def _uses_own(base: type, policy: nn.Module, *methods: str) -> bool:
    return all(getattr(type(policy), method) is getattr(base, method) for method in methods)


def _unused_action_dist(policy: ActorCriticPolicy) -> Distribution:
    """Return a distribution object like the policy's, through which nothing was computed yet."""
    dist = make_proba_distribution(policy.action_space, use_sde=policy.use_sde, dist_kwargs=policy.dist_kwargs)
    if isinstance(dist, StateDependentNoiseDistribution):
        dist.latent_sde_dim = policy.action_dist.latent_sde_dim  # type: ignore[attr-defined]
    return dist


@contextmanager
def _borrowed_action_dist(policy: ActorCriticPolicy) -> Iterator[None]:
    """Let the policy compute through another distribution object: its own is overwritten by each forward pass."""
    own = policy.action_dist
    policy.action_dist = _unused_action_dist(policy)
    try:
        yield
    finally:
        policy.action_dist = own
