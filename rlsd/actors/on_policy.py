"""PPO's and A2C's ways of acting: a policy with one optimizer, whose networks give an action distribution."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsd.actors.base import Actor, acting_copy, uncompiled, unused
from rlsd.actors.comparing import close, imagined, overrides_none
from rlsd.distributions import Bernoulli, Categorical, Family, Gaussian
from rlsd.observations import Observations, as_array, from_items, split_context, with_context
from rlsd.rng import private_numbers
from rlsd.torch_family import TorchFamily, bare, flattened

#: Where the distributions are that SB3's policies have, and what is known of them.
_KNOWN = ("stable_baselines3.common.distributions", "sb3_contrib.common.maskable.distributions")
#: What sb3-contrib puts in place of the logit of an action that the mask forbids.
FORBIDDEN = -1e8


class ActorCritic(Actor):
    """The policy of PPO, A2C and TRPO: an ``ActorCriticPolicy`` with any of its action distributions.

    For policies that build their distribution as SB3 does, the parameters come straight from the networks and no
    ``Distribution`` is made. A policy that overrides ``get_distribution``, or that has a distribution of its own, is
    asked through its own method, and the family is that of what it answers.
    """

    policies = ("stable_baselines3.common.policies.ActorCriticPolicy",)
    has_values = True

    def __init__(self, policy: nn.Module) -> None:
        base = next(cls for cls in type(policy).__mro__ if f"{cls.__module__}.{cls.__qualname__}" in self.policies)
        known = type(getattr(policy, "action_dist", None)).__module__ in _KNOWN
        self._plain = known and overrides_none(policy, base, ("get_distribution", "_get_action_dist_from_latent"))
        self._own_features = not overrides_none(policy, base, ("extract_features",))
        self.family = self._family_for(cast(Any, policy).action_space)
        if not self._plain:
            self.family = self._family_told(policy) or self.family

    def _family_told(self, policy: nn.Module) -> Family | None:
        """Return the family of what a policy answers itself, None when it does not answer."""
        copied: Any = acting_copy(policy, policy.modules()).requires_grad_(True)
        generator = np.random.default_rng(0)
        observations = imagined(copied.observation_space, 2, generator, copied.device)
        context = self.imagined_context(copied, 2)
        with private_numbers(generator), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            try:
                told = self._told(copied, from_items(with_context(observations, context)))
            except Exception:  # it may know other observations only: it is asked again when it acts
                return None
            return self._family_of(told)

    def _family_for(self, space: spaces.Space[Any]) -> Family:
        return family_of(space)

    def _family_of(self, told: Any) -> Family:
        return family_told(told)

    def module(self, policy: Any) -> nn.Module:  # noqa: D102
        return uncompiled(policy)

    def optimizer(self, policy: Any) -> Optimizer:  # noqa: D102
        return cast(Optimizer, policy.optimizer)

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        if self._plain:
            return self._from_latent(module, module.mlp_extractor.forward_actor(self._features(module, states)))
        with _borrowed_action_dist(module):
            return parameters_of(self._told(module, states))

    def _told(self, module: Any, states: Observations) -> Any:
        """Return the distribution that a policy answers with itself."""
        if self._own_features:  # get_distribution of SB3 leaves it out, the methods that act and learn do not
            return module._get_action_dist_from_latent(
                module.mlp_extractor.forward_actor(self._features(module, states))
            )
        return module.get_distribution(states)

    def act(self, policy: Any, states: Observations) -> Any:  # noqa: D102
        return policy(states)

    def _judged(self, policy: Any, states: Observations, actions: Tensor) -> Tensor:
        """Return the logarithm of the probabilities of actions as the policy's updates reckon them."""
        return cast(Tensor, policy.evaluate_actions(states, actions)[1])

    def mismatch(self, policy: Any, states: Observations) -> str:  # noqa: D102
        actions, _, acted, *_ = self.act(policy, states)
        if not isinstance(policy.action_space, spaces.Discrete):
            actions = actions.flatten(1)
        told = self._told(policy, states)
        expected = _by_state(told.log_prob(actions))
        answers = self.family.normalized(self.parameters(policy, states))
        if not close(self.family.normalized(self._parameters_told(told, states)), answers):
            return "get_distribution"
        if not close(_by_state(acted), expected):
            return "forward"
        return "" if close(_by_state(self._judged(policy, states, actions)), expected) else "evaluate_actions"

    def _parameters_told(self, told: Any, states: Observations) -> Tensor:
        return parameters_of(told)

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

    def _features(self, module: Any, observations: Observations) -> Tensor:
        if self._own_features:
            features = module.extract_features(observations)
            return cast(Tensor, features if module.share_features_extractor else features[0])
        # The base class's method, as ActorCriticPolicy.get_distribution does: it takes one extractor and returns one.
        return BaseModel.extract_features(module, cast(Any, observations), module.pi_features_extractor)


