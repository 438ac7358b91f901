"""The smallest real agents, for every algorithm and every way to act and see, and what tests compare of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import Tensor, nn
from torch.optim import Optimizer

import rlsd

N_ENVS = 2
N_STEPS = 8
ROLLOUT = N_ENVS * N_STEPS

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE_HWC = spaces.Box(0, 255, (36, 36, 3), np.uint8)
IMAGE_CHW = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DICT = spaces.Dict({"image": IMAGE_HWC, "vector": VECTOR})


class TinyEnv(gym.Env[Any, Any]):
    """Observations at random from any space, a reward for acting in step with them, episodes of ``length`` steps."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], length: int = 5) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.length = length
        self._steps = 0
        self._wanted = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = -abs(float(np.mean(action)) - self._wanted)
        self._steps += 1
        over = self._steps >= self.length
        # Every other kind of end: SB3 treats an episode that was cut short differently from one that ended.
        cut_short = over and bool(self.np_random.integers(2))
        return self._observe(), reward, over and not cut_short, cut_short, {}

    def action_masks(self) -> np.ndarray:
        """For each choice of each part of an action whether it is allowed; never none, and mostly not all."""
        parts: Any = {
            spaces.Discrete: lambda space: [space.n],
            spaces.MultiDiscrete: lambda space: space.nvec,
            spaces.MultiBinary: lambda space: [2] * space.n,
        }[type(self.action_space)](self.action_space)
        first = int(self._wanted * 97)
        return np.concatenate(
            [[choice != (first + i) % (size + 1) for choice in range(size)] for i, size in enumerate(parts)]
        )

    def _observe(self) -> Any:
        observation = self._sample(self.observation_space)
        parts = observation.values() if isinstance(observation, dict) else [observation]
        self._wanted = float(np.mean([np.mean(np.asarray(part, dtype=float)) for part in parts])) % 1.0
        return observation

    def _sample(self, space: spaces.Space[Any]) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._sample(part) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Discrete):
            return int(self.np_random.integers(space.n))
        if isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)):
            most = space.nvec if isinstance(space, spaces.MultiDiscrete) else 2
            return self.np_random.integers(0, most, space.shape).astype(space.dtype)
        assert isinstance(space, spaces.Box)
        if space.dtype == np.uint8:
            return self.np_random.integers(0, 256, space.shape, dtype=np.uint8)
        return self.np_random.uniform(-1.0, 1.0, space.shape).astype(np.float32)


class TinyGoalEnv(TinyEnv):
    """The same with a goal, as HerReplayBuffer asks for."""

    def _observe(self) -> Any:
        self._wanted = float(self.np_random.uniform())
        draw = lambda n: self.np_random.uniform(-1.0, 1.0, n).astype(np.float32)  # noqa: E731
        return {"achieved_goal": draw(2), "desired_goal": draw(2), "observation": draw(3)}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        return -np.linalg.norm(achieved - desired, axis=-1)


