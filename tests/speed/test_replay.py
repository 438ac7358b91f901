"""The tensor replay buffers hand out what SB3's does, to the last bit, and are saved as SB3's."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from agents import IMAGE_CHW, VECTOR, differences, generators
from gymnasium import spaces
from helpers import agent_with_buffer, collect, fill
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlsd
from rlsd import memory
from rlsd.sources import ReplaySource
from rlsd.speed import replay
from rlsd.speed.replay import DeviceReplayBuffer, TensorReplayBuffer

DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(-1.0, 1.0, (2,), np.float64)
KINDS = [(VECTOR, DISCRETE), (VECTOR, BOX), (IMAGE_CHW, DISCRETE), (spaces.Discrete(5), DISCRETE)]


def empty(kind: str, rows: int, envs: int, space: Any = VECTOR, actions: Any = DISCRETE) -> Any:
    """SB3's buffer, the same lent the class, or one whose transitions lie on "the device"."""
    buffer = ReplayBuffer(rows * envs, space, actions, device="cpu", n_envs=envs)
    if kind == "device":
        return DeviceReplayBuffer(buffer)
    if kind == "lent":
        buffer.__class__ = TensorReplayBuffer
    return buffer


def add(buffer: Any, n: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    envs, space = buffer.n_envs, buffer.observation_space
    shape = (envs, *space.shape)
    for _ in range(n):
        seen = [(rng.normal(size=shape) * 9).astype(space.dtype) for _ in range(2)]
        if isinstance(space, spaces.Discrete):
            seen = [rng.integers(0, 5, envs) for _ in range(2)]
        acted = (
            rng.integers(0, 4, envs) if isinstance(buffer.action_space, spaces.Discrete) else rng.normal(size=(envs, 2))
        )
        infos = [{"TimeLimit.truncated": bool(rng.random() < 0.5)} for _ in range(envs)]
        buffer.add(*seen, acted, rng.normal(size=envs), rng.random(envs) < 0.4, infos)


def samples(buffer: Any, env: Any = None) -> Any:
    np.random.seed(3)  # noqa: NPY002
    drawn = [tuple(buffer.sample(6, env)) for _ in range(3)]
    return drawn, generators()["numpy"]


@pytest.mark.parametrize("kind", ["lent", "device"])
@pytest.mark.parametrize("steps", [3, 7, 10, 25])
@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize(("space", "actions"), KINDS)
def test_samples_are_sb3s(kind: str, steps: int, envs: int, space: Any, actions: Any) -> None:
    own, other = (empty(each, 7, envs, space, actions) for each in ("own", kind))
    add(own, steps), add(other, steps)
    assert not differences(samples(own), samples(other))
    add(own, 2, seed=1), add(other, 2, seed=1)
    assert not differences(samples(own), samples(other))
    assert (own.pos, own.full, own.size()) == (other.pos, other.full, other.size())


@pytest.mark.parametrize("kind", ["lent", "device"])
def test_samples_are_normalised_as_sb3_does(kind: str) -> None:
    from agents import TinyEnv

    env = VecNormalize(DummyVecEnv([lambda: TinyEnv(VECTOR, DISCRETE)]), clip_obs=0.8)
    own, other = (empty(each, 7, 1) for each in ("own", kind))
    add(own, 5), add(other, 5)
    assert not differences(samples(own, env), samples(other, env))


@pytest.mark.parametrize("kind", ["lent", "device"])
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_what_is_saved_is_sb3s_buffer(kind: str, copier: Any) -> None:
    own, other = (empty(each, 7, 2) for each in ("own", kind))
    add(own, 9), add(other, 9)
    other.sample(4)
    twin = copier(other)
    assert type(twin) is ReplayBuffer
    assert vars(twin).keys() == vars(own).keys()
    assert not differences({k: v for k, v in vars(own).items() if isinstance(v, np.ndarray)}, _arrays(twin))
    add(own, 3, 1), add(twin, 3, 1)
    assert not differences(samples(own), samples(twin))


def _arrays(buffer: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(buffer).items() if isinstance(value, np.ndarray)}


def test_a_buffer_on_the_device_is_read_as_arrays_and_takes_over_what_was_there() -> None:
    own = empty("own", 7, 2)
    add(own, 4)
    other = DeviceReplayBuffer(copy.deepcopy(own))
    add(own, 6, 1), add(other, 6, 1)
    np.testing.assert_array_equal(np.asarray(other.observations), own.observations)
    np.testing.assert_array_equal(other.actions[np.arange(3)], own.actions[np.arange(3)])
    np.testing.assert_array_equal(
        other.observations.reshape(14, 3)[np.array([5, 2])], own.observations.reshape(14, 3)[[5, 2]]
    )
    assert other.observations.nbytes == own.observations.nbytes and len(other.dones) == 7
    assert other.observations.dtype == own.observations.dtype
    other.reset(), own.reset()
    add(own, 2), add(other, 2)
    assert not differences(samples(own), samples(other))


@pytest.mark.parametrize("states", [rlsd.ReplayBuffer(batch_size=4), rlsd.Reservoir(capacity=40, batch_size=4)])
def test_distillation_reads_a_buffer_on_the_device(states: Any) -> None:
    drawn = []
    for on_device in (False, True):
        agent = agent_with_buffer(6, 2)
        if on_device:
            agent.replay_buffer = DeviceReplayBuffer(agent.replay_buffer)
        store, source = states.build(np.random.SeedSequence(0), agent), ReplaySource()
        for first in (0, 4, 8):
            fill(agent, first, 4)
            slots = collect(store, agent, source)
            picked = store.draw(1)[0]
            drawn.append((slots, store.gather(picked, torch.from_numpy(picked))))
    assert not differences(drawn[:3], drawn[3:])


def test_other_buffers_are_left_to_sb3() -> None:
    own = type("Own", (ReplayBuffer,), {})
    optimized = ReplayBuffer(
        8, VECTOR, DISCRETE, device="cpu", optimize_memory_usage=True, handle_timeout_termination=False
    )
    others = [
        own(8, VECTOR, DISCRETE, device="cpu"),
        NStepReplayBuffer(8, VECTOR, DISCRETE, device="cpu"),
        DictReplayBuffer(8, spaces.Dict({"a": VECTOR}), DISCRETE, device="cpu"),
        optimized,
        None,
    ]
    assert not any(TensorReplayBuffer.suits(buffer) for buffer in others)


def test_a_buffer_that_does_not_fit_stays_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_with_buffer(8, 2)
    buffer = agent.replay_buffer
    buffer.device = torch.device("meta")  # any that is not the CPU
    monkeypatch.setenv(memory.VARIABLE, "100")
    with pytest.warns(UserWarning, match=r"stays on the host: its \d.* more than the budget of 100 bytes on meta"):
        replay.lend(agent)
    assert agent.replay_buffer is buffer and type(buffer) is ReplayBuffer


def test_learning_lends_the_class_and_takes_it_back() -> None:
    agent = rlsd.accelerate(agent_with_buffer(16, 2))
    agent.learn(32, callback=lambda locals_, _: type(agent.replay_buffer) is TensorReplayBuffer)
    assert agent.num_timesteps == 32
    assert type(agent.replay_buffer) is ReplayBuffer
    assert not any(key.startswith("_rlsd") for key in vars(agent.replay_buffer))


def test_the_way_back_brings_a_buffer_from_the_device() -> None:
    agent = rlsd.accelerate(agent_with_buffer(6, 2))
    fill(agent, 0, 4)
    kept = agent.replay_buffer
    agent.replay_buffer = DeviceReplayBuffer(kept)
    rlsd.accelerate(agent, None)
    assert type(agent) is DQN and type(agent.replay_buffer) is ReplayBuffer
    np.testing.assert_array_equal(agent.replay_buffer.observations, kept.observations)
