"""Acting as SB3's own policies do, by the very same operations, without the objects in between.

Bit-identical: the same random numbers are drawn in the same order, and actions, values and log-probabilities are the
same to the last bit. What a policy does in another way than SB3 is left to the policy.

What SB3's distributions refuse because it is not a number is refused here, too, before it becomes an action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor, NatureCNN
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from rlsd import faults
from rlsd.speed.layers import Function, function_of
from rlsd.speed.mlp import untouched

Methods = dict[str, Callable[..., Any]]
_HALF_LOG_TWO_PI = math.log(math.sqrt(2 * math.pi))


def lean_methods(policy: nn.Module) -> Methods:
    """Return the methods of a policy that can be computed leanly, by name; empty when it must be called as it is.

    They hold for the layers the policy has now: ask again before each rollout, and when a layer is exchanged.
    """
    if isinstance(policy, ActorCriticPolicy):
        return _actor_critic(policy)
    return _off_policy(policy)


def _as_in(cls: type, module: nn.Module, *names: str) -> bool:
    """Tell whether a module has these methods, and being called, from an SB3 class, and neither hooks nor its own."""
    own = type(module)
    return (
        untouched(module)
        and own.__call__ is nn.Module.__call__
        and all(getattr(own, name) is getattr(cls, name) and name not in module.__dict__ for name in names)
    )


# --- What policies share --------------------------------------------------------------------------


def _features(model: Any, extractor: nn.Module) -> Function | None:
    """Return ``extract_features`` of a model for one extractor, None when the extractor must be called."""
    space = model.observation_space
    if not isinstance(space, spaces.Box) or not untouched(extractor):
        return None
    if type(extractor) is FlattenExtractor:
        network = function_of(extractor.flatten)
    elif type(extractor) is NatureCNN:
        network = function_of(extractor.cnn, extractor.linear)
    else:
        return None
    if network is None:
        return None
    image = model.normalize_images and is_image_space(space)
    flat = type(extractor) is FlattenExtractor and len(space.shape) == 1
    if flat and not image:
        return lambda observations: observations.float()
    if image:
        return lambda observations: network(observations.float() / 255.0)
    return lambda observations: network(observations.float())


def _gaussian(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    """Return a sample of a diagonal Gaussian and its scale."""
    scale = torch.ones_like(mean) * log_std.exp()
    return mean + torch.empty(mean.shape, dtype=mean.dtype, device=mean.device).normal_() * scale, scale


# --- PPO's and A2C's policies ---------------------------------------------------------------------


def _actor_critic(policy: Any) -> Methods:
    names = ("extract_features", "_get_action_dist_from_latent", "predict_values")
    if not _as_in(ActorCriticPolicy, policy, "forward", *names) or type(policy.mlp_extractor) is not MlpExtractor:
        return {}
    extractor = policy.mlp_extractor
    if not untouched(extractor):
        return {}
    sees = _features(policy, policy.pi_features_extractor)
    judges = _features(policy, policy.vf_features_extractor)
    actor = function_of(extractor.policy_net, policy.action_net)
    critic = function_of(extractor.value_net, policy.value_net)
    if sees is None or judges is None or actor is None or critic is None:
        return {}
    act = _action_and_log_prob(policy)
    if act is None:
        return {}
    shared = policy.share_features_extractor
    likeliest = _likeliest(policy)

    def mode(obs: Tensor) -> Tensor:
        return likeliest(actor(sees(obs)), obs)

    def forward(obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        if deterministic:
            return ActorCriticPolicy.forward(policy, obs, True)
        features = sees(obs)
        values = critic(features if shared else judges(obs))
        actions, log_prob = act(actor(features), obs)
        return actions, values, log_prob

    def predict_values(obs: Tensor) -> Tensor:
        return critic(judges(obs))

    methods: Methods = {"forward": forward, "predict_values": predict_values}
    if _as_in(ActorCriticPolicy, policy, "predict", "_predict", "get_distribution", "obs_to_tensor"):
        methods["predict"] = _predict(policy, mode)
    return methods


def _likeliest(policy: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mode of the distributions that :func:`_action_and_log_prob` knows, by parameters and observations."""

    def choice(logits: Tensor, obs: Tensor) -> Tensor:
        if math.isnan(logits.sum().item()) and bool(logits.isnan().any()):  # the sum also where infinities meet
            raise faults.no_action(policy, obs)
        return torch.softmax(logits - logits.logsumexp(dim=-1, keepdim=True), dim=-1).argmax(dim=1)

    return choice if type(policy.action_dist) is CategoricalDistribution else lambda mean, _: mean