class Regularized(BaseFeaturesExtractor):
    """A features extractor whose passes leave traces in training mode: batch norm learns, dropout draws."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space, 6)
        self.net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3))

    def forward(self, observations: Tensor) -> Tensor:
        return self.net(observations)


@dataclass(frozen=True)
class Kind:
    """One way to act and to see."""

    actions: spaces.Space[Any] = field(default_factory=lambda: spaces.Discrete(3))
    observations: spaces.Space[Any] = field(default_factory=lambda: VECTOR)
    policy: str = "MlpPolicy"
    normalize: dict[str, Any] | None = None
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: type[TinyEnv] = TinyEnv


_BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
_GOAL = spaces.Box(-1.0, 1.0, (2,), np.float32)
_SMALL_CNN = {"features_extractor_kwargs": {"features_dim": 8}}

KINDS: dict[str, Kind] = {
    "discrete": Kind(),
    "multidiscrete": Kind(spaces.MultiDiscrete([2, 3])),
    "multibinary": Kind(spaces.MultiBinary(3)),
    "box": Kind(_BOX),
    "gsde": Kind(_BOX, arguments={"use_sde": True, "sde_sample_freq": 4}),
    "gsde_squashed": Kind(
        _BOX,
        arguments={"use_sde": True},
        policy_kwargs={"squash_output": True, "use_expln": True, "full_std": False},
    ),
    "image_chw": Kind(observations=IMAGE_CHW, policy="CnnPolicy", policy_kwargs=_SMALL_CNN),
    "image_hwc": Kind(observations=IMAGE_HWC, policy="CnnPolicy", policy_kwargs=_SMALL_CNN),
    "dict": Kind(
        observations=DICT,
        policy="MultiInputPolicy",
        policy_kwargs={"features_extractor_kwargs": {"cnn_output_dim": 8}},
    ),
    "discrete_observations": Kind(observations=spaces.Discrete(5)),
    "normalized": Kind(_BOX, normalize={"clip_obs": 1.5}),
    "normalized_dict": Kind(
        observations=DICT,
        policy="MultiInputPolicy",
        normalize={"norm_obs_keys": ["vector"]},
        policy_kwargs={"features_extractor_kwargs": {"cnn_output_dim": 8}},
    ),
    "regularized": Kind(policy_kwargs={"features_extractor_class": Regularized}),
    "separate_extractors": Kind(
        policy_kwargs={"features_extractor_class": Regularized, "share_features_extractor": False}
    ),
}

#: Kinds that PPO and A2C have no need of: goals, and continuous actions with other observations.
MORE_KINDS: dict[str, Kind] = {
    # Else the deterministic actors' tanh saturates within a few steps.
    "box_image": Kind(_BOX, IMAGE_CHW, "CnnPolicy", None, _SMALL_CNN, {"learning_rate": 0.001}),
    "shared_image": Kind(
        _BOX, IMAGE_CHW, "CnnPolicy", None, {**_SMALL_CNN, "share_features_extractor": True}, {"learning_rate": 0.001}
    ),
    "box_dict": Kind(_BOX, DICT, "MultiInputPolicy", None, KINDS["dict"].policy_kwargs, {"learning_rate": 0.001}),
    "normalized_discrete": Kind(normalize={"clip_obs": 1.5}),
    **{
        name: Kind(
            actions,
            spaces.Dict({"achieved_goal": _GOAL, "desired_goal": _GOAL, "observation": VECTOR}),
            "MultiInputPolicy",
            arguments={"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"n_sampled_goal": 2}},
            environment=TinyGoalEnv,
        )
        for name, actions in {"goal": spaces.Discrete(3), "box_goal": _BOX}.items()
    },
}

#: One kind for each family of action distributions.
ACTION_KINDS = ("discrete", "multidiscrete", "multibinary", "box", "gsde")

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"PPO": PPO, "A2C": A2C}
ALL_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    cls.__name__: cls
    for cls in (PPO, A2C, TRPO, MaskablePPO, RecurrentPPO, DQN, QRDQN, SAC, TQC, CrossQ, TD3, DDPG, ARS)
}


def kind_named(kind: str) -> Kind:
    """A kind by its name."""
    return KINDS[kind] if kind in KINDS else MORE_KINDS[kind]


def make_env(kind: str = "discrete", n_envs: int = N_ENVS) -> VecEnv:
    """The environment of a kind of agent."""
    spec = kind_named(kind)
    make = lambda: Monitor(spec.environment(spec.observations, spec.actions))  # noqa: E731
    env: VecEnv = DummyVecEnv([make] * n_envs)
    return env if spec.normalize is None else VecNormalize(env, **spec.normalize)


def build(algorithm: type[Any], kind: str = "discrete", env: VecEnv | None = None, **changes: Any) -> Any:
    """An agent of a kind: the same one, to the last bit, whenever it is asked for with the same arguments."""
    spec = kind_named(kind)
    policy_kwargs = {"net_arch": [6], **spec.policy_kwargs}
    arguments: dict[str, Any] = {"learning_rate": 0.01, "seed": 3, "device": "cpu"}
    if issubclass(algorithm, OnPolicyAlgorithm):
        arguments |= {"n_steps": N_STEPS}
    if issubclass(algorithm, (PPO, A2C)):
        arguments |= {"ent_coef": 0.01}
    if issubclass(algorithm, (PPO, MaskablePPO, RecurrentPPO)):
        arguments |= {"batch_size": N_STEPS, "n_epochs": 2}
    if issubclass(algorithm, TRPO):
        arguments |= {"batch_size": N_STEPS, "n_critic_updates": 2}
    if issubclass(algorithm, RecurrentPPO):
        policy_kwargs |= {"lstm_hidden_size": 4}
    if issubclass(algorithm, OffPolicyAlgorithm):
        arguments |= {"buffer_size": 64, "batch_size": 8, "train_freq": N_STEPS // 2, "gradient_steps": 2}
        arguments |= {"learning_starts": ROLLOUT}
    if issubclass(algorithm, (DQN, QRDQN)):
        arguments |= {"target_update_interval": ROLLOUT}
    if issubclass(algorithm, TD3):  # and DDPG
        arguments |= {"action_noise": NormalActionNoise(np.zeros(2), np.full(2, 0.3))}
    if issubclass(algorithm, QRDQN):
        policy_kwargs |= {"n_quantiles": 5}
    if issubclass(algorithm, TQC):
        policy_kwargs |= {"n_quantiles": 5, "n_critics": 2}
    if issubclass(algorithm, ARS):
        arguments |= {"n_delta": 2, "n_eval_episodes": 2}
    arguments |= {"policy_kwargs": policy_kwargs} | spec.arguments | changes
    policy = "MlpLstmPolicy" if issubclass(algorithm, RecurrentPPO) and spec.policy == "MlpPolicy" else spec.policy
    if issubclass(algorithm, RecurrentPPO) and spec.policy != "MlpPolicy":
        policy = spec.policy.replace("Policy", "LstmPolicy")
    agent = algorithm(policy, make_env(kind) if env is None else env, **arguments)
    agent.set_logger(Logger(None, [Record()]))
    return agent


def distilled(algorithm: type[Any] = PPO, kind: str = "discrete", distill: Any = None, **changes: Any) -> Any:
    """A self-distilled agent of a kind; by default its teacher is two rollouts old at most, and pulls hard."""
    return build(rlsd.SelfDistilled(algorithm), kind, distill=config() if distill is None else distill, **changes)


def config(**changes: Any) -> rlsd.DistillConfig:
    """Answers small enough for a test: the teacher lags, so that there is something to pull at."""
    answers: dict[str, Any] = {
        "teacher": rlsd.Snapshot(every=2 * ROLLOUT),
        "states": rlsd.Reservoir(capacity=64, batch_size=8),
        "strength": rlsd.Constant(0.7),
    }
    return rlsd.DistillConfig(**(answers | changes))


def stored(agent: Any, index: Tensor) -> Any:
    """The raw states in some slots of the agent's store."""
    return agent.distiller.states.gather(index.numpy(), index)


