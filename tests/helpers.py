"""Spaces, environments and policies that are as small as a test allows."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from agents import (
    IMAGE_CHW,
    VECTOR,
    TinyEnv,
    copied,
    differences,
    distillation_state,
    scramble,
    training_state,
)
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlsd
from rlsd.sources import NewStates, Source
from rlsd.targets import TargetCache

OBSERVATION_SPACES: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "image": IMAGE_CHW,
    "dict": spaces.Dict({"camera": IMAGE_CHW, "speed": VECTOR, "gear": spaces.Discrete(3)}),
    "discrete": spaces.Discrete(5),
}

SMALL_CNN = {"net_arch": [4], "features_extractor_kwargs": {"cnn_output_dim": 4}}

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


def normalized_env(space: spaces.Space = VECTOR, actions: spaces.Space | None = None, **kwargs):
    """Two watched environments whose statistics are far from the standard normal, so that clipping shows."""
    env = VecNormalize(vec_env(space, actions, n=2), clip_obs=0.8, epsilon=0.05, **kwargs)
    rms = env.obs_rms if isinstance(env.obs_rms, dict) else {"": env.obs_rms}
    for i, one in enumerate(rms.values()):
        one.mean, one.var = np.full(one.mean.shape, 0.1 * (i + 1)), np.full(one.mean.shape, 0.3 + i)
    return env


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


_BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
_NET = {"net_arch": [6]}
_ON = {"n_steps": 8, "policy_kwargs": _NET}
_OFF = {"buffer_size": 64, "learning_starts": 8, "batch_size": 8, "policy_kwargs": _NET}
_PPO = {**_ON, "batch_size": 4, "n_epochs": 2}

#: Every algorithm of SB3 and sb3-contrib: package, policy, actions, settings that make an update take milliseconds.
ALGORITHMS: dict[str, tuple[str, str, spaces.Space, dict[str, Any]]] = {
    "PPO": ("stable_baselines3", "MlpPolicy", spaces.Discrete(3), _PPO),
    "A2C": ("stable_baselines3", "MlpPolicy", _BOX, _ON),
    "TRPO": ("sb3_contrib", "MlpPolicy", _BOX, {**_ON, "batch_size": 8, "n_critic_updates": 1}),
    "MaskablePPO": ("sb3_contrib", "MlpPolicy", spaces.MultiDiscrete([2, 3]), _PPO),
    "RecurrentPPO": (
        "sb3_contrib",
        "MlpLstmPolicy",
        spaces.Discrete(3),
        {**_PPO, "policy_kwargs": {"net_arch": [6], "lstm_hidden_size": 5, "n_lstm_layers": 2}},
    ),
    "SAC": ("stable_baselines3", "MlpPolicy", _BOX, _OFF),
    "TQC": ("sb3_contrib", "MlpPolicy", _BOX, _OFF),
    "CrossQ": ("sb3_contrib", "MlpPolicy", _BOX, _OFF),
    "TD3": ("stable_baselines3", "MlpPolicy", _BOX, _OFF),
    "DDPG": ("stable_baselines3", "MlpPolicy", _BOX, _OFF),
    "DQN": ("stable_baselines3", "MlpPolicy", spaces.Discrete(3), _OFF),
    "QRDQN": (
        "sb3_contrib",
        "MlpPolicy",
        spaces.Discrete(3),
        {**_OFF, "policy_kwargs": {"net_arch": [6], "n_quantiles": 7}},
    ),
    "ARS": ("sb3_contrib", "MlpPolicy", _BOX, {"n_delta": 2, "policy_kwargs": _NET}),
}


def small_agent(name: str, env: Any = None, wrap: Any = None, seed: int = 0, **changes: Any):
    """The smallest agent of an algorithm; ``wrap`` makes another class of its class."""
    package, policy, actions, settings = ALGORITHMS[name]
    cls = getattr(pytest.importorskip(package), name)
    cls = cls if wrap is None else wrap(cls)
    env = vec_env(action_space=actions) if env is None else env
    return cls(changes.pop("policy", policy), env, seed=seed, device="cpu", **copy.deepcopy(settings | changes))


def check_goes_on_as_if_never_stopped(agent: Any, folder: Any, steps: int) -> None:
    """Save an agent and train it on; the same, resumed by what could be a new process, must end alike, bit for bit."""
    rlsd.save_checkpoint(agent, folder)
    agent.learn(steps, reset_num_timesteps=False)
    expected = copied((training_state(agent), distillation_state(agent)))
    scramble()
    again = rlsd.resume(folder).learn(steps, reset_num_timesteps=False)
    assert not differences(expected, (training_state(again), distillation_state(again)))


class Handing(Source):
    """Hands over states that a test made."""

    def __init__(self, states: dict[str, np.ndarray]) -> None:
        self.states = states

    def new(self, agent: Any):
        yield NewStates(self.states)


def collect(keeper: Any, agent: Any, source: Source) -> np.ndarray:
    """Let a store or a target cache have an agent's new states; return the slots that hold one."""
    slots = [keeper.sync(agent)]
    for new in source.new(agent):
        slots.append(keeper.add(new) if isinstance(keeper, TargetCache) else keeper.add(*new))
    return np.concatenate(slots)


def agent_with_buffer(rows: int, n_envs: int, name: str = "DQN", **kwargs: Any):
    """An agent whose replay buffer has as many rows, of ``n_envs`` states each."""
    env = vec_env(VECTOR, ALGORITHMS[name][2], n=n_envs)
    return small_agent(name, env, buffer_size=rows * n_envs, **kwargs)


def fill(agent: Any, first: int, n: int) -> list[tuple[int, int]]:
    """Put ``n`` transitions of each environment into the buffer, numbered from ``first``, and return their numbers."""
    buffer, numbers = agent.replay_buffer, []
    for number in range(first, first + n):
        now = np.array([[number, env, 0] for env in range(buffer.n_envs)], dtype=np.float32)
        then = np.array([[number, env, 1] for env in range(buffer.n_envs)], dtype=np.float32)
        actions, rewards = np.zeros((buffer.n_envs, buffer.action_dim)), np.zeros(buffer.n_envs)
        buffer.add(now, then, actions, rewards, rewards, [{} for _ in range(buffer.n_envs)])
        numbers += [(number, env) for env in range(buffer.n_envs)]
    return numbers


def numbers_in(states: Any) -> list[tuple[int, int]]:
    """The numbers of states that :func:`fill` made."""
    return [(int(number), int(env)) for number, env, _ in states]
