"""Spaces, environments and policies that are as small as a test allows."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from agents import IMAGE_CHW, VECTOR, TinyEnv
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv

OBSERVATION_SPACES: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "image": IMAGE_CHW,
    "dict": spaces.Dict({"camera": IMAGE_CHW, "speed": VECTOR, "gear": spaces.Discrete(3)}),
    "discrete": spaces.Discrete(5),
}

#: Action spaces, each with the policy's keywords that select one of its action distributions.
ACTING: dict[str, tuple[spaces.Space, dict[str, Any]]] = {
    "Discrete": (spaces.Discrete(4), {}),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3, 4]), {}),
    "MultiBinary": (spaces.MultiBinary(3), {}),
    "Box": (spaces.Box(-1.0, 1.0, (2,), np.float32), {}),
    "Box of two axes": (spaces.Box(-1.0, 1.0, (2, 3), np.float32), {}),
    **{
        f"gSDE full_std={full_std} use_expln={use_expln} squash_output={squash_output}": (
            spaces.Box(-1.0, 1.0, (2,), np.float32),
            {"use_sde": True, "full_std": full_std, "use_expln": use_expln, "squash_output": squash_output},
        )
        for full_std in (True, False)
        for use_expln in (True, False)
        for squash_output in (True, False)
    },
}


class WatchedEnv(TinyEnv):
    """An environment that remembers every observation it gave."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, length: int = 5) -> None:
        super().__init__(observation_space, action_space, length)
        self.given: list[Any] = []

    def _observe(self) -> Any:
        self.given.append(super()._observe())
        return self.given[-1]


def vec_env(observation_space: spaces.Space = VECTOR, action_space: spaces.Space | None = None, n: int = 1):
    """``n`` watched environments with episodes of different lengths."""
    action_space = spaces.Discrete(2) if action_space is None else action_space
    return DummyVecEnv([lambda i=i: WatchedEnv(observation_space, action_space, length=5 + i) for i in range(n)])


def small_ppo(env: Any = None, policy: Any = "MlpPolicy", **kwargs: Any) -> PPO:
    """A PPO agent whose updates take milliseconds."""
    small = {"n_steps": 8, "batch_size": 4, "n_epochs": 2, "seed": 0, "device": "cpu", "learning_rate": 1e-2}
    return PPO(policy, vec_env() if env is None else env, **(small | kwargs))


def make_policy(observation_space: spaces.Space, action_space: spaces.Space, cls: Any = None, **kwargs: Any):
    """An actor-critic policy of SB3 with parameters large enough that its distributions are far from uniform."""
    if cls is None:
        if isinstance(observation_space, spaces.Dict):
            cls = MultiInputActorCriticPolicy
        else:
            cls = ActorCriticCnnPolicy if is_image_space(observation_space) else ActorCriticPolicy
    torch.manual_seed(0)
    policy = cls(observation_space, action_space, lambda _: 1e-3, **({"net_arch": [8]} | kwargs))
    disturb(policy, 0.3)
    return policy


def disturb(policy: torch.nn.Module, scale: float = 1.0, seed: int = 0) -> None:
    """Change every parameter, as a training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def observe(space: spaces.Space, n: int = 6, seed: int = 0) -> Any:
    """``n`` observations of a space as tensors, the way SB3's rollout buffers hand them to a policy."""
    space = copy.deepcopy(space)  # with a generator of its own
    space.seed(seed)
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return obs_as_tensor({key: _stacked([s[key] for s in samples]) for key in space.spaces}, "cpu")
    return obs_as_tensor(_stacked(samples), "cpu")


def _stacked(samples: list[Any]) -> np.ndarray:
    array = np.stack([np.asarray(sample) for sample in samples])
    return array if array.ndim > 1 else array[:, None]


def same(a: Any, b: Any) -> bool:
    """Whether two batches of observations are equal, bit for bit."""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(torch.as_tensor(a), torch.as_tensor(b))