class Record(KVWriter):
    """Keeps what SB3's logger writes, one dict per dump."""

    def __init__(self) -> None:
        self.dumps: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.dumps.append(dict(key_values))

    def close(self) -> None:
        pass


def logged(agent: BaseAlgorithm) -> list[dict[str, Any]]:
    """What the agent's logger wrote, but for clock readings and the distillation's own metrics."""
    (record,) = agent.logger.output_formats
    assert isinstance(record, Record)
    return [
        {key: value for key, value in dump.items() if not key.startswith(("time/", "distill/"))}
        | {"steps": dump["time/total_timesteps"]}
        for dump in record.dumps
    ]


def generators() -> dict[str, Any]:
    """The state of every global random generator."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": torch.get_rng_state(),
    }


def scramble() -> None:
    """Leave every global random generator somewhere else, as a new process would."""
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)


def training_state(agent: Any) -> dict[str, Any]:
    """All that decides how the agent's own training goes on."""
    env = agent.get_env()
    normalize = agent.get_vec_normalize_env()
    buffer = getattr(agent, "replay_buffer", None)
    return {
        "policy": dict(agent.policy.state_dict()),
        "optimizer": {name: optimizer.state_dict() for name, optimizer in optimizers(agent).items()},
        "variables": {name: recursive_getattr(agent, name) for name in agent._get_torch_save_params()[1]},
        "generators": generators(),
        "action_space": agent.action_space.np_random.bit_generator.state,
        "last_obs": agent._last_obs,
        "starts": agent._last_episode_starts,
        "memory": [list(pair) for pair in getattr(agent, "_last_lstm_states", None) or ()],
        "steps": (agent.num_timesteps, agent._n_updates, agent._current_progress_remaining),
        "exploration": getattr(agent, "exploration_rate", None),
        "episodes": [(episode["r"], episode["l"]) for episode in agent.ep_info_buffer],
        "env": [inner.np_random.bit_generator.state for inner in env.unwrapped.envs],
        "statistics": None if normalize is None else [vars(r) for r in _statistics(normalize)],
        "returns": None if normalize is None else normalize.returns,
        "buffer": {k: v for k, v in vars(buffer).items() if _is_plain(v)} if buffer else None,
    }


