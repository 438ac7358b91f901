"""What a policy does in deployment, as one graph of tensors: raw observations in, the most likely actions out.

It holds the normalisation of observations, the network, and what ``predict`` does to an action afterwards: clipping to
the action space, or scaling to it. No distribution is made and nothing is drawn, so that torch can export it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from rlsd.cli.errors import UserError
from rlsd.cli.masks import takes_masks

#: The name of the input of a policy that sees one array, and of the masks of MaskablePPO.
OBSERVATION, MASKS = "observation", "action_masks"
#: What sb3-contrib adds to the logits of an action that is masked out, in effect.
_FORBIDDEN = -1e8


class ActingGraph(nn.Module):
    """A policy's most likely actions as one function of raw observations.

    :param policy: of SB3 or sb3-contrib, without memory.
    :param env: shows it its observations; its ``VecNormalize`` becomes part of the graph.
    :raises UserError: when a policy or space of this kind cannot be exported.
    """

    low: Tensor
    high: Tensor

    def __init__(self, policy: BasePolicy, env: VecEnv) -> None:
        super().__init__()
        self.policy = policy
        self.raw_space = env.unwrapped.observation_space
        self._statistics = _Statistics(unwrap_vec_normalize(env))
        self._greedy = _greedy(policy)
        self.masked = takes_masks(policy)
        actions = policy.action_space
        if isinstance(actions, spaces.Box):
            self.register_buffer("low", torch.as_tensor(actions.low))
            self.register_buffer("high", torch.as_tensor(actions.high))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs, in the order of ``forward``: the keys of a Dict, and masks where there are any."""
        keys = tuple(self.raw_space.spaces) if isinstance(self.raw_space, spaces.Dict) else (OBSERVATION,)
        return (*keys, MASKS) if self.masked else keys

    def forward(self, *given: Tensor) -> Tensor:
        """Return actions ``(batch, *action_shape)`` for the inputs, ``(batch, ...)`` each."""
        named = dict(zip(self.inputs, given, strict=True))
        masks = named.pop(MASKS, None)
        seen = {key: self._statistics(key, value) for key, value in named.items()}
        own = self.policy.observation_space
        if isinstance(own, spaces.Dict):
            logits = self._greedy({key: _as_seen(value, own[key]) for key, value in seen.items()}, masks)
        else:
            logits = self._greedy(_as_seen(seen[OBSERVATION], own), masks)
        space = self.policy.action_space
        if not isinstance(space, spaces.Box):
            return logits
        actions = logits.reshape(-1, *space.shape)
        if self.policy.squash_output:
            return self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        return torch.clamp(actions, self.low, self.high)


class _Statistics(nn.Module):
    """The means and variances of a ``VecNormalize``, by key; nothing without one. In 64 bits, as there."""

    def __init__(self, normalizer: VecNormalize | None) -> None:
        super().__init__()
        self._keys: list[str] = []
        self._clip = 0.0
        if normalizer is None or not normalizer.norm_obs:
            return
        found = normalizer.obs_rms
        moments = found if isinstance(found, Mapping) else {OBSERVATION: found}
        self._keys, self._clip = list(moments), float(normalizer.clip_obs)
        for number, key in enumerate(self._keys):
            self.register_buffer(f"mean{number}", torch.as_tensor(moments[key].mean))
            self.register_buffer(f"scale{number}", torch.as_tensor(moments[key].var + normalizer.epsilon).sqrt())

    def forward(self, key: str, value: Tensor) -> Tensor:
        if key not in self._keys:
            return value
        mean, scale = (self.get_buffer(f"{name}{self._keys.index(key)}") for name in ("mean", "scale"))
        return torch.clamp((value.double() - mean) / scale, -self._clip, self._clip).float()


def _as_seen(value: Tensor, space: spaces.Space[Any]) -> Tensor:
    """Return an observation as the policy sees it: images with their channels first."""
    image = isinstance(space, spaces.Box) and is_image_space(space) and is_image_space_channels_first(space)
    if image and tuple(value.shape[1:]) != space.shape:
        return value.permute(0, 3, 1, 2)
    return value


def _greedy(policy: Any) -> Callable[[Any, Tensor | None], Tensor]:
    """Return the function from observations and masks to the most likely action, before it is clipped or scaled."""
    name = type(policy).__name__
    if any(cls.__name__ == "RecurrentActorCriticPolicy" for cls in type(policy).__mro__):
        raise UserError(f"{name} remembers, and its memory would have to go in and out: it cannot be exported")
    if isinstance(policy, ActorCriticPolicy) or takes_masks(policy):
        return lambda seen, masks: _likeliest(policy, _actor_critic(policy, seen), masks)
    if hasattr(getattr(policy, "actor", None), "get_action_dist_params"):  # SAC, TQC, CrossQ
        return lambda seen, masks: torch.tanh(policy.actor.get_action_dist_params(seen)[0])
    if isinstance(policy, TD3Policy):
        return lambda seen, masks: policy.actor(seen)
    if isinstance(policy, DQNPolicy):
        return lambda seen, masks: policy.q_net(seen).argmax(dim=1)
    if name == "QRDQNPolicy":
        return lambda seen, masks: policy.quantile_net(seen).mean(dim=1).argmax(dim=1)
    if name in ("ARSPolicy", "ARSLinearPolicy"):
        return lambda seen, masks: _likeliest(policy, policy.action_net(_features(policy, seen)), masks)
    raise UserError(f"{name} is none of SB3's policies: it cannot be exported to ONNX, its weights to .safetensors can")


def _features(policy: Any, seen: Any) -> Any:
    return policy.extract_features(seen, policy.features_extractor)


def _actor_critic(policy: Any, seen: Any) -> Tensor:
    """Return the logits or the means of PPO's, A2C's, TRPO's or MaskablePPO's policy."""
    features = policy.extract_features(seen, policy.pi_features_extractor)
    out: Tensor = policy.action_net(policy.mlp_extractor.forward_actor(features))
    return torch.tanh(out) if policy.squash_output else out


def _likeliest(policy: Any, parameters: Tensor, masks: Tensor | None) -> Tensor:
    """Return the likeliest action of a distribution that has these parameters."""
    space = policy.action_space
    if isinstance(space, spaces.Box):
        return parameters
    if isinstance(space, spaces.MultiBinary):
        pairs = masks is not None  # MaskablePPO takes each switch for a choice of two
        if not pairs:
            return (parameters > 0).to(torch.int8)
        sizes = [2] * spaces.flatdim(space)
    else:
        sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in space.nvec]
    logits = parameters if masks is None else torch.where(masks.bool(), parameters, _FORBIDDEN)
    chosen = [part.argmax(dim=1) for part in torch.split(logits, sizes, dim=1)]
    return chosen[0] if isinstance(space, spaces.Discrete) else torch.stack(chosen, dim=1)