class MaskedActorCritic(ActorCritic):
    """MaskablePPO's way of acting: the mask that was in force is stored with each state, and holds for both sides."""

    policies = ("sb3_contrib.common.maskable.policies.MaskableActorCriticPolicy",)

    def _family_for(self, space: spaces.Space[Any]) -> Family:
        family = family_of(space)  # sb3-contrib masks each bit as a choice of two
        return Categorical((2,) * family.size) if isinstance(family, Bernoulli) else family

    def _family_of(self, told: Any) -> Family:
        return Categorical(tuple(part.logits.shape[-1] for part in _choices(told)))

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        observations, context = split_context(states)
        if self._plain:
            logits = self._from_latent(module, module.mlp_extractor.forward_actor(self._features(module, observations)))
        else:
            with _borrowed_action_dist(module):
                logits = _logits(super()._told(module, observations))
        return torch.where(context["@mask"] > 0.5, logits, FORBIDDEN)

    def _told(self, module: Any, states: Observations) -> Any:
        observations, context = split_context(states)
        told = super()._told(module, observations)
        told.apply_masking(context["@mask"].cpu().numpy())
        return told

    def act(self, policy: Any, states: Observations) -> Any:  # noqa: D102
        observations, context = split_context(states)
        return policy(observations, action_masks=context["@mask"].cpu().numpy())

    def _judged(self, policy: Any, states: Observations, actions: Tensor) -> Tensor:
        observations, context = split_context(states)
        return cast(Tensor, policy.evaluate_actions(observations, actions, action_masks=context["@mask"])[1])

    def _parameters_told(self, told: Any, states: Observations) -> Tensor:
        return torch.where(split_context(states)[1]["@mask"] > 0.5, _logits(told), FORBIDDEN)

    def imagined_context(self, policy: Any, n: int) -> dict[str, Tensor]:  # noqa: D102
        return {"@mask": torch.ones(n, self.family.size, dtype=torch.uint8, device=policy.device)}

    def context(self, agent: Any) -> dict[str, np.ndarray]:  # noqa: D102
        masks = as_array(agent.rollout_buffer.action_masks)
        return {"@mask": masks.reshape(-1, masks.shape[-1]).astype(np.uint8)}


def _choices(told: Any) -> list[Any]:
    return list(told.distributions) if hasattr(told, "distributions") else [told.distribution]


def _logits(told: Any) -> Tensor:
    return torch.cat([part.logits for part in _choices(told)], dim=-1)