def _is_plain(value: Any) -> bool:
    # HerReplayBuffer has an array of infos: objects, whose addresses are nobody's business.
    return isinstance(value, (int, dict)) or (isinstance(value, np.ndarray) and value.dtype != object)


def optimizers(agent: Any) -> dict[str, Optimizer]:
    """Every optimizer of an agent by its name."""
    names = [name for name in agent._get_torch_save_params()[0] if name.endswith("optimizer")]
    return {name: recursive_getattr(agent, name) for name in names}


def distillation_state(agent: Any) -> dict[str, Any]:
    """All that decides how the distillation goes on."""
    return {"tensors": agent.distiller.tensors(), "state": agent.distiller.state()}


def _statistics(normalize: VecNormalize) -> list[Any]:
    observed = normalize.obs_rms
    return [*(observed.values() if isinstance(observed, dict) else [observed]), normalize.ret_rms]


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two nested structures of tensors, arrays and plain values are not the same to the last bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        missing = [f"{path}/{key} is on one side only" for key in one.keys() ^ other.keys()]
        shared = [key for key in one if key in other]
        return missing + [d for key in shared for d in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return [f"{path}: {len(one)} items, {len(other)} items"]
        return [d for i, (a, b) in enumerate(zip(one, other, strict=True)) for d in differences(a, b, f"{path}/{i}")]
    if isinstance(one, (Tensor, np.ndarray)):
        a, b = (np.asarray(side.detach() if isinstance(side, Tensor) else side) for side in (one, other))
        if a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes():
            return []
        return [f"{path}: tensors differ"]
    same = one == other or (one != one and other != other)
    return [] if same else [f"{path}: {one!r} != {other!r}"]


def copied(structure: Any) -> Any:
    """A nested structure with every tensor and array copied, to compare with later."""
    if isinstance(structure, dict):
        return {key: copied(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [copied(value) for value in structure]
    if isinstance(structure, Tensor):
        return structure.detach().clone()
    return structure.copy() if isinstance(structure, np.ndarray) else structure


def patches(agent: Any) -> list[str]:
    """What is left on the agent that SB3 did not put there."""
    found = [f"agent.{name}" for name in ("train", "learn", "collect_rollouts", "save") if name in agent.__dict__]
    for owner, optimizer in optimizers(agent).items():
        found += [f"{owner}.{name}" for name in ("zero_grad", "step") if name in optimizer.__dict__]
        found += [f"a hook on {owner}.step"] * len(optimizer._optimizer_step_pre_hooks)
    hooked = [name for name, p in agent.policy.named_parameters() if p._post_accumulate_grad_hooks or p._backward_hooks]
    return found + [f"a hook on {name}" for name in hooked]


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Check that what happens inside draws no global random number."""
    before = copied(generators())
    yield
    assert not differences(before, generators()), "a global random number was drawn"
