"""Raw states are recorded through what stands around VecNormalize."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agents import IMAGE_CHW, VECTOR
from gymnasium import spaces
from helpers import SMALL_CNN, normalized_env, small_agent, small_ppo
from stable_baselines3.common.vec_env import VecEnvWrapper, VecFrameStack

import rlsd
from rlsd.observations import Normalization, as_items, from_items

HOLDING = {"teacher": {"every": 16}, "states": {"capacity": 64, "batch_size": 4}, "strength": 0.5}
STACKS = {
    "vector": (VECTOR, {}, None),
    "dict": (spaces.Dict({"camera": IMAGE_CHW, "speed": VECTOR}), {"norm_obs_keys": ["speed"]}, None),
    "matrix": (spaces.Box(-1.0, 1.0, (2, 3), np.float32), {}, "first"),
}


@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("n_stack", [2, 4])
def test_stacked_frames_shown_through_the_statistics_are_what_the_policy_saw(kind, n_stack):
    space, kwargs, order = STACKS[kind]
    env = VecFrameStack(normalized_env(space, training=False, **kwargs), n_stack, order)
    policy = "MultiInputPolicy" if kind == "dict" else "MlpPolicy"
    agent = small_ppo(env, policy, policy_kwargs=SMALL_CNN if kind == "dict" else None)
    rlsd.distill(agent, HOLDING)
    compared = []

    def look(agent, states):
        seen = as_items(agent.rollout_buffer.observations)
        items = {key: torch.from_numpy(array) for key, array in states.items()}
        for key, shown in as_items(Normalization.of(agent)(from_items(items))).items():
            expected = torch.from_numpy(seen[key].reshape(shown.shape))
            compared.append((shown.to(expected.dtype), expected))

    agent.distiller.observers.append(SimpleNamespace(observe_states=look))
    agent.learn(48)
    assert len(compared) >= 3
    for shown, expected in compared:
        torch.testing.assert_close(shown, expected, rtol=1e-4, atol=1e-4)


def test_an_agent_that_sees_stacks_of_normalised_frames_is_held():
    ends = []
    for strength in (0.0, 10.0):
        agent = small_ppo(VecFrameStack(normalized_env(), 3))
        rlsd.distill(agent, HOLDING | {"strength": strength})
        agent.learn(64)
        ends.append(agent.policy.action_net.weight.detach().clone())
    assert agent.distiller.deposits > 0
    assert not torch.equal(*ends)


def test_an_ars_agent_that_sees_stacks_of_normalised_frames_is_held():
    env = VecFrameStack(normalized_env(actions=spaces.Discrete(2)), 3)
    agent = rlsd.distill(small_agent("ARS", env), HOLDING | {"teacher": {"every": 1}})
    agent.learn(64)
    assert agent.distiller.deposits > 0


class Halved(VecEnvWrapper):
    """Shows every other number."""

    def __init__(self, venv):
        low = venv.observation_space.low[::2]
        super().__init__(venv, spaces.Box(low, -low, dtype=np.float32))

    def reset(self):
        return self.venv.reset()[:, ::2]

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = info["terminal_observation"][::2]
        return observations[:, ::2], rewards, dones, infos


def test_what_nobody_knows_around_vecnormalize_is_kept_as_it_was_seen_and_said_when_the_agent_is_built():
    agent = small_ppo(Halved(normalized_env()))
    with pytest.warns(UserWarning, match="a Halved around VecNormalize changes what the policy sees"):
        rlsd.distill(agent, HOLDING)
    agent.learn(64)
    assert agent.distiller.deposits > 0
    assert agent.distiller.states.gather(np.arange(2), torch.arange(2)).shape == (2, 2)