class RecurrentActorCritic(ActorCritic):
    """RecurrentPPO's way of acting: the LSTM's state before each step is stored with it, and both sides start there."""

    policies = ("sb3_contrib.common.recurrent.policies.RecurrentActorCriticPolicy",)
    has_values = False  # the memory of the critic's own LSTM is not stored with the states

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        if self._plain:
            return self._from_latent(module, self._latent(module, states))
        with _borrowed_action_dist(module):
            return parameters_of(self._told(module, states))

    def _latent(self, module: Any, states: Observations) -> Tensor:
        observations, context = split_context(states)
        features = self._features(module, observations)
        keep = (1.0 - context["@start"]).view(1, -1, 1)
        out, _ = module.lstm_actor(features.unsqueeze(0), tuple(keep * part for part in _memory(context)))
        return cast(Tensor, module.mlp_extractor.forward_actor(out.squeeze(0)))

    def _told(self, module: Any, states: Observations) -> Any:
        if self._own_features:
            return module._get_action_dist_from_latent(self._latent(module, states))
        observations, context = split_context(states)
        return module.get_distribution(observations, _memory(context), context["@start"])[0]

    def act(self, policy: Any, states: Observations) -> Any:  # noqa: D102
        observations, context = split_context(states)
        return policy(observations, _Memories(_memory(context), _memory(context)), context["@start"])

    def _judged(self, policy: Any, states: Observations, actions: Tensor) -> Tensor:
        observations, context = split_context(states)
        memory = _Memories(_memory(context), _memory(context))
        return cast(Tensor, policy.evaluate_actions(observations, actions, memory, context["@start"])[1])

    def imagined_context(self, policy: Any, n: int) -> dict[str, Tensor]:  # noqa: D102
        shape = (n, policy.lstm_actor.num_layers, policy.lstm_actor.hidden_size)
        memory = torch.linspace(-1.0, 1.0, math.prod(shape), device=policy.device).view(shape)
        return {"@hidden": memory, "@cell": memory, "@start": (torch.arange(n, device=policy.device) % 2).float()}

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


class _Memories(NamedTuple):
    """sb3-contrib's ``RNNStates``, which may not be installed."""

    pi: tuple[Tensor, ...]
    vf: tuple[Tensor, ...]


def _memory(context: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Return an LSTM's memory as it takes it, ``(layers, batch, hidden)``: it is stored by state."""
    return tuple(context[key].transpose(0, 1).contiguous() for key in ("@hidden", "@cell"))


def _by_state(log_prob: Tensor) -> Tensor:
    """Return the logarithms of probabilities summed over components, which distributions of torch's own are not."""
    return log_prob.flatten(1).sum(1) if log_prob.dim() > 1 else log_prob


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


def family_told(distribution: Any) -> Family:
    """Return the family of a distribution object that a policy answered with, SB3's or torch's own.

    :raises TypeError: when no divergence of such distributions is known.
    """
    parts = _parts(distribution)
    kinds = {type(part) for part in parts}
    if kinds == {torch.distributions.Categorical}:
        choices = [(part.logits.shape[-1], math.prod(part.batch_shape[1:])) for part in parts]
        return Categorical(tuple(options for options, times in choices for _ in range(times)))
    if kinds == {torch.distributions.Bernoulli}:
        return Bernoulli(sum(math.prod(part.batch_shape[1:]) for part in parts))
    if kinds == {torch.distributions.Normal} and len(parts) == 1:
        return Gaussian(math.prod(parts[0].batch_shape[1:]))
    return TorchFamily(parts)


def parameters_of(distribution: Any) -> Tensor:
    """Return the flat parameters ``(batch, family.size)`` of a distribution object, in the order of its family."""
    parts = _parts(distribution)
    kinds = {type(part) for part in parts}
    if kinds <= {torch.distributions.Categorical} or kinds <= {torch.distributions.Bernoulli}:
        return torch.cat([part.logits.flatten(1) for part in parts], dim=-1)
    if kinds == {torch.distributions.Normal} and len(parts) == 1:
        return torch.cat([parts[0].mean.flatten(1), parts[0].stddev.log().flatten(1)], dim=-1)
    return flattened(parts)


def _parts(distribution: Any) -> list[Any]:
    """Return torch's distributions in a distribution object, one for all components or several independent ones."""
    found = distribution
    for name in ("distribution", "distributions"):
        if not isinstance(found, (torch.distributions.Distribution, list, tuple)):
            found = getattr(distribution, name, None)
    parts = list(found) if isinstance(found, (list, tuple)) else [found]
    if not parts or not all(isinstance(part, torch.distributions.Distribution) for part in parts):
        raise TypeError(f"its {type(distribution).__name__} has no attribute distribution that is one of torch's")
    return [bare(part) for part in parts]


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