def _action_and_log_prob(policy: Any) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    shape = (-1, *policy.action_space.shape)
    kind = type(policy.action_dist)

    def choose(logits: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits - logits.logsumexp(dim=-1, keepdim=True)
        probs = torch.softmax(logits, dim=-1)
        try:
            drawn = torch.multinomial(probs, 1, True)
        except RuntimeError as error:  # it looks at the probabilities, on every device
            if bool(probs.isfinite().all()):
                raise
            raise faults.no_action(policy, obs) from error
        return drawn.T.reshape(shape), logits.gather(-1, drawn).squeeze(-1)

    def sample(mean: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
        actions, scale = _gaussian(mean, policy.log_std)
        log_prob = -((actions - mean) ** 2) / (2 * scale**2) - scale.log() - _HALF_LOG_TWO_PI
        log_prob = log_prob.sum(dim=1)
        # SB3 waits for the actions right after, so looking at the last of their kernels here is no wait of its own.
        if math.isnan(sum(log_prob.tolist())) and not bool((mean.isnan().logical_not() & (scale > 0)).all()):
            raise faults.no_action(policy, obs)
        return actions.reshape(shape), log_prob

    if kind is CategoricalDistribution:
        return choose
    return sample if kind is DiagGaussianDistribution else None


# --- SAC's, TD3's and DQN's policies --------------------------------------------------------------


def _off_policy(policy: Any) -> Methods:
    """Return a lean ``predict``: these algorithms act through it, one step at a time."""
    for cls, act in ((SACPolicy, _squashed), (TD3Policy, _deterministic), (DQNPolicy, _greedy)):
        if isinstance(policy, cls) and _as_in(cls, policy, "predict", "_predict", "forward", "obs_to_tensor"):
            ways = act(policy)
            return {} if ways is None else {"predict": _predict(policy, *ways)}
    return {}


def _predict(policy: Any, mode: Function, sample: Function | None = None) -> Callable[..., Any]:
    """Return ``BasePolicy.predict`` for batches of observations that need no reshaping.

    :param mode: from observations to the most likely actions.
    :param sample: to actions drawn at random; None to leave that to the policy.
    """
    shape, device = policy.observation_space.shape, policy.device
    action_shape = (-1, *policy.action_space.shape)
    box, squashed = isinstance(policy.action_space, spaces.Box), policy.squash_output
    drawn = box and not isinstance(policy, TD3Policy)  # from a distribution, which looks at its parameters in SB3

    def predict(
        observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        plain = isinstance(observation, np.ndarray) and observation.shape[1:] == shape and observation.ndim > len(shape)
        action = mode if deterministic else sample
        if action is None or not plain:
            return BasePolicy.predict(policy, observation, state, episode_start, deterministic)
        if policy.training:
            policy.set_training_mode(False)
        seen = torch.as_tensor(np.array(observation), device=device)
        with torch.no_grad():
            chosen = action(seen)
        actions = chosen.cpu().numpy().reshape(action_shape)
        if drawn and np.isnan(actions).any():
            raise faults.no_action(policy, seen)
        if box and squashed:
            actions = policy.unscale_action(actions)
        elif box:
            actions = np.clip(actions, policy.action_space.low, policy.action_space.high)
        return actions, state

    return predict


def _squashed(policy: Any) -> tuple[Function, Function] | None:
    actor = policy.actor
    usable = type(actor) is SACActor and _as_in(SACActor, actor, "forward", "get_action_dist_params")
    if not usable or type(actor.action_dist) is not SquashedDiagGaussianDistribution:
        return None
    features, latent = _features(actor, actor.features_extractor), function_of(actor.latent_pi)
    mean, log_std = function_of(actor.mu), function_of(actor.log_std)
    if features is None or latent is None or mean is None or log_std is None:
        return None

    def sample(observations: Tensor) -> Tensor:
        hidden = latent(features(observations))
        spread = torch.clamp(log_std(hidden), LOG_STD_MIN, LOG_STD_MAX)
        return torch.tanh(_gaussian(mean(hidden), spread)[0])

    return lambda observations: torch.tanh(mean(latent(features(observations)))), sample


def _deterministic(policy: Any) -> tuple[Function, Function] | None:
    actor = policy.actor
    if type(actor) is not TD3Actor or not _as_in(TD3Actor, actor, "forward"):
        return None
    features, mean = _features(actor, actor.features_extractor), function_of(actor.mu)
    if features is None or mean is None:
        return None
    return (lambda observations: mean(features(observations)),) * 2


def _greedy(policy: Any) -> tuple[Function, Function] | None:
    network = policy.q_net
    if type(network) is not QNetwork or not _as_in(QNetwork, network, "forward", "_predict"):
        return None
    features, values = _features(network, network.features_extractor), function_of(network.q_net)
    if features is None or values is None:
        return None
    return (lambda observations: values(features(observations)).argmax(dim=1).reshape(-1),) * 2
