"""Q-learners: the values by which they act."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import OBSERVATION_SPACES, disturb, observe, small_agent, vec_env

from rlsd.actors import actor_for
from rlsd.distributions import QValues

VECTOR = OBSERVATION_SPACES["vector"]
both = pytest.mark.parametrize("name", ["DQN", "QRDQN"])


def agent_and_values(name: str, **kwargs):
    agent = small_agent(name, **kwargs)
    disturb(agent.policy, 0.3)
    actor = actor_for(agent)
    return agent, actor.parameters(actor.module(agent.policy), observe(agent.observation_space))


@both
def test_the_greedy_action_is_the_one_with_the_largest_value(name):
    agent, values = agent_and_values(name)
    expected = agent.policy._predict(observe(VECTOR), deterministic=True)
    assert values.argmax(-1).tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 1, "always the same action tells nothing"


def test_dqns_values_are_those_of_its_network():
    agent, values = agent_and_values("DQN")
    assert torch.equal(values, agent.q_net(observe(VECTOR)))


def test_qrdqns_values_are_the_means_of_their_quantiles():
    agent, values = agent_and_values("QRDQN")
    quantiles = agent.policy.quantile_net(observe(VECTOR)).detach().numpy()
    assert quantiles.shape == (6, 7, 3)
    np.testing.assert_allclose(values.detach().numpy(), np.stack([q.mean(axis=0) for q in quantiles]), rtol=1e-5)


@both
def test_what_acts_is_the_network_and_not_its_target(name):
    agent, before = agent_and_values(name)
    module = actor_for(agent).module(agent.policy)
    target = agent.policy.q_net_target if name == "DQN" else agent.policy.quantile_net_target
    assert module is not target
    disturb(target)
    assert torch.equal(actor_for(agent).parameters(module, observe(VECTOR)), before)


@both
@pytest.mark.parametrize("kind", ["image", "discrete"])
def test_whatever_it_sees(name, kind):
    policy = "CnnPolicy" if kind == "image" else "MlpPolicy"
    space = OBSERVATION_SPACES[kind]
    env = vec_env(space, small_agent(name).action_space)
    agent, values = agent_and_values(name, env=env, policy=policy, buffer_size=16)
    assert values.argmax(-1).tolist() == agent.policy._predict(observe(space), deterministic=True).tolist()


@both
def test_each_agent_has_a_scale_of_its_own(name):
    one, other = actor_for(small_agent(name)), actor_for(small_agent(name))
    assert isinstance(one.family, QValues)
    one.family.calibrate(torch.tensor([[0.0, 100.0, 50.0]]))
    assert one.family.tau != other.family.tau
